"""The catalogue that a signed repository is: renewed with the online key, read as desktops read it.

Rules:
- What may start is what `images/trust/desktop/client.py` says, the very code that desktops ask, with a memory of its
  own in the state folder: other content under a name and version that was seen is refused here too.
- What is not signed by both is shown with who has to sign. Revocations are taken from the roles themselves, so that
  they count even while nothing can be renewed.
- Looked at again when a file in `metadata`, `pending` or the keys' folder changes, and every `renew_seconds`; after a
  failure sooner.
- An image whose project's key is missing, or is not the one that it was published with, is not offered.
- python-tuf is imported when the first look is made: without a repository it is never.
- Only a role that enough of its keys of today have signed says anything. What waits may have been laid there by
  anybody: what can't be read is a problem of its role, and no other's.
- A project's key is `<project>.key` in one folder: 64 hexadecimal digits, readable by its owner alone; another one is
  refused. Keys are kept in memory only, read again when a file changes; never printed, never logged.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deskgrid.coordinator.images.catalogue import Unreadable
from deskgrid.coordinator.settings import ImageSettings
from deskgrid.core.fleet.catalogue import CatalogueEntry, Listing
from deskgrid.host.system.files import read_plain
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.errors import TrustError
from deskgrid.images.trust.pointer import decode
from deskgrid.images.trust.roles import TARGETS, entry_of, owner, parse_path, project_roles, projects
from deskgrid.images.trust.signing.editor import RepositoryEditor, keys_of
from deskgrid.images.trust.tufapi import Targets
from deskgrid.images.trust.values import LATEST, ListedVersion, Version
from deskgrid.model.image import Attribute, ImageRef
from deskgrid.model.reason import Reason
from deskgrid.model.values.numbers import Bytes
from deskgrid.model.values.outside import read_json

if TYPE_CHECKING:
    from deskgrid.images.trust.desktop.client import Trusted
    from deskgrid.images.trust.tufapi import Signer

_AGAIN = timedelta(seconds=30)
_Mark = tuple[tuple[str, int, int], ...]
_UNSIGNED = ("no-image", "not-both", "no-project", "no-role")


class _Disk(msgspec.Struct, frozen=True):
    bytes: Bytes


class ManifestFacts(msgspec.Struct, frozen=True):
    """What is read of a manifest; the rest is the desktops' to check."""

    project: str
    name: str
    version: str
    key_id: str
    memory_bytes: Bytes
    blob_bytes: Bytes
    disk: _Disk
    free_bytes: Bytes = 0
    says: tuple[Attribute, ...] = ()


