"""The desktop's side of trust: what may a virtual machine boot from, and until when.

Rules:
- It begins with the root that was shipped with the agent (`bootstrap`), each time; newer roots must follow from it one
  by one. Verifying is python-tuf's (chain.py); this file compares the two roles.
- An image is trusted when `<project>-researcher` and `<project>-approver` both list it with the same length, hash and
  number, and no key is in both roles. What targets itself lists counts for nothing; a key's id is the hash of the key
  (roles.py), and a project's role says nothing but what deskgrid writes (form.py): no delegations, no other fields.
- The time is passed in and looked at in every question, not only when something is fetched. With an expired timestamp
  nothing new starts. When the repository can't be reached, what is here is good until its timestamp expires; when the
  repository says something wrong, nothing new starts.
- A clock that is behind would make old things look fresh: a time more than a day before the last good one is refused,
  and so is a timestamp that would live longer than any is signed for. But it may be that the clock was ahead then, and
  nobody signs for a clock. So a timestamp, or a root, that is newer than any that was seen then is believed instead: it
  was signed later. One set-back of a clock costs one signature that this desktop has not seen; nothing older than what
  it has seen is ever taken.
- What was once seen of a name and version is remembered: other content is refused for ever, and revoked stays revoked.
- One client per folder, with a lock. Every file is whole or not there; a damaged one is fetched again.
"""

import hashlib
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

from deskgrid.images.trust.desktop.chain import TELL, Chain, Nobody, at, expired, get
from deskgrid.images.trust.desktop.memory import Memory
from deskgrid.images.trust.desktop.source import RepositoryFolderSource, RepositoryServer, RepositorySource
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.form import check_form
from deskgrid.images.trust.pointer import check_pointer, decode
from deskgrid.images.trust.roles import (
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_LIFE,
    check_project_keys,
    delegated,
    entry_of,
    project_roles,
)
from deskgrid.images.trust.tufapi import Metadata, Targets
from deskgrid.images.trust.values import (
    LATEST,
    POINTER_BYTES,
    Freshness,
    ListedVersion,
    TrustConfiguration,
    Version,
    version,
)

SLACK = TIMESTAMP_LIFE
"""How far a clock may be set back without being called wrong; further ahead it finds every timestamp expired."""
_WITHDRAWN = ("no-image", "no-project", "not-both")


