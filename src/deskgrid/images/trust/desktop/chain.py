"""From the root that was shipped to what is current: the chain of metadata, each link verified.

Rules:
- Verifying is python-tuf's `TrustedMetadataSet`, with the time that was passed in; this file gets the bytes and keeps
  them, and makes sentences of what is refused.
- It begins with the shipped root, each time; newer roots follow one by one, and in each no key counts twice.
- What is kept is used when it fits, else the source is asked, for no more bytes than were listed.
- A timestamp that lives longer than any is signed for means that the clock is behind, or is to be thought so.
"""

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from tuf.api.exceptions import (
    BadVersionNumberError,
    EqualVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from deskgrid.images.trust.desktop.memory import Memory
from deskgrid.images.trust.desktop.source import Absent, RepositorySource
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import (
    LONGEST_TIMESTAMP,
    METADATA_BYTES,
    ROOT,
    ROOT_BYTES,
    ROOT_ROTATIONS,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_BYTES,
    check_root_keys,
)
from deskgrid.images.trust.tufapi import MetaFile, Root
from deskgrid.images.trust.values import readable

T = TypeVar("T")
TELL = "tell the grid's administrators"
_BAD = (RepositoryError, ValueError, TypeError, KeyError, AttributeError)


class Chain:
    """What is trusted now. `found` has root, timestamp, snapshot, targets; roles of projects come as they are asked."""

    def __init__(self, bootstrap: bytes, memory: Memory, source: RepositorySource, now: datetime) -> None:
        """Learn what is current. Raises: TrustError."""
        self._bootstrap, self._memory, self._source = bootstrap, memory, source
        self.found = self._load(now)

    def role(self, role: str, now: datetime) -> None:
        """Learn what a project's role says. Raises: TrustError."""
        if not self.found.contains(role, TARGETS):
            self.found.reference_time = now
            self._listed(self.found, role, self.found.snapshot.meta.get(f"{role}.json"))

    def _load(self, now: datetime) -> TrustedMetadataSet:
        found = self._roots(now)
        kept = self._memory.metadata(TIMESTAMP)
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_timestamp(kept)
        if found.root.is_expired(now):
            raise expired(ROOT, found.root.expires, now)
        content = get(self._source, "metadata/timestamp.json", TIMESTAMP_BYTES)
        with contextlib.suppress(EqualVersionNumberError):
            _verified(TIMESTAMP, now, lambda: found.update_timestamp(content))
            self._memory.keep(TIMESTAMP, content)
        return self._below(found, now)

    def _roots(self, now: datetime) -> TrustedMetadataSet:
        found = _verified(ROOT, now, lambda: TrustedMetadataSet(self._bootstrap, EnvelopeType.METADATA), Duty.DESKTOP)
        found.reference_time = now
        check_root_keys(found.root)
        asked = False
        for _ in range(ROOT_ROTATIONS):
            number = found.root.version + 1
            content = None if asked else self._memory.metadata(f"{number}.{ROOT}")
            if content is not None and _follows(found, content):
                continue
            asked = True
            try:
                content = get(self._source, f"metadata/{number}.{ROOT}.json", ROOT_BYTES, absent=True)
            except Absent:
                break
            root: Root = _verified(ROOT, now, lambda new=content: found.update_root(new))  # type: ignore[misc]
            check_root_keys(root)
            self._memory.keep(f"{number}.{ROOT}", content)
        check_root_keys(found.root)
        return found

    def _below(self, found: TrustedMetadataSet, now: datetime) -> TrustedMetadataSet:
        if found.timestamp.is_expired(now):
            raise expired(TIMESTAMP, found.timestamp.expires, now)
        if found.timestamp.expires - now > LONGEST_TIMESTAMP:
            raise TrustError(
                Duty.DESKTOP,
                "clock-behind",
                f"clock of this computer: got {at(now)}, but the newest timestamp is good until "
                f"{at(found.timestamp.expires)}, expected at most {LONGEST_TIMESTAMP.days} days from now; set the "
                f"clock right, or, if it is right, {TELL}",
            )
        meta = found.timestamp.snapshot_meta
        kept = self._memory.metadata(SNAPSHOT)
        good = False
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_snapshot(kept, trusted=True)
                good = True
        if not good:
            content = get(self._source, f"metadata/{meta.version}.{SNAPSHOT}.json", _bound(meta))
            _verified(SNAPSHOT, now, lambda: found.update_snapshot(content))
            self._memory.keep(SNAPSHOT, content)
        self._listed(found, TARGETS, found.snapshot.meta.get(f"{TARGETS}.json"))
        return found

    def _listed(self, found: TrustedMetadataSet, role: str, meta: MetaFile | None) -> None:
        above, now = (ROOT if role == TARGETS else TARGETS), found.reference_time
        if meta is None:
            raise TrustError(
                Duty.SIGNERS,
                "no-role",
                f"role {role}: nothing is published yet that it signed; see `deskgrid trust status`",
            )
        kept = self._memory.metadata(role)
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_delegated_targets(kept, role, above)
                return
        content = get(self._source, f"metadata/{meta.version}.{role}.json", _bound(meta))
        _verified(role, now, lambda: found.update_delegated_targets(content, role, above))
        self._memory.keep(role, content)


class Nobody:
    """A source when nobody can be asked: there is no newer root, and of the rest what is kept must do."""

    def __init__(self, memory: Memory, reason: TrustError) -> None:
        self._memory, self._reason = memory, reason

    def get(self, path: str, most_bytes: int) -> bytes:
        """See `RepositorySource`."""
        if path.endswith(f".{ROOT}.json"):
            raise Absent(path)
        kept = self._memory.metadata(TIMESTAMP) if path == f"metadata/{TIMESTAMP}.json" else None
        if kept is None:
            raise self._reason
        return kept


def get(source: RepositorySource, path: str, most_bytes: int, absent: bool = False) -> bytes:
    """A file of the repository. Raises: TrustError; Absent only when `absent` is said."""
    try:
        content = source.get(path, most_bytes)
    except Absent:
        if absent:
            raise
        raise TrustError(
            Duty.REPOSITORY, "missing", f"repository: {path} is not there, but what is signed lists it; {TELL}"
        ) from None
    if len(content) > most_bytes:
        raise TrustError(Duty.REPOSITORY, "too-long", f"repository: {path}: got more than {most_bytes} bytes; {TELL}")
    return content


def _follows(found: TrustedMetadataSet, content: bytes) -> bool:
    try:
        found.update_root(content)
    except _BAD:
        return False
    return True


def _bound(meta: MetaFile) -> int:
    return min(meta.length or METADATA_BYTES, METADATA_BYTES)


def _verified(role: str, now: datetime, step: Callable[[], T], fault: Duty = Duty.REPOSITORY) -> T:
    """Do a step of python-tuf; what it refuses becomes a sentence."""
    try:
        return step()
    except EqualVersionNumberError:
        raise
    except ExpiredMetadataError:
        raise expired(role, None, now) from None
    except UnsignedMetadataError as error:
        raise TrustError(
            fault,
            "bad-signatures",
            f"role {role}: {readable(str(error))}, expected enough of the right keys; it is not trusted: {TELL}",
        ) from None
    except BadVersionNumberError as error:
        raise TrustError(
            fault,
            "rolled-back",
            f"role {role}: {readable(str(error))}: somebody serves old metadata, or mixes them; {TELL}",
        ) from None
    except LengthOrHashMismatchError as error:
        raise TrustError(
            fault, "mixed", f"role {role}: {readable(str(error))}: it is not the file that was listed; {TELL}"
        ) from None
    except _BAD as error:
        raise TrustError(
            fault,
            "damaged",
            f"role {role}: got something else than its metadata ({readable(str(error))}); is there a login page "
            f"between? If not, {TELL}",
        ) from None


def expired(role: str, expires: datetime | None, now: datetime) -> TrustError:
    """The error of metadata that are too old."""
    when = f" at {at(expires)}" if expires else ""
    if role in (TIMESTAMP, SNAPSHOT):
        fault, who = Duty.REPOSITORY, "the coordinator does not renew it, or somebody holds news back"
    else:
        fault, who = Duty.SIGNERS, "those who hold its keys must sign it anew"
    return TrustError(
        fault,
        f"expired-{role}" if role in (ROOT, TIMESTAMP, SNAPSHOT, TARGETS) else "expired-role",
        f"role {role}: it expired{when}; {who}. This computer's clock says {at(now)}: if that is wrong, set it right. "
        "Until then nothing new starts",
    )


def at(when: datetime) -> str:
    """A time for people."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
