"""An initial RAM disk as bytes: the kernel's own archive format (cpio, "newc").

Rules
- The same entries give the same bytes: order as given, owner 0:0, time 0, inode numbers counted from 1.
- Not compressed: under software emulation the guest unpacks plain bytes far faster than it decompresses.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel.
"""

import stat
from collections.abc import Iterable
from typing import NamedTuple

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


class CpioEntry(NamedTuple):
    """One file of the archive. mode: type and permissions as in stat; data: content, or a symbolic link's target."""

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str) -> CpioEntry:
    """Return a directory."""
    return CpioEntry(path, stat.S_IFDIR | 0o755)


def program(path: str, data: bytes) -> CpioEntry:
    """Return a file that may be executed."""
    return CpioEntry(path, stat.S_IFREG | 0o755, data)


def plain(path: str, data: bytes) -> CpioEntry:
    """Return a file that is read."""
    return CpioEntry(path, stat.S_IFREG | 0o644, data)


def character_device(path: str, major: int, minor: int) -> CpioEntry:
    """Return a character device, such as the console that the kernel opens before /dev is mounted."""
    return CpioEntry(path, stat.S_IFCHR | 0o600, b"", (major, minor))


def archive(entries: Iterable[CpioEntry]) -> bytes:
    """Return the entries as one archive, in the order given (a directory before what is in it)."""
    parts = [_record(number, entry) for number, entry in enumerate(entries, start=1)]
    parts.append(_record(0, CpioEntry(_TRAILER, 0)))
    return _padded(b"".join(parts), 512)


def _record(inode: int, entry: CpioEntry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    header = _MAGIC + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + name, 4) + _padded(entry.data, 4)


def _padded(data: bytes, unit: int) -> bytes:
    return data + b"\0" * (-len(data) % unit)
