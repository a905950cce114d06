"""Files that are whole or not there, and locks that end with their process."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deskgrid.host.account import Account


class Locked(Exception):
    """Another process holds the lock."""


def write_atomic(path: Path, content: bytes, mode: int = 0o644, owner: Account | None = None) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, also after a power cut.

    Args:
        mode: the file's permission bits; the file never has more than these.
        owner: the account that shall own it; only root can give a file away.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None and os.geteuid() == 0:
                os.fchown(file.fileno(), owner.uid, owner.gid)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def own_folder(path: Path, owner: Account, mode: int = 0o755) -> None:
    """Make a folder that belongs to `owner`, its parents included if they are missing (those stay the caller's)."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid)
    path.chmod(mode)


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold an exclusive lock on `path` (made if missing); the kernel frees it when the process ends.

    Raises:
        Locked: when `wait` is false and another process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Locked(f"lock {path}: another process holds it") from None
        yield
    finally:
        os.close(handle)
