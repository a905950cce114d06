"""The repository as a folder: what is served, and what waits for signatures.

    <folder>/metadata/   served: timestamp.json, <n>.snapshot.json, <n>.root.json, <n>.<role>.json
    <folder>/targets/    served: images/<project>/<image>/<sha256>.<version>.json
    <folder>/pending/    <role>.json, signed by some but not yet by enough

Rules, told first
- What is served is added and never changed, except timestamp.json. A web server or cache may serve the two folders.
- A role's next version waits in `pending/`. Each signer adds a signature; with enough of them `settle` moves it over.
  An edit of what waits makes its signatures void.
- The folder may be copied to a computer without a network, signed there, and the signatures merged back.
- Desktops see what is settled only when the coordinator lists it (`renew`). It checks everything again first: what
  somebody laid into the folder by hand is not listed, and is reported.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError

from deskgrid.host.files import Locked, locked, write_atomic
from deskgrid.images.trust import repository
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.pointer import check_pointer, decode
from deskgrid.images.trust.roles import (
    METADATA_BYTES,
    ROOT,
    SNAPSHOT,
    SNAPSHOT_LIFE,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_LIFE,
    delegated,
    entry_of,
    owner,
    project_roles,
)
from deskgrid.images.trust.tufapi import (
    Key,
    Metadata,
    MetaFile,
    Root,
    Signer,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)
from deskgrid.images.trust.words import LATEST, Entry, Pointer, Version

S = TypeVar("S", Root, Snapshot, Targets, Timestamp)
Any_ = Metadata[Any]
_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.(.+)\.json\Z")


class Renewed(msgspec.Struct, frozen=True):
    """What `Shelf.renew` did. problems: what was settled but is not listed, a sentence each."""

    snapshot: int
    timestamp: int
    expires_at: datetime
    problems: tuple[str, ...] = ()


class Shelf:
    """A repository in a folder. Whoever changes it holds its lock (`editing`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata, self.targets, self.waiting = folder / "metadata", folder / "targets", folder / "pending"

    @contextmanager
    def editing(self, new: bool = False) -> Iterator[None]:
        """Hold the repository's lock. Raises: TrustError when it is no repository, or another process changes it."""
        if not new and not self.metadata.is_dir():
            raise TrustError(
                Fault.REQUEST,
                "no-repository",
                f"repository {self.folder}: there is none; `deskgrid trust init` makes one",
            )
        try:
            for folder in (self.metadata, self.targets, self.waiting):
                folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "lock", wait=False):
                yield
        except Locked:
            raise TrustError(
                Fault.DESKTOP, "locked", f"repository {self.folder}: another process changes it; try again in a moment"
            ) from None
        except OSError as error:
            if error.filename is None:
                raise
            raise TrustError(
                Fault.DESKTOP, "disk", f"repository {self.folder}: {error.filename}: {error.strerror}"
            ) from None

    # -- reading ----------------------------------------------------------------------------------------------

    def versions(self, role: str) -> Sequence[int]:
        """The versions of a role that are settled, in order."""
        found = (_NUMBERED.match(path.name) for path in self.metadata.glob(f"*.{role}.json"))
        return sorted(int(match[1]) for match in found if match and match[2] == role)

    def settled(self, role: str, version: int | None = None) -> Any_ | None:
        """A settled version of a role's metadata, the newest by default. Raises: TrustError when it can't be read."""
        if role == TIMESTAMP:
            return _load(self.metadata / "timestamp.json")
        number = version or max(self.versions(role), default=0)
        return _load(self.metadata / f"{number}.{role}.json") if number else None

    def pending(self, role: str) -> Any_ | None:
        """What waits for signatures in a role."""
        return _load(self.waiting / f"{role}.json")

    def newest(self, role: str) -> Any_ | None:
        """What waits, or else what is settled."""
        return self.pending(role) or self.settled(role)

    def root(self) -> Root:
        """The settled root, or the first one that still waits. Raises: TrustError when there is none."""
        found = self.settled(ROOT) or self.pending(ROOT)
        if found is None:
            raise TrustError(Fault.REPOSITORY, "no-root", f"repository {self.folder}: it has no root; copy it again")
        return cast(Root, found.signed)

    def roles(self) -> Sequence[str]:
        """Root, targets, and the roles of all projects."""
        found = self.newest(TARGETS)
        return (ROOT, TARGETS, *(delegated(found.signed) if found else ()))

    def verification(
        self, role: str, metadata: Any_, delegators: Sequence[Any_ | None] = ()
    ) -> Sequence[VerificationResult]:
        """Who has signed a role's metadata; all results must be good. delegators: of whom else but the settled one."""
        payload, signatures = metadata.signed_bytes, metadata.signatures
        if role == ROOT:
            before = self.settled(ROOT, metadata.signed.version - 1) if metadata.signed.version > 1 else None
            old = before.signed if before else metadata.signed
            return [signed.get_verification_result(ROOT, payload, signatures) for signed in (old, metadata.signed)]
        delegator = ROOT if role in (TARGETS, SNAPSHOT, TIMESTAMP) else TARGETS
        found = delegators or (self.settled(delegator) or self.pending(delegator),)
        return [
            by.signed.get_verification_result(role, payload, signatures)
            for by in found
            if by is not None and (delegator == ROOT or role in delegated(by.signed))
        ]

    def manifest(self, path: str, entry: Entry) -> bytes:
        """A target's content. Raises: TrustError when it is not there, or is not what is listed."""
        try:
            content = (self.targets / _place(path, entry)).read_bytes()
        except OSError as error:
            raise TrustError(
                Fault.REPOSITORY, "no-manifest", f"repository {self.folder}: {path} can't be read: {error.strerror}"
            ) from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise TrustError(
                Fault.REPOSITORY,
                "mixed",
                f"repository {self.folder}: {path} is not what the researcher signed; sign nothing",
            )
        return content

    def pointer(self, targets: Targets, version: Version) -> Pointer | None:
        """The pointer of an image that a role lists."""
        entry = entry_of(targets, version.latest)
        return decode(version.latest, self.manifest(version.latest, entry)) if entry else None

    # -- changing ---------------------------------------------------------------------------------------------

    def draft(self, role: str, now: datetime) -> Any_:
        """What the next version of a role starts from: what waits or is settled, unsigned. Raises: TrustError."""
        base, settled = self.newest(role), self.settled(role)
        if base is None:
            if role not in self.roles():
                raise TrustError(
                    Fault.REQUEST, "no-role", f"role {role}: there is none; `deskgrid trust add-key {role} …` makes it"
                )
            return repository.first_project(now)
        return repository.again(base, settled.signed.version + 1 if settled else 1, now)

    def keep(self, role: str, draft: Any_) -> None:
        """Let a draft wait for signatures."""
        write_atomic(self.waiting / f"{role}.json", draft.to_bytes())

    def put(self, path: str, content: bytes, entry: Entry) -> None:
        """Keep a target's content."""
        place = self.targets / _place(path, entry)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, content)

    def propose(
        self, version: Version, manifest: bytes, now: datetime, latest: bool = True, back: bool = False
    ) -> Entry:
        """Let a version wait for its researcher's signature. latest: it is the new latest; back: also if it is older.

        Raises: TrustError when the name and version are published with other content.
        """
        role, _ = project_roles(version.project)
        draft = self.draft(role, now)
        entry = repository.propose(draft, version, manifest)
        self.put(version.path, manifest, entry)
        if latest:
            self._point(role, draft, version, back)
        self.keep(role, draft)
        return entry

    def point(self, version: Version, now: datetime, back: bool = False) -> None:
        """Let a pointer to a published version wait for its researcher's signature. Raises: TrustError."""
        role, _ = project_roles(version.project)
        draft = self.draft(role, now)
        self._point(role, draft, version, back)
        self.keep(role, draft)

    def _point(self, role: str, draft: Any_, version: Version, back: bool) -> None:
        settled = self.settled(role)
        before = self.pointer(settled.signed, version) if settled else None
        approver = self.settled(project_roles(version.project)[1])
        approved = entry_of(approver.signed, version.latest) if approver else None
        content = repository.point(draft, version, before, back, approved)
        entry = entry_of(draft.signed, version.latest)
        assert entry is not None
        self.put(version.latest, content, entry)

    def approve(self, version: Version, now: datetime) -> None:
        """Let what the researcher signed of a version, and of the pointer to it, wait for its approver's signature."""
        researcher, approver = project_roles(version.project)
        theirs = self.settled(researcher)
        if theirs is None:
            raise TrustError(
                Fault.REQUEST, "not-proposed", f"{version}: the role {researcher} has not signed anything yet"
            )
        draft = self.draft(approver, now)
        entry = repository.approve(draft, theirs.signed, version.path)
        self.manifest(version.path, entry)
        pointer = self.pointer(theirs.signed, version)
        if pointer is not None and pointer.version == version.version:
            repository.approve(draft, theirs.signed, version.latest)
        self.keep(approver, draft)

    def revoke(self, role: str, version: Version, why: str, now: datetime) -> None:
        """Let a revocation wait for the signature of one of the two roles. Raises: TrustError."""
        draft = self.draft(role, now)
        repository.revoke(draft, version, why)
        self.keep(role, draft)

    def signable(self, signer: Signer) -> Sequence[str]:
        """The roles in which something waits that this key may sign."""
        found = []
        for role in self.roles():
            waits = self.pending(role)
            if waits is None:
                continue
            results = self.verification(role, waits, (self.settled(_above(role)), self.pending(_above(role))))
            if signer.public_key.keyid in {keyid for result in results for keyid in (*result.signed, *result.unsigned)}:
                found.append(role)
        return found

    def sign(self, signer: Signer, roles: Sequence[str] = ()) -> Sequence[str]:
        """Sign what waits and this key may sign; return the roles. roles: only these. The caller has shown it."""
        mine = [role for role in self.signable(signer) if not roles or role in roles]
        for role in mine:
            waits = cast(Any_, self.pending(role))
            _sign(role, waits, signer)
            self.keep(role, waits)
        return mine

    def merge(self, other: "Shelf") -> Sequence[str]:
        """Take over the signatures of a copy of this repository; return the roles that gained one."""
        gained = []
        for role in self.roles():
            mine, theirs = self.pending(role), other.pending(role)
            if mine is None or theirs is None or mine.signed_bytes != theirs.signed_bytes:
                continue
            new = {keyid: each for keyid, each in theirs.signatures.items() if keyid not in mine.signatures}
            if new:
                mine.signatures.update(new)
                self.keep(role, mine)
                gained.append(role)
        return gained

    def settle(self) -> Sequence[str]:
        """Move what has enough signatures to what is served; return the roles. Raises: TrustError."""
        moved = []
        for role in self.roles():
            waits = self.pending(role)
            if waits is None or not self.complete(role, waits):
                continue
            self.check(role, self.settled(role), waits)
            write_atomic(self.metadata / f"{waits.signed.version}.{role}.json", waits.to_bytes())
            (self.waiting / f"{role}.json").unlink()
            moved.append(role)
        return moved

    def complete(self, role: str, metadata: Any_) -> bool:
        """Whether enough of the right keys have signed."""
        if role not in (ROOT,) and self.settled(_above(role)) is None:
            return False
        results = self.verification(role, metadata)
        return bool(results) and all(results)

    def check(self, role: str, before: Any_ | None, after: Any_) -> None:
        """Raises: TrustError when `after` may not follow `before`."""
        if role in (ROOT, TARGETS):
            return
        was = before.signed if before else None
        repository.check_successor(role, was, after.signed)
        for path in after.signed.targets:
            entry = entry_of(after.signed, path)
            assert entry is not None
            if path.endswith(f"/{LATEST}.json"):
                old = entry_of(was, path) if was else None
                seen = decode(path, self.manifest(path, old)) if old else None
                check_pointer(path, seen, decode(path, self.manifest(path, entry)))

    def rotate(
        self,
        role: str,
        now: datetime,
        add: Sequence[Key] = (),
        remove: Sequence[str] = (),
        threshold: int | None = None,
    ) -> Sequence[str]:
        """Let a change of keys wait for the administrators' signatures; return the roles that must be signed.

        Args:
            role: `administrators`, `online`, `root`, `targets`, or a project's role, which is made if it is new.
            add: keys. remove: key ids. threshold: how many of the keys must sign; unchanged by default.
        """
        if role in repository.GROUPS:
            root = self.draft(ROOT, now)
            repository.edit_root(root, role, add, remove, threshold)
            self.keep(ROOT, root)
            below = [each for each in repository.GROUPS[role] if each == TARGETS]
            delegator: Any_ = root
        else:
            delegator = self.draft(TARGETS, now)
            repository.edit_project(self.root(), delegator, role, add, remove, threshold)
            self.keep(TARGETS, delegator)
            below = [role]
        changed = [_above(role) if role not in repository.GROUPS else ROOT]
        for each in below:
            newest = self.newest(each)
            if newest is not None and not all(self.verification(each, newest, (delegator,))):
                self.keep(each, self.draft(each, now))
                changed.append(each)
        return changed

    # -- online -----------------------------------------------------------------------------------------------

    def renew(self, signer: Signer, now: datetime) -> Renewed:
        """List what is settled, and say that it is current. Called as often as one likes; writes only when it is due.

        Raises: TrustError when there is nothing to list, or `signer` is not root's online key.
        """
        root = self.settled(ROOT)
        if root is None or self.settled(TARGETS) is None:
            raise TrustError(
                Fault.SIGNERS,
                "unsigned",
                f"repository {self.folder}: root and targets wait for signatures; see `deskgrid trust status`",
            )
        if signer.public_key.keyid not in root.signed.roles[TIMESTAMP].keyids:
            raise TrustError(
                Fault.REQUEST, "wrong-key", f"key {owner(signer.public_key)}: root does not name it as the online key"
            )
        problems: list[str] = []
        snapshot = self._renew_snapshot(signer, now, problems)
        timestamp = self._renew_timestamp(signer, now, snapshot)
        return Renewed(snapshot.signed.version, timestamp.signed.version, timestamp.signed.expires, tuple(problems))

    def _renew_snapshot(self, signer: Signer, now: datetime, problems: list[str]) -> Metadata[Snapshot]:
        before = self.settled(SNAPSHOT)
        meta = self._meta(before.signed.meta if before else {}, problems)
        good = before is not None and self.complete(SNAPSHOT, before)
        if (
            before is not None
            and good
            and before.signed.meta == meta
            and before.signed.expires - now > SNAPSHOT_LIFE / 2
        ):
            return before
        snapshot = repository.next_snapshot(before.signed if before else None, meta, now)
        _sign(SNAPSHOT, snapshot, signer)
        write_atomic(self.metadata / f"{snapshot.signed.version}.snapshot.json", snapshot.to_bytes())
        return snapshot

    def _renew_timestamp(self, signer: Signer, now: datetime, snapshot: Metadata[Snapshot]) -> Metadata[Timestamp]:
        before = self.settled(TIMESTAMP)
        version = snapshot.signed.version
        lists = repository.listed((self.metadata / f"{version}.snapshot.json").read_bytes(), version)
        if before is not None and before.signed.snapshot_meta == lists and self.complete(TIMESTAMP, before):
            left = before.signed.expires - now
            if TIMESTAMP_LIFE * 0.75 < left <= TIMESTAMP_LIFE:
                return before
        timestamp = repository.next_timestamp(before.signed if before else None, lists, now)
        _sign(TIMESTAMP, timestamp, signer)
        write_atomic(self.metadata / "timestamp.json", timestamp.to_bytes())
        return timestamp

    def _meta(self, before: Mapping[str, MetaFile], problems: list[str]) -> Mapping[str, MetaFile]:
        meta = dict(before)
        targets = cast(Any_, self.settled(TARGETS))
        for role in (TARGETS, *delegated(targets.signed)):
            listed = before[f"{role}.json"].version if f"{role}.json" in before else 0
            for version in (v for v in self.versions(role) if v > listed):
                try:
                    content = self._publishable(role, listed, version)
                except TrustError as error:
                    problems.append(str(error))
                    break
                meta[f"{role}.json"], listed = repository.listed(content, version), version
            if listed and not self.complete(role, cast(Any_, self.settled(role, listed))):
                problems.append(
                    f"role {role}: version {listed} is not signed by enough of its keys of today: sign again"
                )
        return meta

    def _publishable(self, role: str, listed: int, version: int) -> bytes:
        found = self.settled(role, version)
        assert found is not None
        if version == max(self.versions(role)) and not self.complete(role, found):
            raise TrustError(
                Fault.SIGNERS,
                "unsigned",
                f"role {role}: version {version} is not signed by enough of its keys: sign again",
            )
        self.check(role, self.settled(role, listed) if listed else None, found)
        return (self.metadata / f"{version}.{role}.json").read_bytes()