class SignedCatalogue:
    """A repository in a folder. See `catalogue.Catalogue`."""

    def __init__(self, settings: ImageSettings, memory: Path) -> None:
        """Read the repository of `settings`; remember in the folder `memory` what was seen."""
        assert settings.repository is not None
        self._settings, self._folder, self._memory = settings, settings.repository, memory
        self._keys = ProjectKeys(settings.keys)
        self._signer: Signer | None = None
        self._facts: dict[str, ManifestFacts] = {}
        self._mark: _Mark = ()
        self._due: datetime | None = None

    def key(self, project: str) -> str | None:
        """See `Catalogue`."""
        return self._keys.get(project)

    def look(self, now: datetime) -> Listing | None:
        """See `Catalogue`."""
        mark = _mark((self._folder / "metadata", self._folder / "pending", *self._keys.files()))
        renewal = timedelta(seconds=self._settings.renew_seconds)
        waits = self._due is not None and now < self._due <= now + renewal  # later: the clock was set back
        if waits and mark == self._mark:
            return None
        self._mark, self._due = mark, now + min(_AGAIN, renewal)
        problems: list[str] = []
        try:
            self._renew(now, problems)
            listing = self._read(now, problems)
        except OSError as error:
            problems.append(f"repository {self._folder}: {error}; see that it is there, and that deskgrid may read it")
            raise Unreadable(problems) from None
        if not problems:
            self._due = now + renewal
        return listing

    # -- saying what is current -------------------------------------------------------------------------------

    def _renew(self, now: datetime, problems: list[str]) -> None:
        from deskgrid.images.trust.signing.online import renew

        try:
            signer = self._online()
            if signer is not None:
                problems.extend(renew(self._folder, signer, now).problems)
        except ImageError as error:
            if isinstance(error, TrustError) and error.code == "locked":
                self._mark = ()  # somebody signs: look again soon
                return
            self._signer = None
            problems.append(str(error))

    def _online(self) -> "Signer | None":
        from deskgrid.images.trust.keys import open_signer

        if self._settings.online_key is not None and self._signer is None:
            self._signer = open_signer(self._settings.online_key, self._password)
        return self._signer

    def _password(self, what: str) -> str:
        file = self._settings.online_password_file
        assert file is not None
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise ImageError(f"password file {file}: can't be read: {reason}; look at it") from None

    # -- reading ----------------------------------------------------------------------------------------------

    def _read(self, now: datetime, problems: list[str]) -> Listing:
        from deskgrid.images.trust.roles import ROOT_BYTES
        from deskgrid.images.trust.signing.editor import RepositoryEditor

        revoked: Mapping[str, str] = {}
        try:
            shelf = RepositoryEditor(self._folder)
            shelf.must_be_there()
            said = SignedVersions(shelf)
            revoked = said.revoked
            problems.extend(said.problems)
            with self._trusted(read_plain(shelf.metadata / "1.root.json", ROOT_BYTES)) as trusted:
                until = trusted.refresh(now).expires_at
                keyless = self._keys.read(said.projects)
                problems.extend(keyless.values())
                versions = tuple(self._listed(said, trusted, keyless, now))
        except ImageError as error:
            raise Unreadable(dict.fromkeys((*problems, str(error))), revoked) from None
        return Listing(versions, frozenset(said.projects), until, revoked, tuple(problems))

    def _trusted(self, root: bytes) -> "Trusted":
        """As a desktop, with a memory for each first root: another repository is begun anew."""
        from deskgrid.images.trust.desktop.client import Trusted
        from deskgrid.images.trust.desktop.source import RepositoryFolderSource

        return Trusted(self._memory / hashlib.sha256(root).hexdigest()[:16], root, RepositoryFolderSource(self._folder))

    def _listed(
        self, said: "SignedVersions", trusted: "Trusted", keyless: Mapping[str, str], now: datetime
    ) -> Iterable[CatalogueEntry]:
        latest: dict[tuple[str, str], str] = {}
        for version in said.versions:
            image = (version.project, version.image)
            if image not in latest:
                latest[image] = _latest(version, said, trusted, now)
            entry = said.entry(version)
            shown = CatalogueEntry(
                ImageRef(version.image, entry.sha256),
                version.project,
                version.version,
                number=entry.number,
                latest=latest[image] == version.version,
                signers=said.signers(version),
                refused=_refused(version, said, trusted, now),
            )
            yield shown if shown.refused is not None else self._with_facts(shown, said, version, keyless)

    def _with_facts(
        self, shown: CatalogueEntry, said: "SignedVersions", version: Version, keyless: Mapping[str, str]
    ) -> CatalogueEntry:
        """With what its manifest says, and whether its key is here."""
        try:
            facts = self._facts_of(said, version, said.entry(version))
        except (ImageError, msgspec.DecodeError) as error:
            wrong = Reason("image-damaged", f"The manifest of {version} can't be used: {error}")
            return msgspec.structs.replace(shown, refused=wrong)
        refused = None
        if version.project in keyless:
            refused = Reason("image-keyless", f"{version} can't be opened: {keyless[version.project]}.")
        elif self._keys.key_id(version.project) != facts.key_id:
            refused = Reason(
                "image-keyless", f"{version} was encrypted with another key than the one of {version.project} here."
            )
        return msgspec.structs.replace(
            shown,
            memory_bytes=facts.memory_bytes,
            disk_bytes=facts.disk.bytes,
            size_bytes=facts.blob_bytes,
            free_bytes=facts.free_bytes,
            says=facts.says,
            refused=refused,
        )

    def _facts_of(self, said: "SignedVersions", version: Version, entry: ListedVersion) -> ManifestFacts:
        """What a manifest says; it never changes, so it is read once. Raises: ImageError, DecodeError."""
        if entry.sha256 not in self._facts:
            facts = read_json(said.shelf.manifest(version.path, entry), type=ManifestFacts)
            if Version(facts.project, facts.name, facts.version) != version:
                raise ImageError(f"it says that it is {facts.project}/{facts.name}/{facts.version}; publish it again")
            self._facts[entry.sha256] = facts
        return self._facts[entry.sha256]


