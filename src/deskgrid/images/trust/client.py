"""The desktop's side of trust: what may a virtual machine boot from, and until when.

Rules, told first
- It begins with the root that was shipped with the agent (`bootstrap`), each time; newer roots must follow from it one
  by one. Verifying is python-tuf's `TrustedMetadataSet`; this file gets the bytes, keeps them, and compares the two
  roles.
- An image is trusted when `<project>-researcher` and `<project>-approver` both list it with the same length, hash and
  number, and no key is in both roles. What targets itself lists counts for nothing.
- The time is passed in and looked at in every question, not only when something is fetched. With an expired timestamp
  nothing new starts. When the repository can't be reached, what is here is good until its timestamp expires; when the
  repository says something wrong, nothing new starts.
- A clock that is behind would make old things look fresh: a time before the last good one is refused, and so is a
  timestamp that would live longer than any is signed for.
- What was once seen of a name and version is remembered: other content is refused for ever, and revoked stays revoked.
- One client per folder, with a lock. Every file is whole or not there; a damaged one is fetched again.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, cast

import msgspec
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

from deskgrid.host.files import Locked, locked, write_atomic
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.pointer import check_pointer, decode
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
    check_project_keys,
    check_root_keys,
    delegated,
    entry_of,
    project_roles,
)
from deskgrid.images.trust.source import Absent, Source
from deskgrid.images.trust.tufapi import MetaFile, Root, Targets
from deskgrid.images.trust.words import LATEST, POINTER_BYTES, Entry, Freshness, Pointer, Version, version

T = TypeVar("T")
SLACK = timedelta(hours=1)
"""How far a clock may be set back without being called wrong."""
_TELL = "tell the grid's administrators"
_MANIFESTS_KEPT = 32
_WITHDRAWN = ("no-image", "no-project", "not-both")
_BAD = (RepositoryError, ValueError, TypeError, KeyError, AttributeError)


class _Seen(msgspec.Struct):
    """What a desktop remembers. checked_at: the last time at which all was good."""

    checked_at: datetime | None = None
    entries: dict[str, Entry] = msgspec.field(default_factory=dict)
    pointers: dict[str, Pointer] = msgspec.field(default_factory=dict)


class Trusted:
    """What a desktop trusts. Use it with `with`: it holds its folder's lock."""

    def __init__(self, folder: Path, bootstrap: bytes, source: Source, wait_seconds: float = 0.0) -> None:
        """Keep metadata in `folder`, which nobody else may write to.

        Args:
            bootstrap: the root that was shipped. wait_seconds: how long to wait for another client in this folder.
        """
        self._folder, self._bootstrap, self._source, self._wait = folder, bootstrap, source, wait_seconds
        self._stack = contextlib.ExitStack()
        self._set: TrustedMetadataSet | None = None
        self._seen = _Seen()

    def __enter__(self) -> Self:
        try:
            for folder in (self._folder, self._folder / "manifests"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock()
        except OSError as error:
            raise self._disk(error) from None
        self._seen = self._recall()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # -- questions --------------------------------------------------------------------------------------------

    def refresh(self, now: datetime) -> Freshness:
        """Learn what is new. When the repository can't be reached, what is here goes on until its timestamp expires.

        Raises: TrustError when what the repository says is wrong, or nothing here is good any more.
        """
        self._check_clock(now)
        offline = ""
        try:
            self._set = self._load(now, self._source)
        except TrustError as error:
            if error.fault is not Fault.NETWORK:
                raise
            self._set, offline = self._load_kept(now, error), str(error)
        self._check_fresh(now)
        self._note_time(now)
        found = self._set
        return Freshness(found.timestamp.version, found.root.version, found.timestamp.expires, offline)

    def check(self, wanted: Version, now: datetime) -> Entry:
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
                Fault.SIGNERS,
                "too-long",
                f"pointer {asked.latest}: got {entry.size_bytes} bytes, expected {POINTER_BYTES}",
            )
        pointer = decode(asked.latest, self._content(asked.latest, entry))
        check_pointer(asked.latest, self._seen.pointers.get(asked.latest), pointer)
        found = version(project, image, pointer.version)
        if self._entry(found, now).number != pointer.number:
            raise TrustError(
                Fault.SIGNERS,
                "bad-pointer",
                f"pointer {asked.latest}: its number is not that of {found}: sign a new one",
            )
        if self._seen.pointers.get(asked.latest) != pointer:
            self._seen.pointers[asked.latest] = pointer
            self._remember()
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
        seen = self._seen.entries.get(one.path)
        return seen.revoked if seen else None

    # -- both roles -------------------------------------------------------------------------------------------

    def _entry(self, wanted: Version, now: datetime) -> Entry:
        if wanted.version == LATEST:
            raise TrustError(Fault.REQUEST, "bad-name", f"version {wanted}: ask for `latest` by its own question")
        seen = self._seen.entries.get(wanted.path)
        entry = self._both(wanted, wanted.path, now)
        if seen is not None and seen.revoked is not None:
            raise _revoked(wanted, seen.revoked)
        if seen is not None and seen != entry:
            raise TrustError(
                Fault.SIGNERS,
                "changed",
                f"image {wanted}: got SHA-256 {entry.sha256[:12]}… signed by both, expected {seen.sha256[:12]}…, which "
                f"was seen before: a name and version never change; {_TELL}",
            )
        if seen is None:
            self._see(wanted.path, entry)
        return entry

    def _both(self, wanted: Version, path: str, now: datetime) -> Entry:
        found = self._trusted()
        researcher, approver = project_roles(wanted.project)
        roles = delegated(found.targets)
        for role in (researcher, approver):
            if role not in roles:
                raise TrustError(
                    Fault.REQUEST,
                    "no-project",
                    f"project {wanted.project}: no role {role} is signed; its images are not trusted",
                )
            if not roles[role].is_delegated_path(path):
                raise TrustError(
                    Fault.SIGNERS, "foreign-path", f"role {role}: it may not speak of {path}; {_TELL}: delegate it anew"
                )
        check_project_keys(found.root, found.targets, wanted.project)
        said = {role: entry_of(self._role(role, now), path) for role in (researcher, approver)}
        for entry in said.values():
            if entry is not None and entry.revoked is not None:
                self._see(path, entry)
                raise _revoked(wanted, entry.revoked)
        return _agreed(wanted, path, said)

    def _role(self, role: str, now: datetime) -> Targets:
        found = self._trusted()
        if not found.contains(role, TARGETS):
            found.reference_time = now
            self._listed(found, role, self._source, found.snapshot.meta.get(f"{role}.json"))
        held = cast(Targets, found[role])
        if held.is_expired(now):
            raise _expired(role, held.expires, now)
        return held

    # -- metadata ---------------------------------------------------------------------------------------------

    def _load(self, now: datetime, source: Source) -> TrustedMetadataSet:
        found = self._roots(now, source)
        kept = self._kept(TIMESTAMP)
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_timestamp(kept)
        if found.root.is_expired(now):
            raise _expired(ROOT, found.root.expires, now)
        content = self._get(source, "metadata/timestamp.json", TIMESTAMP_BYTES)
        with contextlib.suppress(EqualVersionNumberError):
            _verified(TIMESTAMP, now, lambda: found.update_timestamp(content))
            self._keep(TIMESTAMP, content)
        return self._below(found, now, source)

    def _load_kept(self, now: datetime, reason: TrustError) -> TrustedMetadataSet:
        """What is here, without asking anybody."""
        nobody = _Nobody(reason)
        found = self._roots(now, nobody)
        content = self._kept(TIMESTAMP)
        if content is None:
            raise reason
        _verified(TIMESTAMP, now, lambda: found.update_timestamp(content))
        return self._below(found, now, nobody)

    def _roots(self, now: datetime, source: Source) -> TrustedMetadataSet:
        found = _verified(ROOT, now, lambda: TrustedMetadataSet(self._bootstrap, EnvelopeType.METADATA), Fault.DESKTOP)
        found.reference_time = now
        check_root_keys(found.root)
        asked = False
        for _ in range(ROOT_ROTATIONS):
            number = found.root.version + 1
            content = None if asked else self._kept(f"{number}.{ROOT}")
            if content is not None and _follows(found, content):
                continue
            asked = True
            try:
                content = self._get(source, f"metadata/{number}.{ROOT}.json", ROOT_BYTES, absent=True)
            except Absent:
                break
            root: Root = _verified(ROOT, now, lambda new=content: found.update_root(new))  # type: ignore[misc]
            check_root_keys(root)
            self._keep(f"{number}.{ROOT}", content)
        check_root_keys(found.root)
        return found

    def _below(self, found: TrustedMetadataSet, now: datetime, source: Source) -> TrustedMetadataSet:
        if found.timestamp.is_expired(now):
            raise _expired(TIMESTAMP, found.timestamp.expires, now)
        if found.timestamp.expires - now > LONGEST_TIMESTAMP:
            raise TrustError(
                Fault.DESKTOP,
                "clock-behind",
                f"clock of this computer: got {_at(now)}, but the newest timestamp is good until "
                f"{_at(found.timestamp.expires)}, expected at most {LONGEST_TIMESTAMP.days} days from now; set the "
                f"clock right, or, if it is right, {_TELL}",
            )
        meta = found.timestamp.snapshot_meta
        kept = self._kept(SNAPSHOT)
        good = False
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_snapshot(kept, trusted=True)
                good = True
        if not good:
            content = self._get(source, f"metadata/{meta.version}.{SNAPSHOT}.json", _bound(meta))
            _verified(SNAPSHOT, now, lambda: found.update_snapshot(content))
            self._keep(SNAPSHOT, content)
        self._listed(found, TARGETS, source, found.snapshot.meta.get(f"{TARGETS}.json"))
        return found

    def _listed(self, found: TrustedMetadataSet, role: str, source: Source, meta: MetaFile | None) -> None:
        above, now = (ROOT if role == TARGETS else TARGETS), found.reference_time
        if meta is None:
            raise TrustError(
                Fault.SIGNERS,
                "no-role",
                f"role {role}: nothing is published yet that it signed; see `deskgrid trust status`",
            )
        kept = self._kept(role)
        if kept is not None:
            with contextlib.suppress(*_BAD):
                found.update_delegated_targets(kept, role, above)
                return
        content = self._get(source, f"metadata/{meta.version}.{role}.json", _bound(meta))
        _verified(role, now, lambda: found.update_delegated_targets(content, role, above))
        self._keep(role, content)

    def _trusted(self) -> TrustedMetadataSet:
        if self._set is None:
            raise TrustError(Fault.DESKTOP, "not-refreshed", "images: nothing is known yet; refresh first")
        return self._set

    def _check_fresh(self, now: datetime) -> None:
        found = self._trusted()
        for role in (ROOT, TIMESTAMP, SNAPSHOT, TARGETS):
            if found[role].is_expired(now):
                raise _expired(role, found[role].expires, now)

    def _check_clock(self, now: datetime) -> None:
        if now.tzinfo is None:
            raise ValueError("now: expected an aware datetime")
        last = self._seen.checked_at
        if last is not None and now < last - SLACK:
            raise TrustError(
                Fault.DESKTOP,
                "clock-behind",
                f"clock of this computer: got {_at(now)}, expected {_at(last)} or later, when images were checked; "
                "set it right: old images would look fresh",
            )

    # -- bytes ------------------------------------------------------------------------------------------------

    def _content(self, path: str, entry: Entry) -> bytes:
        place = self._folder / "manifests" / entry.sha256
        with contextlib.suppress(OSError):
            content = place.read_bytes() if place.stat().st_size == entry.size_bytes else b""
            if hashlib.sha256(content).hexdigest() == entry.sha256:
                return content
        folder, _, file = path.rpartition("/")
        content = self._get(self._source, f"targets/{folder}/{entry.sha256}.{file}", entry.size_bytes)
        found = hashlib.sha256(content).hexdigest()
        if len(content) != entry.size_bytes or found != entry.sha256:
            raise TrustError(
                Fault.REPOSITORY,
                "mixed",
                f"{path}: got {len(content)} bytes with SHA-256 {found[:12]}…, expected {entry.size_bytes} with "
                f"{entry.sha256[:12]}…: it is not what was signed; {_TELL}",
            )
        self._write(place, content)
        self._prune(place)
        return content

    def _get(self, source: Source, path: str, most_bytes: int, absent: bool = False) -> bytes:
        try:
            content = source.get(path, most_bytes)
        except Absent:
            if absent:
                raise
            raise TrustError(
                Fault.REPOSITORY, "missing", f"repository: {path} is not there, but what is signed lists it; {_TELL}"
            ) from None
        if len(content) > most_bytes:
            raise TrustError(
                Fault.REPOSITORY, "too-long", f"repository: {path}: got more than {most_bytes} bytes; {_TELL}"
            )
        return content

    def _prune(self, newest: Path) -> None:
        with contextlib.suppress(OSError):
            kept = sorted((p for p in newest.parent.iterdir() if p != newest), key=lambda p: p.stat().st_mtime)
            for old in kept[: max(0, len(kept) + 1 - _MANIFESTS_KEPT)]:
                old.unlink()

    def _kept(self, name: str) -> bytes | None:
        try:
            with (self._folder / f"{name}.json").open("rb") as file:
                return file.read(METADATA_BYTES)
        except OSError:
            return None

    def _keep(self, name: str, content: bytes) -> None:
        self._write(self._folder / f"{name}.json", content)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content, 0o600)
        except OSError as error:
            raise self._disk(error) from None

    def _disk(self, error: OSError) -> TrustError:
        return TrustError(
            Fault.DESKTOP,
            "disk",
            f"folder {self._folder}: {error.strerror or error}; make room, or let the agent write there",
        )

    # -- memory -----------------------------------------------------------------------------------------------

    def _recall(self) -> _Seen:
        try:
            return msgspec.json.decode((self._folder / "seen").read_bytes(), type=_Seen)
        except FileNotFoundError:
            return _Seen()
        except (OSError, msgspec.DecodeError) as error:
            raise TrustError(
                Fault.DESKTOP,
                "damaged",
                f"{self._folder}/seen: can't be read: {error}; it remembers what images were: delete it only if the "
                "disk was damaged",
            ) from None

    def _see(self, path: str, entry: Entry) -> None:
        if self._seen.entries.get(path) != entry:
            self._seen.entries[path] = entry
            self._remember()

    def _note_time(self, now: datetime) -> None:
        last = self._seen.checked_at
        if last is None or now - last > SLACK / 6:
            self._seen.checked_at = now
            self._remember()

    def _remember(self) -> None:
        self._write(self._folder / "seen", msgspec.json.encode(self._seen))

    def _lock(self) -> None:
        end = time.monotonic() + self._wait
        while True:
            try:
                self._stack.enter_context(locked(self._folder / "lock", wait=False))
                return
            except Locked:
                if time.monotonic() >= end:
                    raise TrustError(
                        Fault.DESKTOP,
                        "locked",
                        f"folder {self._folder}: another process checks images in it; try again",
                    ) from None
                time.sleep(0.05)