class Trusted:
    """What a desktop trusts. Use it with `with`: it holds its folder's lock."""

    def __init__(self, folder: Path, bootstrap: bytes, source: RepositorySource, wait_seconds: float = 0.0) -> None:
        """Keep metadata in `folder`, which nobody else may write to.

        Args:
            bootstrap: the root that was shipped. wait_seconds: how long to wait for another client in this folder.
        """
        self._memory, self._bootstrap, self._source, self._wait = Memory(folder), bootstrap, source, wait_seconds
        self._chain: Chain | None = None
        self._plain: dict[str, Targets] = {}

    def __enter__(self) -> Self:
        self._memory.open(self._wait)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.close()

    # -- questions --------------------------------------------------------------------------------------------

    def refresh(self, now: datetime) -> Freshness:
        """Learn what is new. When the repository can't be reached, what is here goes on until its timestamp expires.

        Raises: TrustError when what the repository says is wrong, or nothing here is good any more.
        """
        offline = ""
        try:
            self._chain = Chain(self._bootstrap, self._memory, self._source, now)
        except TrustError as error:
            if error.fault is not Duty.NETWORK:
                raise
            self._chain, offline = Chain(self._bootstrap, self._memory, Nobody(self._memory, error), now), str(error)
        self._check_fresh(now)
        found = self._trusted()
        stamp = (found.root.version, found.timestamp.version)
        if stamp <= self._memory.seen.stamp:
            self._check_clock(now)
        self._memory.note_time(now, stamp)
        until = min(found[role].expires for role in (ROOT, TIMESTAMP, SNAPSHOT, TARGETS))
        return Freshness(found.timestamp.version, found.root.version, until, offline)

    def check(self, wanted: Version, now: datetime) -> ListedVersion:
        """Whether a VM of this version may start now; asked at every start. Raises: TrustError that says why not."""
        self._check_clock(now)
        self._check_fresh(now)
        return self._entry(wanted, now)

    def manifest(self, wanted: Version, now: datetime) -> bytes:
        """The manifest of a version that may start now. Raises: TrustError that says why not."""
        entry = self.check(wanted, now)
        return self._content(wanted.path, entry)

    def latest(self, project: str, image: str, now: datetime) -> Version:
        """Which version of an image is the latest. Raises: TrustError."""
        self._check_clock(now)
        self._check_fresh(now)
        asked = version(project, image, "any")
        entry = self._both(asked, asked.latest, now)
        if entry.size_bytes > POINTER_BYTES:
            raise TrustError(
                Duty.SIGNERS,
                "too-long",
                f"pointer {asked.latest}: got {entry.size_bytes} bytes, expected {POINTER_BYTES}",
            )
        pointer = decode(asked.latest, self._content(asked.latest, entry))
        check_pointer(asked.latest, self._memory.seen.pointers.get(asked.latest), pointer)
        found = version(project, image, pointer.version)
        if self._entry(found, now).number != pointer.number:
            raise TrustError(
                Duty.SIGNERS,
                "bad-pointer",
                f"pointer {asked.latest}: its number is not that of {found}: sign a new one",
            )
        self._memory.see_pointer(asked.latest, pointer)
        return found

    def revoked(self, running: Sequence[Version], now: datetime) -> dict[Version, str]:
        """Which of these versions may not even go on running, with the reason. Expired metadata revoke nothing."""
        return {one: why for one in running if (why := self._revocation(one, now))}

    def _revocation(self, one: Version, now: datetime) -> str | None:
        try:
            self._entry(one, now)
        except TrustError as error:
            if error.code in _WITHDRAWN:
                return str(error)
        seen = self._memory.seen.entries.get(one.path)
        return seen.revoked if seen else None

    # -- both roles -------------------------------------------------------------------------------------------

    def _entry(self, wanted: Version, now: datetime) -> ListedVersion:
        if wanted.version == LATEST:
            raise TrustError(Duty.REQUEST, "bad-name", f"version {wanted}: ask for `latest` by its own question")
        seen = self._memory.seen.entries.get(wanted.path)
        entry = self._both(wanted, wanted.path, now)
        if seen is not None and seen.revoked is not None:
            raise _revoked(wanted, seen.revoked)
        if seen is not None and seen != entry:
            raise TrustError(
                Duty.SIGNERS,
                "changed",
                f"image {wanted}: got SHA-256 {entry.sha256[:12]}… signed by both, expected {seen.sha256[:12]}…, which "
                f"was seen before: a name and version never change; {TELL}",
            )
        if seen is None:
            self._memory.see(wanted.path, entry)
        return entry

    def _both(self, wanted: Version, path: str, now: datetime) -> ListedVersion:
        found = self._trusted()
        researcher, approver = project_roles(wanted.project)
        roles = delegated(found.targets)
        for role in (researcher, approver):
            if role not in roles:
                raise TrustError(
                    Duty.REQUEST,
                    "no-project",
                    f"project {wanted.project}: no role {role} is signed; its images are not trusted",
                )
            if not roles[role].is_delegated_path(path):
                raise TrustError(
                    Duty.SIGNERS, "foreign-path", f"role {role}: it may not speak of {path}; {TELL}: delegate it anew"
                )
        check_project_keys(found.root, found.targets, wanted.project)
        said = {role: entry_of(self._role(role, now), path) for role in (researcher, approver)}
        for entry in said.values():
            if entry is not None and entry.revoked is not None:
                self._memory.see(path, entry)
                raise _revoked(wanted, entry.revoked)
        return _agreed(wanted, path, said)

    def _role(self, role: str, now: datetime) -> Targets:
        found = self._trusted()
        assert self._chain is not None
        self._chain.role(role, now)
        held = cast(Targets, found[role])
        if self._plain.get(role) is not held:
            check_form(role, Metadata(held))
            self._plain[role] = held
        if held.is_expired(now):
            raise expired(role, held.expires, now)
        return held

    def _trusted(self) -> TrustedMetadataSet:
        if self._chain is None:
            raise TrustError(Duty.DESKTOP, "not-refreshed", "images: nothing is known yet; refresh first")
        return self._chain.found

    def _check_fresh(self, now: datetime) -> None:
        found = self._trusted()
        for role in (ROOT, TIMESTAMP, SNAPSHOT, TARGETS):
            if found[role].is_expired(now):
                raise expired(role, found[role].expires, now)

    def _check_clock(self, now: datetime) -> None:
        last = self._memory.seen.checked_at
        if last is not None and now < last - SLACK:
            raise TrustError(
                Duty.DESKTOP,
                "clock-behind",
                f"clock of this computer: got {at(now)}, expected {at(last)} or later, when images were checked; "
                "set it right: old images would look fresh; if it is right, it was wrong then, and news mend it",
            )

    def _content(self, path: str, entry: ListedVersion) -> bytes:
        kept = self._memory.manifest(entry)
        if kept is not None:
            return kept
        folder, _, file = path.rpartition("/")
        content = get(self._source, f"targets/{folder}/{entry.sha256}.{file}", entry.size_bytes)
        found = hashlib.sha256(content).hexdigest()
        if len(content) != entry.size_bytes or found != entry.sha256:
            raise TrustError(
                Duty.REPOSITORY,
                "mixed",
                f"{path}: got {len(content)} bytes with SHA-256 {found[:12]}…, expected {entry.size_bytes} with "
                f"{entry.sha256[:12]}…: it is not what was signed; {TELL}",
            )
        self._memory.keep_manifest(entry, content)
        return content


