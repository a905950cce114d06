"""What people do with a repository: propose, approve, revoke, change keys, sign, and let what is signed be served.

Rules:
- A change makes a draft that waits; `sign` adds a signature; `settle` moves what has enough of them to what is served.
- `settle` checks what may follow what (repository.py), whoever signed it.
- Whoever signs has been shown what: `status.waiting` says it. Nothing here asks a person.
- What is signed is the very bytes that were shown, or that were made here; the folder is not asked again what they are.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec
from tuf.api.exceptions import UnsignedMetadataError

from deskgrid.host.system.files import write_atomic
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.form import check_form
from deskgrid.images.trust.pointer import check_pointer, decode
from deskgrid.images.trust.roles import (
    OFFLINE,
    ROOT,
    TARGETS,
    check_project_keys,
    check_root_keys,
    delegated,
    entry_of,
    key_bytes,
    project_roles,
    projects,
)
from deskgrid.images.trust.signing import repository
from deskgrid.images.trust.signing.folder import RepositoryFolder
from deskgrid.images.trust.signing.held import SignersMemory, digest_of
from deskgrid.images.trust.signing.served import Any_, above
from deskgrid.images.trust.tufapi import Key, Signer
from deskgrid.images.trust.values import LATEST, ListedVersion, Version


class Drafted(msgspec.Struct, frozen=True):
    """A project's draft as it was made here: its bytes, and the paths that it may change."""

    payload: bytes
    paths: frozenset[str]