class _Nobody:
    """A source when nobody can be asked: there is no newer root, and nothing else."""

    def __init__(self, reason: TrustError) -> None:
        self._reason = reason

    def get(self, path: str, most_bytes: int) -> bytes:
        if path.endswith(f".{ROOT}.json"):
            raise Absent(path)
        raise self._reason


def _agreed(wanted: Version, path: str, said: dict[str, Entry | None]) -> Entry:
    silent = [role for role, entry in said.items() if entry is None]
    if len(silent) == len(said):
        raise TrustError(Fault.REQUEST, "no-image", f"image {path}: nobody has signed it; is its name right?")
    if silent:
        raise TrustError(
            Fault.SIGNERS,
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
            Fault.SIGNERS, "disagree", f"image {wanted}: its two roles list different content for {path}; {_TELL}"
        )
    return first.plain


def _follows(found: TrustedMetadataSet, content: bytes) -> bool:
    try:
        found.update_root(content)
    except _BAD:
        return False
    return True


def _bound(meta: MetaFile) -> int:
    return min(meta.length or METADATA_BYTES, METADATA_BYTES)


def _verified(role: str, now: datetime, step: Callable[[], T], fault: Fault = Fault.REPOSITORY) -> T:
    """Do a step of python-tuf; what it refuses becomes a sentence."""
    try:
        return step()
    except EqualVersionNumberError:
        raise
    except ExpiredMetadataError:
        raise _expired(role, None, now) from None
    except UnsignedMetadataError as error:
        raise TrustError(
            fault,
            "bad-signatures",
            f"role {role}: {error}, expected enough of the right keys; it is not trusted: {_TELL}",
        ) from None
    except BadVersionNumberError as error:
        raise TrustError(
            fault, "rolled-back", f"role {role}: {error}: somebody serves old metadata, or mixes them; {_TELL}"
        ) from None
    except LengthOrHashMismatchError as error:
        raise TrustError(fault, "mixed", f"role {role}: {error}: it is not the file that was listed; {_TELL}") from None
    except _BAD as error:
        raise TrustError(
            fault,
            "damaged",
            f"role {role}: got something else than its metadata ({error}); is there a login page between, or {_TELL}",
        ) from None


def _expired(role: str, expires: datetime | None, now: datetime) -> TrustError:
    when = f" at {_at(expires)}" if expires else ""
    if role in (TIMESTAMP, SNAPSHOT):
        fault, who = Fault.REPOSITORY, "the coordinator does not renew it, or somebody holds news back"
    else:
        fault, who = Fault.SIGNERS, "those who hold its keys must sign it anew"
    return TrustError(
        fault,
        f"expired-{role}" if role in (ROOT, TIMESTAMP, SNAPSHOT, TARGETS) else "expired-role",
        f"role {role}: it expired{when}; {who}. This computer's clock says {_at(now)}: if that is wrong, set it right. "
        "Until then nothing new starts",
    )


def _revoked(wanted: Version, why: str) -> TrustError:
    return TrustError(Fault.SIGNERS, "revoked", f"image {wanted}: revoked: {why}; use another version")


def _at(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