def _agreed(wanted: Version, path: str, said: dict[str, ListedVersion | None]) -> ListedVersion:
    silent = [role for role, entry in said.items() if entry is None]
    if len(silent) == len(said):
        raise TrustError(Duty.REQUEST, "no-image", f"image {path}: nobody has signed it; is its name right?")
    if silent:
        raise TrustError(
            Duty.SIGNERS,
            "not-both",
            f"image {path}: {silent[0]} has not signed it, expected both; it must be signed there",
        )
    first, second = said.values()
    assert first is not None
    assert second is not None
    if path.endswith(f"/{LATEST}.json") and second.sha256 == first.earlier:
        return (
            second  # the researcher has signed the next one, which waits for its approver: this one is good meanwhile
        )
    if first.plain != second.plain:
        raise TrustError(
            Duty.SIGNERS, "disagree", f"image {wanted}: its two roles list different content for {path}; {TELL}"
        )
    return first.plain


def _revoked(wanted: Version, why: str) -> TrustError:
    return TrustError(Duty.SIGNERS, "revoked", f"image {wanted}: revoked: {why}; use another version")


_WAIT_SECONDS = 30.0


def opened(place: TrustConfiguration) -> Trusted:
    """A client of this place; enter it before use. Raises: TrustError."""
    try:
        bootstrap = place.bootstrap.read_bytes()
    except OSError as error:
        raise TrustError(
            Duty.DESKTOP,
            "no-root",
            f"root {place.bootstrap}: can't be read: {error.strerror}; install the agent again",
        ) from None
    return Trusted(place.folder, bootstrap, source_of(place), _WAIT_SECONDS)


def source_of(place: TrustConfiguration) -> RepositorySource:
    """The source that a place names. Raises: TrustError."""
    if place.repository.startswith("/"):
        return RepositoryFolderSource(Path(place.repository))
    try:
        context = ssl.create_default_context(cafile=str(place.certificates)) if place.certificates else None
    except OSError as error:
        raise TrustError(
            Duty.DESKTOP, "no-certificates", f"certificates {place.certificates}: can't be read: {error.strerror}"
        ) from None
    return RepositoryServer(place.repository, place.seconds, context)