def _latest(version: Version, said: "SignedVersions", trusted: "Trusted", now: datetime) -> str:
    """The version that its image's pointer names, also when that one may not start; empty: none is trusted."""
    try:
        return trusted.latest(version.project, version.image, now).version
    except TrustError as error:
        return said.approved_latest(version) if error.code == "revoked" else ""


def _refused(version: Version, said: "SignedVersions", trusted: "Trusted", now: datetime) -> Reason | None:
    """Why a version may not start, as desktops would say it; who has to sign, if that is all that lacks."""
    try:
        trusted.check(version, now)
        return None
    except TrustError as error:
        if error.code == "revoked":
            return Reason("image-revoked", f"{version} is revoked: {said.entry(version).revoked}.")
        lacking = said.lacking(version)
        if not lacking or error.code not in _UNSIGNED:
            return Reason("image-not-trusted", f"{version} is not trusted: {error}")
    who = ", and ".join(f"{', '.join(names) or 'nobody'} ({role})" for role, names in lacking.items())
    return Reason("image-unsigned", f"{version} waits for the signature of {who}.")


def _mark(paths: Iterable[Path]) -> _Mark:
    """Changes when one of these files, or what is in one of these folders, does."""
    found = []
    for path in paths:
        try:
            state = path.stat()
            found.append((str(path), state.st_mtime_ns, state.st_mode))
        except OSError:
            found.append((str(path), 0, 0))
    return tuple(found)


class SignedVersions:
    """A whole repository. projects: that exist. versions: in order, pointers left out. revoked: digest and why.

    problems: what waits and can't be read, a sentence each.
    """

    def __init__(self, shelf: RepositoryEditor) -> None:
        """Read all. Raises: TrustError."""
        self.shelf = shelf
        targets = shelf.settled(TARGETS)
        self.projects = projects(targets.signed) if targets is not None else ()
        self._roles = {project: project_roles(project) for project in self.projects}
        self._signed: dict[str, tuple[str, ...]] = {}
        self._entries: dict[tuple[str, Version], ListedVersion] = {}
        self._waiting: dict[Version, ListedVersion] = {}
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

    def entry(self, version: Version) -> ListedVersion:
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


def _listed(signed: Targets) -> Iterator[tuple[Version, ListedVersion]]:
    for path in signed.targets:
        version, entry = parse_path(path), entry_of(signed, path)
        if version is not None and entry is not None:
            yield version, entry


class ProjectKeys:
    """All that are there."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, tuple[str, str]] = {}

    def files(self) -> list[Path]:
        """What to watch."""
        try:
            return [self._folder, *sorted(self._folder.glob("*.key"))] if self._folder is not None else []
        except OSError:
            return []

    def get(self, project: str) -> str | None:
        """A project's key. SECRET."""
        return self._known[project][0] if project in self._known else None

    def key_id(self, project: str) -> str:
        """What manifests call a project's key."""
        return self._known[project][1]

    def read(self, projects: Iterable[str]) -> dict[str, str]:
        """Read the keys of these projects. Returns: of each project without one, why."""
        from deskgrid.images.format.keys import ProjectKey, read_key

        known, lacking = dict[str, tuple[str, str]](), dict[str, str]()
        for project in projects:
            if self._folder is None:
                lacking[project] = f"project {project}: no key, since images.keys is not set; name the folder of keys"
                continue
            try:
                secret = read_key(self._folder / f"{project}.key")
                known[project] = secret.hex(), ProjectKey(secret).key_id
            except ImageError as error:
                lacking[project] = f"project {project}: its images are not on offer: {error}"
        self._known = known
        return lacking
