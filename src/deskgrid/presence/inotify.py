"""Hear from the kernel that a folder or file has changed (inotify(7)), without polling.

Rules:
- An event only says "look again": what happened is read from the file system, so a lost or merged event does no harm.
- A path that isn't there yet is asked for again by the next `add`; a path that went away and came back too.
- Where there is no inotify (another system, no instances left), `open_inotify` returns None: the caller polls.
"""

import ctypes
import errno
import os
import struct
from pathlib import Path

IN_MODIFY = 0x002
IN_ATTRIB = 0x004
IN_CLOSE_WRITE = 0x008
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_IGNORED = 0x8000
ENTRIES = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO
"""Entries of a folder come and go."""

_HEAD = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, len; then len bytes of name
_BUFFER_BYTES = 16384


class Inotify:
    """One inotify instance and what it watches."""

    def __init__(self) -> None:
        """Raises OSError when the kernel gives no instance (fs.inotify.max_user_instances)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {os.strerror(ctypes.get_errno())}")
        self._watched: dict[int, tuple[Path, int]] = {}

    def fileno(self) -> int:
        """The descriptor, readable when something changed."""
        return self._fd

    def add(self, path: Path, mask: int) -> bool:
        """Watch `path` for `mask`, if it isn't yet.

        Returns: whether it is watched now; False when it is missing or must not be read.
        """
        if (path, mask) in self._watched.values():
            return True
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        if watch < 0:
            return False
        self._watched[watch] = (path, mask)
        return True

    def drain(self) -> set[str]:
        """Take all events that wait. Returns the names of entries concerned ("" for a watched file itself)."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                return names
            except InterruptedError:
                continue
            offset = 0
            while offset < len(data):
                watch, mask, _, length = _HEAD.unpack_from(data, offset)
                name = data[offset + _HEAD.size : offset + _HEAD.size + length].rstrip(b"\0")
                names.add(os.fsdecode(name))
                if mask & IN_IGNORED:
                    self._watched.pop(watch, None)
                offset += _HEAD.size + length

    def close(self) -> None:
        """Stop; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._watched.clear()


def open_inotify() -> Inotify | None:
    """Return an instance, or None where there is none to be had."""
    try:
        return Inotify()
    except (OSError, AttributeError):  # AttributeError: a C library without inotify
        return None


def missing(error: OSError) -> bool:
    """Whether the error says that the thing is simply not there."""
    return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO)
