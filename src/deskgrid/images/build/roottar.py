"""The tar of a root tree: read file by file, and written again so that the same tree gives the same bytes.

Rules:
- Order by path, parents before children, hard links after what they link to; no time stamp later than the epoch.
- What belongs to one machine or one moment is left out: device nodes, host keys and other keys that packages make when
  they are installed, machine id, logs, caches, package lists, random seeds, leases, what cloud-init remembers, backups
  of the accounts, and what is in /run, /tmp and /var/tmp.
- Bytecode of Python's own packaging helpers is left out too: it is written when they are first imported, while packages
  are installed, and is not the same twice.
- Nothing is read into memory as a whole but single small files.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

from deskgrid.images.build.contents import TreeEntry

_DROPPED = re.compile(
    r"""(
    dev/.+ | run/.+ | tmp/.+ | var/tmp/.+ | proc/.+ | sys/.+ | \.dockerenv
    | etc/ssh/ssh_host_.* | etc/machine-id | var/lib/dbus/machine-id | etc/hostid | etc/\.pwd\.lock
    | etc/ssl/private/.+ | etc/ssl/certs/ssl-cert-snakeoil\.pem | etc/munge/munge\.key | etc/bind/rndc\.key
    | etc/iscsi/initiatorname\.iscsi | etc/nvme/host(id|nqn)
    | etc/(passwd|shadow|group|gshadow|subuid|subgid)-
    | etc/(hostname|hosts|resolv\.conf)
    | var/cache/(ldconfig|apt|man|fontconfig)/.+ | var/lib/apt/lists/.+ | var/(lib/dpkg|cache/debconf)/.+-old
    | var/lib/systemd/(random-seed|credential\.secret|catalog/.+)
    | var/lib/(urandom|seedrng|cloud|dhcp|NetworkManager)/.+
    | var/log/.*[^/] | root/\.[^/]*_history | etc/condor/passwords\.d/.+ | etc/condor/tokens\.d/.+
    | boot/initrd\.img.* | boot/vmlinuz.* | vmlinuz(\.old)? | initrd\.img(\.old)?
    | usr/share/python3/.*__pycache__(/.*)?
    | usr/lib/deskgrid/build(/.*)?
    )\Z""",
    re.VERBOSE,
)
_FIXED = {
    "etc/machine-id": b"",
    "etc/hostname": b"deskgrid\n",
    "etc/hosts": b"127.0.0.1 localhost deskgrid\n",
    "etc/resolv.conf": b"",
}
RULES = (_DROPPED.pattern, _FIXED)
"""What an image depends on here."""

_ATTRIBUTES = ("SCHILY.xattr.security.", "SCHILY.xattr.user.")


class RootTar:
    """A root tree's tar, open for reading. Paths have no leading "./" or "/"."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "r:")  # noqa: SIM115 -- open for as long as this object
        self.members: dict[str, tarfile.TarInfo] = {}
        for member in self._tar:
            self.members[_clean(member.name)] = member

    def read(self, path: str) -> bytes:
        """Return a file's content, following hard links. Raises: KeyError when there is no such file."""
        member = self.members[path]
        if member.islnk():
            member = self.members[_clean(member.linkname)]
        file = self._tar.extractfile(member) if member.isreg() else None
        if file is None:
            raise KeyError(path)
        return file.read()

    def under(self, folder: str) -> list[str]:
        """Return the paths below a folder, sorted."""
        return sorted(path for path in self.members if path.startswith(folder + "/"))

    def write_normal(
        self, output: Path, epoch: int, added: Mapping[str, bytes], wanted: Collection[str] = ()
    ) -> list[TreeEntry]:
        """Write the tree again by the rules.

        Args:
            epoch: the latest time stamp, in seconds since 1970.
            added: further files (0644, root) by path.
            wanted: paths that were put there on purpose, so that they are neither left out nor replaced.

        Returns: what was written, in this order.
        """
        written: dict[str, TreeEntry] = {}
        extra = {path: data for path, data in {**_FIXED, **added}.items() if path not in wanted}
        kept = {
            path: member
            for path, member in self.members.items()
            if path not in extra and (path in wanted or not dropped(path, member))
        }
        with tarfile.open(output, "w:", format=tarfile.PAX_FORMAT) as sink:
            for path in sorted({*kept, *extra}, key=lambda path: _order(path, kept.get(path))):
                if path in extra:
                    member = _plain(path, len(extra[path]), epoch)
                    source: IO[bytes] | None = io.BytesIO(extra[path])
                else:
                    member = _normal(kept[path], path, epoch)
                    source = self._tar.extractfile(kept[path]) if member.isreg() else None
                summed = _Summed(source) if source is not None else None
                sink.addfile(member, summed)
                written[path] = _entry(path, member, summed.total.hexdigest() if summed else "", written)
        return list(written.values())

    def close(self) -> None:
        """Close the file."""
        self._tar.close()

    def __enter__(self) -> "RootTar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Summed:
    """A file that is read to its end, with its sum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.total = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.total.update(data)
        return data


def _entry(path: str, member: tarfile.TarInfo, sha256: str, written: Mapping[str, TreeEntry]) -> TreeEntry:
    about = (member.mode & 0o7777, member.uid, member.gid)
    if member.isdir():
        return TreeEntry(path, "dir", *about)
    if member.issym():
        return TreeEntry(path, "link", *about, link=member.linkname)
    if member.islnk():
        target = written.get(member.linkname)
        return TreeEntry(path, "file", *about, target.size if target else 0, target.sha256 if target else "")
    return TreeEntry(path, "file", *about, member.size, sha256)


def dropped(path: str, member: tarfile.TarInfo) -> bool:
    """Whether a member of a tree does not belong into an image."""
    if member.ischr() or member.isblk() or member.isfifo():
        return True
    if member.isdir() and path.startswith("var/log/"):
        return False
    return _DROPPED.match(path) is not None


def _order(path: str, member: tarfile.TarInfo | None) -> tuple[bool, tuple[str, ...]]:
    return member is not None and member.islnk(), tuple(path.split("/"))


def _normal(member: tarfile.TarInfo, path: str, epoch: int) -> tarfile.TarInfo:
    normal = tarfile.TarInfo(path or ".")
    normal.type, normal.mode, normal.uid, normal.gid = member.type, member.mode, member.uid, member.gid
    normal.size = member.size if member.isreg() else 0
    normal.linkname = _clean(member.linkname) if member.islnk() else member.linkname
    normal.mtime = min(int(member.mtime), epoch)
    normal.pax_headers = {key: value for key, value in member.pax_headers.items() if key.startswith(_ATTRIBUTES)}
    if not path:
        normal.mode = 0o755
    return normal


def _plain(path: str, size: int, epoch: int) -> tarfile.TarInfo:
    plain = tarfile.TarInfo(path)
    plain.size, plain.mode, plain.mtime = size, 0o644, epoch
    return plain


def _clean(name: str) -> str:
    """The name without "./" and slashes at its ends; the root folder is ""."""
    return re.sub(r"^(\.?/)+|/+$", "", name) if name not in (".", "./") else ""
