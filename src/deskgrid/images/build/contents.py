"""What files are in an image, one line each with their sums: `files.mtree`, in the form of mtree(5).

    #mtree
    ./etc type=dir mode=0755 uid=0 gid=0
    ./etc/motd type=file mode=0644 uid=0 gid=0 size=6 sha256digest=…
    ./bin type=link mode=0777 uid=0 gid=0 link=usr/bin

Rules:
- It is written while the disk is made, so that two images can be compared without looking into their disks.
- Times are not in it: they tell nothing that matters.
- A hard link has the sum of its file. What is not printable ASCII is written as \\ooo.
"""

import re
from collections.abc import Iterable

import msgspec

from deskgrid.images.contract import ImageError

FIRST_LINE = "#mtree"


class TreeEntry(msgspec.Struct, frozen=True):
    """One file of a tree. kind: dir, file or link. link: a symbolic link's target."""

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    link: str = ""


def encode(entries: Iterable[TreeEntry]) -> bytes:
    """Return the lines, sorted by path."""
    lines = [_line(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
    return "\n".join([FIRST_LINE, *lines, ""]).encode()


def decode(content: bytes) -> dict[str, TreeEntry]:
    """Return the entries by path. Raises: ImageError."""
    lines = content.decode(errors="replace").splitlines()
    if not lines or lines[0] != FIRST_LINE:
        raise ImageError(f"list of files: got {lines[:1]!r:.80}, expected {FIRST_LINE}; build the image again")
    try:
        return {entry.path: entry for entry in map(_entry, lines[1:])}
    except (KeyError, ValueError) as error:
        raise ImageError(f"list of files: {error}; build the image again") from None


def _line(entry: TreeEntry) -> str:
    words = [f"./{_shown(entry.path)}" if entry.path else ".", f"type={entry.kind}", f"mode={entry.mode:04o}"]
    words += [f"uid={entry.uid}", f"gid={entry.gid}"]
    if entry.kind == "file":
        words += [f"size={entry.size}", f"sha256digest={entry.sha256}"]
    if entry.kind == "link":
        words.append(f"link={_shown(entry.link)}")
    return " ".join(words)


def _entry(line: str) -> TreeEntry:
    path, *words = line.split(" ")
    said = dict(word.split("=", 1) for word in words)
    return TreeEntry(
        _read(path).removeprefix(".").removeprefix("/"),
        said["type"],
        int(said["mode"], 8),
        int(said["uid"]),
        int(said["gid"]),
        int(said.get("size", "0")),
        said.get("sha256digest", ""),
        _read(said.get("link", "")),
    )


def _shown(text: str) -> str:
    raw = text.encode("utf-8", "surrogateescape")
    return "".join(chr(byte) if 0x21 <= byte <= 0x7E and byte not in b"\\#" else f"\\{byte:03o}" for byte in raw)


def _read(text: str) -> str:
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text.encode())
    return raw.decode("utf-8", "surrogateescape")
