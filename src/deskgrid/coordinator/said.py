"""What the roles of all projects say of images, in a repository's folder: who has signed what, and who has to.

Rules, told first
- Only a role that enough of its keys of today have signed says anything.
- What waits may have been laid there by anybody: what can't be read of it is a problem of its role, and no other's.
- Whether an image may start is not decided here, but by `images/trust/client.py`.
"""

from collections.abc import Iterator

from deskgrid.images.trust.errors import TrustError
from deskgrid.images.trust.pointer import decode
from deskgrid.images.trust.roles import TARGETS, entry_of, owner, parse_path, project_roles, projects
from deskgrid.images.trust.shelf import Shelf, keys_of
from deskgrid.images.trust.tufapi import Targets
from deskgrid.images.trust.words import LATEST, Entry, Version


class Said:
    """All of it. projects: that exist. versions: in order, pointers left out. revoked: digest and why.

    problems: what waits and can't be read, a sentence each.
    """

    def __init__(self, shelf: Shelf) -> None:
        """Read all. Raises: TrustError."""
        self.shelf = shelf
        targets = shelf.settled(TARGETS)
        self.projects = projects(targets.signed) if targets is not None else ()
        self._roles = {project: project_roles(project) for project in self.projects}
        self._signed: dict[str, tuple[str, ...]] = {}
        self._entries: dict[tuple[str, Version], Entry] = {}
        self._waiting: dict[Version, Entry] = {}
        self.problems: list[str] = []
        roles = [role for both in self._roles.values() for role in both]
        for role in roles:
            self._take(role)
        for role in roles:
            self._take_draft(role)
        self.revoked = {e.sha256: e.revoked for e in self._entries.values() if e.revoked is not None}
        found = {version for _, version in self._entries} | self._waiting.keys()
        self.versions = sorted(version for version in found if version.version != LATEST)

    def _take(self, role: str) -> None:
        held = self.shelf.settled(role)
        results = self.shelf.verification(role, held) if held is not None else ()
        self._signed[role] = tuple(sorted({owner(key) for result in results for key in result.signed.values()}))
        if held is not None and results and all(results):
            self._entries |= {(role, version): entry for version, entry in _listed(held.signed)}

    def _take_draft(self, role: str) -> None:
        try:
            draft = self.shelf.pending(role)
        except TrustError as error:
            self.problems.append(str(error))
            return
        if draft is not None:
            self._waiting |= dict(_listed(draft.signed))

    def entry(self, version: Version) -> Entry:
        """What some role says of a version; a revocation, if one does."""
        found = [e for role in self._roles[version.project] if (e := self._entries.get((role, version))) is not None]
        return next((e for e in found if e.revoked is not None), None) or (found or [self._waiting[version]])[0]

    def lacking(self, version: Version) -> dict[str, list[str]]:
        """The roles that have not signed a version, with their keys' owners."""
        return {
            role: sorted(map(owner, keys_of(self.shelf, role).values()))
            for role in self._roles[version.project]
            if (role, version) not in self._entries
        }

    def signers(self, version: Version) -> tuple[str, ...]:
        """Whose keys have signed what lists a version."""
        roles = (role for role in self._roles[version.project] if (role, version) in self._entries)
        return tuple(name for role in roles for name in self._signed[role])

    def approved_latest(self, version: Version) -> str:
        """The version that is the latest of its image, as its approver has signed; empty: none."""
        pointer = Version(version.project, version.image, LATEST)
        entry = self._entries.get((self._roles[version.project][1], pointer))
        return decode(pointer.path, self.shelf.manifest(pointer.path, entry)).version if entry else ""


def _listed(signed: Targets) -> Iterator[tuple[Version, Entry]]:
    for path in signed.targets:
        version, entry = parse_path(path), entry_of(signed, path)
        if version is not None and entry is not None:
            yield version, entry
