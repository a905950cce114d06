"""Files that are whole or not there, and locks that end with their process."""

import codecs
import errno
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from deskgrid.host.account import Account

_AGAIN_SECONDS = 0.1
_BINARY = getattr(os, "O_BINARY", 0)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int, wait: bool) -> None:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            except PermissionError:
                if not wait:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return

    def _keep_mode(handle: int, mode: int, owner: Account | None) -> None:
        """Files have no such modes there: who may read one follows from its folder."""

    def _sync_folder(folder: Path) -> None:
        """A folder can't be synced there."""
else:
    import fcntl

    def _lock(handle: int, wait: bool) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def _keep_mode(handle: int, mode: int, owner: Account | None) -> None:
        if owner is not None and os.geteuid() == 0:
            os.fchown(handle, owner.uid, owner.gid)
        os.fchmod(handle, mode)

    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Locked(Exception):
    """Another process holds the lock."""


def decoded(content: bytes) -> str:
    """The text of a file that a person wrote, without the byte order mark that some editors put before it.

    Raises: ValueError: it is no UTF-8; the sentence says what it is, as far as can be told.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:64]:
        raise ValueError("got UTF-16, or no text at all, expected UTF-8; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"got bytes that are not UTF-8 in line {line}; save it as UTF-8") from None


def write_atomic(path: Path, content: bytes, mode: int = 0o644, owner: Account | None = None) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, also after a power cut.

    Args:
        mode: the file's permission bits; the file never has more than these.
        owner: the account that shall own it; only root can give a file away.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            _keep_mode(file.fileno(), mode, owner)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file to read, and nothing else: a pipe would be waited for, a device may do or give anything.

    Raises: OSError, also when it is none.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | _BINARY)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    return os.fdopen(handle, "rb")


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
    handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    try:
        try:
            _lock(handle, wait)
        except (BlockingIOError, PermissionError):
            raise Locked(f"lock {path}: another process holds it") from None
        yield
    finally:
        os.close(handle)
