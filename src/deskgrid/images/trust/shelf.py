"""What people do with a repository: propose, approve, revoke, change keys, sign, and let what is signed be served.

Rules, told first
- A change makes a draft that waits; `sign` adds a signature; `settle` moves what has enough of them to what is served.
- `settle` checks what may follow what (repository.py), whoever signed it.
- Whoever signs has been shown what: `status.waiting` says it. Nothing here asks a person.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import cast

from tuf.api.exceptions import UnsignedMetadataError

from deskgrid.host.files import write_atomic
from deskgrid.images.trust import repository
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.pages import Any_, Pages, above
from deskgrid.images.trust.pointer import check_pointer, decode
from deskgrid.images.trust.roles import (
    ROOT,
    TARGETS,
    check_project_keys,
    check_root_keys,
    entry_of,
    project_roles,
    projects,
)
from deskgrid.images.trust.tufapi import Key, Signer
from deskgrid.images.trust.words import LATEST, Entry, Version


class Shelf(Pages):
    """A repository in a folder. Whoever changes it holds its lock (`editing`)."""

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

    def payload(self, role: str) -> bytes:
        """What a signature of what waits in a role is made over; empty when nothing waits."""
        waits = self.pending(role)
        return waits.signed_bytes if waits else b""

    def signable(self, signer: Signer) -> Sequence[str]:
        """The roles in which something waits that this key may sign."""
        found = []
        for role in self.roles():
            waits = self.pending(role)
            if waits is None:
                continue
            results = self.verification(role, waits, (self.settled(above(role)), self.pending(above(role))))
            if signer.public_key.keyid in {keyid for result in results for keyid in (*result.signed, *result.unsigned)}:
                found.append(role)
        return found

    def sign(self, signer: Signer, roles: Sequence[str] = ()) -> Sequence[str]:
        """Sign what waits and this key may sign; return the roles. roles: only these. The caller has shown it."""
        mine = [role for role in self.signable(signer) if not roles or role in roles]
        for role in mine:
            waits = cast(Any_, self.pending(role))
            add_signature(role, waits, signer)
            self.keep(role, waits)
        return mine

    def merge(self, other: "Shelf") -> Sequence[str]:
        """Take over the signatures of a copy of this repository; return the roles that gained one."""
        gained = []
        for role in self.roles():
            mine = self.pending(role)
            copies = (other.pending(role), other.settled(role)) if mine is not None else ()
            same = [copy for copy in copies if copy is not None and mine and copy.signed_bytes == mine.signed_bytes]
            if mine is None or not same:
                continue
            new = {keyid: each for keyid, each in same[0].signatures.items() if keyid not in mine.signatures}
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

    def check(self, role: str, before: Any_ | None, after: Any_) -> None:
        """Raises: TrustError when `after` may not follow `before`."""
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


def keys_of(shelf: Shelf, role: str) -> Mapping[str, Key]:
    """The keys of a role, by id, also if they wait."""
    by = shelf.newest(above(role))
    if by is None:
        return {}
    return {keyid: by.signed.get_key(keyid) for keyid in by.signed.get_delegated_role(role).keyids}


def add_signature(role: str, metadata: Any_, signer: Signer) -> None:
    """Sign metadata. Raises: TrustError."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        raise (
            error.__cause__
            if isinstance(error.__cause__, TrustError)
            else TrustError(Fault.REQUEST, "not-signed", f"role {role}: the key does not sign: {error}")
        ) from None
