"""A store's pack files: parts of packs at their places, holes for what is not there.

Rules:
- Nothing here is believed: whoever reads checks what was read.
- A file that another process has removed meanwhile is let go before the next write.
- The page cache is the owner's: of what was read and written here at most some MiB stay in it.
"""

import os
import threading
from collections.abc import Iterable
from pathlib import Path

CACHED_BYTES = 8 << 20


class PackFiles:
    """Reads and writes parts of packs; any thread may."""

    def __init__(self, folder: Path, cached_bytes: int = CACHED_BYTES) -> None:
        """Use `folder`/<aa>/<pack>. cached_bytes: about so much stays in the page cache."""
        self._folder, self._cached_bytes = folder, cached_bytes
        self._mutex = threading.Lock()
        self._open: dict[str, int] = {}
        self._touched: set[str] = set()
        self._touched_bytes = 0

    def path(self, pack: str) -> Path:
        """Where a pack's file is."""
        return self._folder / pack[:2] / pack

    def read(self, pack: str, offset: int, length: int) -> bytes:
        """Return what is there; less or nothing when it is not. Raises: OSError when the disk fails."""
        handle = self._open.get(pack)
        if handle is None:
            handle = self._opened(pack)
        if handle is None:
            return b""
        content = os.pread(handle, length, offset)
        self._touch(pack, len(content))
        return content

    def write(self, pack: str, parts: Iterable[tuple[int, bytes]]) -> None:
        """Write parts at their offsets. Raises: OSError."""
        path = self.path(pack)
        self._forget_dead(pack)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for offset, content in parts:
                written = 0
                while written < len(content):
                    written += os.pwrite(handle, memoryview(content)[written:], offset + written)
                self._touch(pack, len(content))
        finally:
            os.close(handle)

    def remove(self, pack: str) -> None:
        """Remove a pack's file."""
        with self._mutex:
            handle = self._open.pop(pack, None)
            if handle is not None:
                os.close(handle)
            self.path(pack).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of all files."""
        with self._mutex:
            for handle in self._open.values():
                os.close(handle)
            self._open.clear()

    def _touch(self, pack: str, count: int) -> None:
        """Count what has passed through the page cache, and empty it of that now and then."""
        self._touched.add(pack)
        self._touched_bytes += count
        if self._touched_bytes < self._cached_bytes or not hasattr(os, "posix_fadvise"):
            return
        touched, self._touched, self._touched_bytes = self._touched, set(), 0
        for one in touched:
            if (handle := self._opened(one)) is not None:
                os.fdatasync(handle)  # what is not written yet would stay
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def _opened(self, pack: str) -> int | None:
        with self._mutex:
            if pack not in self._open:
                try:
                    self._open[pack] = os.open(self.path(pack), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    return None
            return self._open[pack]

    def _forget_dead(self, pack: str) -> None:
        with self._mutex:
            handle = self._open.get(pack)
            if handle is not None and os.fstat(handle).st_nlink == 0:
                os.close(self._open.pop(pack))
