"""Files that are whole or not there."""

import codecs
import errno
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import IO

from deskgrid.host.system.account import Account

_BINARY = getattr(os, "O_BINARY", 0)


if sys.platform == "win32":

    def keep_mode(handle: int, mode: int, owner: Account | None) -> None:
        """Files have no such modes there: who may read one follows from its folder."""

    def _no_writer(handle: int, path: Path) -> None:
        """It can't be asked there."""

    def _sync_folder(folder: Path) -> None:
        """A folder can't be synced there."""
else:
    import fcntl

    def keep_mode(handle: int, mode: int, owner: Account | None) -> None:
        if owner is not None and os.geteuid() == 0:
            os.fchown(handle, owner.uid, owner.gid)
        os.fchmod(handle, mode)

    def _no_writer(handle: int, path: Path) -> None:
        """Raises: OSError when somebody has it open to write: the kernel gives no lease then (fcntl(2), F_SETLEASE)."""
        if not hasattr(fcntl, "F_SETLEASE"):
            return
        try:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise OSError(errno.ETXTBSY, "another process still writes to it", str(path)) from None

    def _sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
            keep_mode(file.fileno(), mode, owner)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_new(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file that is not there yet, so that it is whole or not there. Raises: FileExistsError, OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            keep_mode(file.fileno(), mode, None)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
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


def read_plain(path: Path, most_bytes: int) -> bytes:
    """The content of a plain file, or its beginning: one byte more than `most_bytes` says that it is longer.

    Raises: OSError, also when it is no plain file.
    """
    with open_plain(path) as file:
        return file.read(most_bytes + 1)


def create_plain(path: Path, mode: int = 0o600) -> IO[bytes]:
    """Make a new file and open it to read and write; nothing that is there, and no link, is taken for it.

    Raises: OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | _BINARY
    handle = os.open(path, flags, 0o600)
    keep_mode(handle, mode, None)
    return os.fdopen(handle, "r+b")


def give(file: IO[bytes], owner: Account, mode: int = 0o600) -> None:
    """Let an account that has fewer rights than we use an open file of ours, though not its folder."""
    keep_mode(file.fileno(), mode, owner)


def take_back(path: Path, mode: int = 0o600) -> None:
    """A file that was given away is ours again, and nobody else writes to it any more.

    Raises: OSError, also when somebody still has it open to write.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.geteuid() == 0:
            os.fchown(handle, 0, 0)
        os.fchmod(handle, mode)
        _no_writer(handle, path)
    finally:
        os.close(handle)


def make_folder(path: Path, mode: int = 0o755, new: bool = False) -> None:
    """Make a folder of ours, and its parents if they are missing (755), whatever the umask; others stay as they are.

    Raises: OSError; with `new` also when it is there.
    """
    if not new and path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    try:
        path.mkdir(0o700)
    except FileExistsError:
        if new:
            raise
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
        return
    path.chmod(mode)


def own_folder(path: Path, owner: Account, mode: int = 0o755) -> None:
    """Make a folder that belongs to `owner`, its parents included if they are missing (those stay the caller's).

    Raises: OSError, also when a link is there: who has the account could have put it there.
    """
    make_folder(path, mode)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.geteuid() == 0:
            os.fchown(handle, owner.uid, owner.gid)
        os.fchmod(handle, mode)
    finally:
        os.close(handle)