def renew(folder: Path, signer: Signer, now: datetime) -> Renewed:
    """What the coordinator calls every few minutes: settle, list, say that it is current. Raises: TrustError."""
    shelf = Shelf(folder)
    with shelf.editing():
        problems: tuple[str, ...] = ()
        try:
            shelf.settle()
        except TrustError as error:
            problems = (str(error),)
        done = shelf.renew(signer, now)
        return msgspec.structs.replace(done, problems=(*problems, *done.problems))


def keys_of(shelf: Shelf, role: str) -> Mapping[str, Key]:
    """The keys of a role, by id, also if they wait."""
    by = shelf.newest(_above(role))
    if by is None:
        return {}
    return {keyid: by.signed.get_key(keyid) for keyid in by.signed.get_delegated_role(role).keyids}


def _above(role: str) -> str:
    return ROOT if role in (ROOT, TARGETS, SNAPSHOT, TIMESTAMP) else TARGETS


def _place(path: str, entry: Entry) -> str:
    folder, _, file = path.rpartition("/")
    return f"{folder}/{entry.sha256}.{file}"


def _sign(role: str, metadata: Any_, signer: Signer) -> None:
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        raise (
            error.__cause__
            if isinstance(error.__cause__, TrustError)
            else TrustError(Fault.REQUEST, "not-signed", f"role {role}: the key does not sign: {error}")
        ) from None


def _load(path: Path) -> Any_ | None:
    try:
        if path.stat().st_size > METADATA_BYTES:
            raise TrustError(
                Fault.REPOSITORY,
                "too-long",
                f"metadata {path}: got {path.stat().st_size} bytes, expected {METADATA_BYTES}",
            )
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError:
        return None
    except RepositoryError as error:
        raise TrustError(
            Fault.REPOSITORY, "damaged", f"metadata {path}: can't be read: {error}; copy it again"
        ) from None
