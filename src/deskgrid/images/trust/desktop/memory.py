"""What a desktop keeps on disk for trust: metadata, manifests, and what it has seen.

Rules:
- One client per folder: whoever opens it holds its lock.
- Every file is whole or not there (host/system/files.py). Metadata and manifests may be lost or damaged: they are
  checked each time they are read, and fetched again. What was seen may not be: without it a changed version would look
  new.
"""

import contextlib
import hashlib
import time
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.host.system.files import make_folder, write_atomic
from deskgrid.host.system.locks import Locked, locked
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import METADATA_BYTES
from deskgrid.images.trust.values import ListedVersion, Pointer, manifest_place
from deskgrid.model.values.outside import read_json

_MANIFESTS_KEPT = 32
_TIME_KEPT_EVERY = timedelta(minutes=10)


class SeenVersions(msgspec.Struct):
    """What a desktop remembers.

    checked_at: the last time at which all was good. stamp: versions of root and timestamp that were current then.
    """

    checked_at: datetime | None = None
    stamp: tuple[int, int] = (0, 0)
    entries: dict[str, ListedVersion] = msgspec.field(default_factory=dict)
    pointers: dict[str, Pointer] = msgspec.field(default_factory=dict)


class Memory:
    """A desktop's folder. Open it, use it, close it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = contextlib.ExitStack()
        self.seen = SeenVersions()

    def open(self, wait_seconds: float) -> None:
        """Lock the folder and read what was seen. Raises: TrustError."""
        try:
            for folder in (self._folder, self._folder / "manifests"):
                make_folder(folder, 0o700)
            self._lock(time.monotonic() + wait_seconds)
        except OSError as error:
            raise self._disk(error) from None
        try:
            self.seen = self._recall()
        except TrustError:
            self.close()
            raise

    def close(self) -> None:
        """Let others use the folder."""
        self._stack.close()

    def metadata(self, name: str) -> bytes | None:
        """Metadata that were kept; None when there are none."""
        try:
            with (self._folder / f"{name}.json").open("rb") as file:
                return file.read(METADATA_BYTES)
        except OSError:
            return None

    def keep(self, name: str, content: bytes) -> None:
        """Keep metadata. Raises: TrustError."""
        self._write(self._folder / f"{name}.json", content)

    def manifest(self, entry: ListedVersion) -> bytes | None:
        """A manifest that was kept and is whole; None when there is none."""
        place = manifest_place(self._folder, entry)
        with contextlib.suppress(OSError):
            content = place.read_bytes() if place.stat().st_size == entry.size_bytes else b""
            if hashlib.sha256(content).hexdigest() == entry.sha256:
                return content
        return None

    def keep_manifest(self, entry: ListedVersion, content: bytes) -> None:
        """Keep a manifest, and let the oldest of many go. Raises: TrustError."""
        place = manifest_place(self._folder, entry)
        self._write(place, content)
        with contextlib.suppress(OSError):
            kept = sorted((p for p in place.parent.iterdir() if p != place), key=lambda p: p.stat().st_mtime)
            for old in kept[: max(0, len(kept) + 1 - _MANIFESTS_KEPT)]:
                old.unlink()

    def see(self, path: str, entry: ListedVersion) -> None:
        """Remember what a version is. Raises: TrustError."""
        if self.seen.entries.get(path) != entry:
            self.seen.entries[path] = entry
            self._remember()

    def see_pointer(self, path: str, pointer: Pointer) -> None:
        """Remember what the latest version is. Raises: TrustError."""
        if self.seen.pointers.get(path) != pointer:
            self.seen.pointers[path] = pointer
            self._remember()

    def note_time(self, now: datetime, stamp: tuple[int, int]) -> None:
        """Remember that all was good now. stamp: see `SeenVersions`; a new one moves the time. Raises: TrustError."""
        last = self.seen.checked_at
        if last is None or stamp > self.seen.stamp or now - last > _TIME_KEPT_EVERY:
            self.seen.checked_at, self.seen.stamp = now, stamp
            self._remember()

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content, 0o600)
        except OSError as error:
            raise self._disk(error) from None

    def _disk(self, error: OSError) -> TrustError:
        return TrustError(
            Duty.DESKTOP,
            "disk",
            f"folder {self._folder}: {error.strerror or error}; make room, or let the agent write there",
        )

    def _recall(self) -> SeenVersions:
        try:
            return read_json((self._folder / "seen").read_bytes(), type=SeenVersions)
        except FileNotFoundError:
            return SeenVersions()
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise TrustError(
                Duty.DESKTOP,
                "damaged",
                f"{self._folder}/seen: can't be read: {error}; it remembers what images were: delete it only if the "
                "disk was damaged",
            ) from None

    def _remember(self) -> None:
        self._write(self._folder / "seen", msgspec.json.encode(self.seen))

    def _lock(self, end: float) -> None:
        while True:
            try:
                self._stack.enter_context(locked(self._folder / "lock", wait=False))
                return
            except Locked:
                if time.monotonic() >= end:
                    raise TrustError(
                        Duty.DESKTOP,
                        "locked",
                        f"folder {self._folder}: another process checks images in it; try again",
                    ) from None
                time.sleep(0.05)