class RepositoryEditor(RepositoryFolder):
    """A repository in a folder. Whoever changes it holds its lock (`editing`)."""

    def __init__(self, folder: Path, held: SignersMemory | None = None) -> None:
        """See `RepositoryFolder`."""
        super().__init__(folder, held)
        self.drafted: dict[str, Drafted] = {}

    def begin(self) -> None:
        """Hold the very first root as it waits here, for who is about to be shown it; nothing if there is a root."""
        waits = self.pending(ROOT)
        if self.held is None and waits is not None and waits.signed.version == 1 and not self.versions(ROOT):
            self.held = SignersMemory(digest_of(waits))

    def _draft(self, role: str, now: datetime, *paths: str) -> Any_:
        """The next version of a project's role, for a change of these paths: what waits says nothing of them."""
        draft, before = self.draft(role, now), self.settled(role) or self.former(role)
        for path in paths:
            draft.signed.targets.pop(path, None)
            if before is not None and path in before.signed.targets:
                draft.signed.targets[path] = before.signed.targets[path]
        return draft

    def _prepare(self, role: str, draft: Any_, *paths: str) -> None:
        self.keep(role, draft)
        self.drafted[role] = Drafted(draft.signed_bytes, frozenset(paths))

    def propose(
        self, version: Version, manifest: bytes, now: datetime, latest: bool = True, back: bool = False
    ) -> ListedVersion:
        """Let a version wait for its researcher's signature. latest: it is the new latest; back: also if it is older.

        Raises: TrustError when the name and version are published with other content.
        """
        role, _ = project_roles(version.project)
        paths = (version.path, *([version.latest] if latest else []))
        draft = self._draft(role, now, *paths)
        entry = repository.propose(draft, version, manifest)
        self.put(version.path, manifest, entry)
        if latest:
            self._point(role, draft, version, back)
        self._prepare(role, draft, *paths)
        return entry

    def point(self, version: Version, now: datetime, back: bool = False) -> None:
        """Let a pointer to a published version wait for its researcher's signature. Raises: TrustError."""
        role, _ = project_roles(version.project)
        draft = self._draft(role, now, version.latest)
        self._point(role, draft, version, back)
        self._prepare(role, draft, version.latest)

    def _point(self, role: str, draft: Any_, version: Version, back: bool) -> None:
        settled = self.settled(role)
        before = self.pointer(settled.signed, version) if settled else None
        approver = self.settled(project_roles(version.project)[1])
        approved = entry_of(approver.signed, version.latest) if approver else None
        was = entry_of(settled.signed, version.latest) if settled else None
        content = repository.point(draft, version, before, back, approved, was)
        entry = entry_of(draft.signed, version.latest)
        assert entry is not None
        self.put(version.latest, content, entry)

    def approve(self, version: Version, now: datetime, shown: Mapping[str, ListedVersion | None] | None = None) -> None:
        """Let what the researcher signed of a version, and of the pointer to it, wait for its approver's signature.

        Args:
            shown: what the approver was shown, by path; without it, whatever the researcher signed.
        """
        researcher, approver = project_roles(version.project)
        theirs = self.settled(researcher)
        if theirs is None:
            raise TrustError(
                Duty.REQUEST, "not-proposed", f"{version}: the role {researcher} has not signed anything yet"
            )
        pointer = self.pointer(theirs.signed, version)
        is_latest = pointer is not None and pointer.version == version.version
        paths = (version.path, *([version.latest] if is_latest else []))
        draft = self._draft(approver, now, *paths)
        for path in paths:
            entry = repository.approve(draft, theirs.signed, path)
            if shown is not None and entry.plain != shown.get(path):
                raise changed(f"image {version}: it")
            self.manifest(path, entry)
        self._prepare(approver, draft, *paths)

    def revoke(self, role: str, version: Version, why: str, now: datetime) -> None:
        """Let a revocation wait for the signature of one of the two roles. Raises: TrustError."""
        draft = self._draft(role, now, version.path)
        repository.revoke(draft, version, why)
        self._prepare(role, draft, version.path)

    def signable(self, signer: Signer) -> Sequence[str]:
        """The roles in which something waits that this key may sign."""
        return [role for role in self.roles() if (waits := self.fit(role)) and self._may(signer, role, waits)]

    def _may(self, signer: Signer, role: str, waits: Any_) -> bool:
        results = self.verification(role, waits, (self.settled(above(role)), self.fit(above(role))))
        mine = signer.public_key
        keys = {keyid: key for result in results for keyid, key in (*result.signed.items(), *result.unsigned.items())}
        return mine.keyid in keys and key_bytes(keys[mine.keyid]) == key_bytes(mine)

    def sign(
        self, signer: Signer, roles: Sequence[str] = (), shown: Mapping[str, bytes] | None = None
    ) -> Sequence[str]:
        """Sign what waits and this key may sign; return the roles.

        Args:
            roles: only these. shown: what a person was shown of each, as it is signed; without it, whatever waits.

        Raises: TrustError when something else waits than was shown, or what waits may not follow what was seen.
        """
        signed = []
        for role in roles or self.roles():
            waits = self.pending(role)
            if waits is None or not self._may(signer, role, waits):
                continue
            if shown is not None and shown.get(role) != waits.signed_bytes:
                raise changed(f"role {role}: what waits")
            self.check_next(role, waits)
            add_signature(role, waits, signer)
            self.keep(role, waits)
            signed.append(role)
        return signed

    def check_next(self, role: str, waits: Any_) -> None:
        """Raises: TrustError when what waits in a role may not follow what is held, was seen, and is settled."""
        settled = self.settled(role)
        if self.held is not None and self.settled(ROOT) is None:
            self._check_first(role, self.held.begun)
        seen = self.held.seen.get(role) if self.held is not None else None
        last = max(settled.signed.version if settled else 0, seen.version if seen else 0)
        if waits.signed.version <= last:
            raise TrustError(
                Duty.REPOSITORY,
                "rolled-back",
                f"role {role}: version {waits.signed.version} waits, expected one after {last}, which is signed "
                "already; delete it from the folder `pending`, or copy the repository again",
            )
        self.check(role, settled, waits)

    def _check_first(self, role: str, begun: str) -> None:
        first = self.pending(ROOT)
        if role not in OFFLINE:
            raise TrustError(
                Duty.REQUEST, "no-root", f"role {role}: nothing of it can be signed before the first root is complete"
            )
        if first is None or digest_of(first) != begun:
            raise TrustError(
                Duty.REQUEST,
                "other-root",
                "root: another first root waits than the one that you signed, or were shown; compare the two with the "
                "other administrators (`deskgrid trust words`), and delete the file `.held` beside your key only if "
                "all of you begin anew",
            )

    def merge(self, other: "RepositoryEditor") -> Sequence[str]:
        """Take over the signatures of a copy of this repository; return the roles that gained one."""
        gained = []
        for role in self.roles():
            mine = self.fit(role)
            copies = (other.fit(role), other.settled(role)) if mine is not None else ()
            same = [copy for copy in copies if copy is not None and mine and copy.signed_bytes == mine.signed_bytes]
            if mine is None or not same:
                continue
            new = {keyid: each for keyid, each in same[0].signatures.items() if keyid not in mine.signatures}
            if new:
                mine.signatures.update(new)
                self.keep(role, mine)
                gained.append(role)
        return gained

    def settle(self, problems: list[str] | None = None) -> Sequence[str]:
        """Move what has enough signatures to what is served; return the roles.

        Args:
            problems: takes a sentence for each role that can't be moved, and the others are; without it, it is raised.

        Raises: TrustError.
        """
        moved = []
        for role in self.roles():
            try:
                if self._settle(role):
                    moved.append(role)
            except TrustError as error:
                if problems is None:
                    raise
                problems.append(str(error))
        return moved

    def _settle(self, role: str) -> bool:
        waits = self.pending(role)
        if waits is None or not self.complete(role, waits):
            return False
        self.check(role, self.settled(role), waits)
        write_atomic(self.metadata / f"{waits.signed.version}.{role}.json", waits.to_bytes())
        (self.waiting / f"{role}.json").unlink()
        self.settled(role)  # now it was seen
        return True

    def check(self, role: str, before: Any_ | None, after: Any_) -> None:
        """Raises: TrustError when `after` may not follow `before`."""
        check_form(role, after)
        if role == ROOT:
            check_root_keys(after.signed)
            return
        if role == TARGETS:
            for project in projects(after.signed):
                check_project_keys(self.root(), after.signed, project)
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
        changed = [above(role) if role not in repository.GROUPS else ROOT]
        for each in below:
            newest = self.newest(each)
            if newest is not None and not all(self.verification(each, newest, (delegator,))):
                self.keep(each, self.draft(each, now))
                changed.append(each)
        return changed


def keys_of(shelf: RepositoryEditor, role: str, waiting: bool = False) -> Mapping[str, Key]:
    """The keys of a role, by id. waiting: also those that wait to be named, whoever laid that there."""
    over = above(role)
    found: dict[str, Key] = {}
    for by in (shelf.settled(over), shelf.pending(over) if waiting else None):
        if by is not None:
            check_form(over, by)
            named = by.signed.roles if over == ROOT else delegated(by.signed)
            found |= {keyid: by.signed.get_key(keyid) for keyid in named[role].keyids} if role in named else {}
    return found


def add_signature(role: str, metadata: Any_, signer: Signer) -> None:
    """Sign metadata. Raises: TrustError."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        raise (
            error.__cause__
            if isinstance(error.__cause__, TrustError)
            else TrustError(Duty.REQUEST, "not-signed", f"role {role}: the key does not sign: {error}")
        ) from None


def changed(what: str) -> TrustError:
    """The error of what is not what a person was shown."""
    return TrustError(Duty.REQUEST, "changed", f"{what} was changed since it was shown; look again")
