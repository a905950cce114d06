"""Locks on files and folders. The kernel frees them when the process ends, however that ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deskgrid.host.system.files import keep_mode

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)

if sys.platform == "win32":
    import msvcrt

    _AGAIN_SECONDS = 0.1

    def _lock(handle: int, wait: bool, shared: bool) -> None:
        """A shared lock is an exclusive one there."""
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except PermissionError:
                if not wait:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return
else:
    import fcntl

    def _lock(handle: int, wait: bool, shared: bool) -> None:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


class Locked(Exception):
    """Another process holds the lock."""


def hold(path: Path, wait: bool = True, shared: bool = False, mode: int = 0o600) -> int:
    """Lock a file (made if missing, with `mode`). Returns: an open file; who closes it frees the lock.

    Raises:
        Locked: when `wait` is false and another process holds it.
        OSError: it can't be opened.
    """
    try:
        handle = os.open(path, _FLAGS)
    except FileNotFoundError:
        handle = os.open(path, _FLAGS | os.O_CREAT, 0o600)
        keep_mode(handle, mode, None)
    return _held(handle, path, wait, shared)


def hold_folder(path: Path) -> int:
    """Lock a folder, now. Returns and raises: as `hold`."""
    return _held(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), path, False, False)


def _held(handle: int, path: Path, wait: bool, shared: bool) -> int:
    try:
        _lock(handle, wait, shared)
    except (BlockingIOError, PermissionError):
        os.close(handle)
        raise Locked(f"lock {path}: another process holds it") from None
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on a file (made if missing; 644). Raises: as `hold`."""
    handle = hold(path, wait, mode=0o644)
    try:
        yield
    finally:
        os.close(handle)
