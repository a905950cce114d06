"""The disk of an image: a boot record, GRUB, and one ext4 partition made from a tar, without root and without mounts.

    sector 0       GRUB's boot.img with the partition table
    sector 1 …     GRUB's core.img with its one script
    1 MiB …        ext4 with everything else

Rules:
- BIOS boot: QEMU, VirtualBox and old desktops can all do it.
- The same tar, size and identity give the same bytes: UUID, hash seed and times are given.
- No journal and no checksums: a machine writes to an overlay that is thrown away, and each costs time.
- Free space is a hole in the file.

Source: mke2fs(8) and its -d with a tar; GRUB 2.12 util/setup.c (what grub-bios-setup changes in boot.img).
"""

import os
import re
import struct
import uuid
from pathlib import Path

import msgspec

from deskgrid.host.system.files import create_plain, give
from deskgrid.host.trees.entry import run_in
from deskgrid.host.trees.trees import Tree
from deskgrid.images.contract import ImageError

SECTOR = 512
PARTITION_BYTES = 1 << 20
"""Where the partition begins."""

_LINUX = 0x83
_TABLE = 446
_GRUB = "/usr/lib/grub/i386-pc"
_FEATURES = "^has_journal,^orphan_file,^metadata_csum,^metadata_csum_seed,^resize_inode,extent,dir_index,filetype,64bit"


class Identity(msgspec.Struct, frozen=True):
    """What makes a disk this one: file system UUID, seed of its directory hashes, the latest time in it."""

    uuid: str
    hash_seed: str
    epoch: int


def identity(text: str, epoch: int) -> Identity:
    """Return the identity that belongs to a text, such as the recipe's digest."""
    return Identity(
        str(uuid.uuid5(uuid.NAMESPACE_OID, f"deskgrid file system {text}")),
        str(uuid.uuid5(uuid.NAMESPACE_OID, f"deskgrid hash seed {text}")),
        epoch,
    )


def build(tools: Tree, tar: Path, disk: Path, size_bytes: int, who: Identity, cmdline: str) -> None:
    """Write the disk beside the tar, which holds /boot/vmlinuz and /boot/initrd; both in a folder of ours.

    Raises:
        ImageError: when the tree does not fit, or a tool is missing or fails.
    """
    if tar.parent != disk.parent:
        raise ValueError(f"disk {disk}: expected in the folder of {tar}")
    with create_plain(disk) as file:
        file.truncate(size_bytes)
        give(file, tools.account)
    with tar.open("rb") as file:
        give(file, tools.account, 0o400)
    _file_system(tools, tar, disk, size_bytes, who)
    core = _core(tools, disk.parent, cmdline)
    boot = (tools.root / _GRUB.lstrip("/") / "boot.img").read_bytes()
    with disk.open("r+b") as file:
        file.write(boot_record(boot, size_bytes, who))
        file.write(core)
        file.flush()
        os.fsync(file.fileno())


def boot_record(boot: bytes, size_bytes: int, who: Identity) -> bytes:
    """Return sector 0: GRUB's boot.img with the partition table in it."""
    record = bytearray(boot[:_TABLE].ljust(_TABLE, b"\0"))
    record[0x66:0x68] = b"\x90\x90"  # take the drive number that the BIOS gives (grub-bios-setup does the same)
    record[0x1B8:0x1BC] = uuid.UUID(who.uuid).bytes[:4]
    start = PARTITION_BYTES // SECTOR
    count = min(size_bytes // SECTOR - start, 0xFFFFFFFF)
    beyond = b"\xfe\xff\xff"  # cylinder, head and sector can't say it: use the sector numbers
    entry = struct.pack("<B3sB3sII", 0x80, beyond, _LINUX, beyond, start, count)
    return bytes(record) + entry + bytes(48) + b"\x55\xaa"


def _file_system(tools: Tree, tar: Path, disk: Path, size_bytes: int, who: Identity) -> None:
    blocks = (size_bytes - PARTITION_BYTES) // 4096
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", _FEATURES, "-L", "deskgrid"]
    argv += ["-U", who.uuid, "-d", str(tar)]
    argv += ["-E", f"offset={PARTITION_BYTES},hash_seed={who.hash_seed},root_owner=0:0,lazy_itable_init=1"]
    argv += [str(disk), str(blocks)]
    env = {"SOURCE_DATE_EPOCH": str(who.epoch)}
    done = run_in(tools, argv, timeout_seconds=900, binds=[disk.parent], env=env)
    if done.ok:
        return
    said = " ".join(done.stderr.split())[-300:]
    if re.search("No space left|Could not allocate", said) and _free_bytes(disk.parent) > 16 << 20:
        raise ImageError(
            f"disk of the image: got a tree of {tar.stat().st_size >> 20} MiB, which does not fit into "
            f"{size_bytes >> 20} MiB; ask for more disk_bytes in the recipe"
        )
    if "No space left" in said or _free_bytes(disk.parent) <= 16 << 20:
        raise ImageError(f"building in {disk.parent}: no space left on the disk; free some, or set another cache")
    if "libarchive" in said:
        raise ImageError(f"mke2fs in {tools.root} can't read a tar ({said}); expected e2fsprogs 1.47.1 and libarchive")
    raise ImageError(f"mke2fs could not make the disk {disk}: {done.fault}")


def _core(tools: Tree, work: Path, cmdline: str) -> bytes:
    """Return GRUB's core.img, which holds its one script."""
    script = work / "grub.cfg"
    core = work / "core.img"
    with create_plain(script) as file:
        file.write(f"linux /boot/vmlinuz {cmdline}\ninitrd /boot/initrd\nboot\n".encode())
        give(file, tools.account, 0o400)
    with create_plain(core) as file:
        give(file, tools.account)
    argv = ["grub-mkimage", "-O", "i386-pc", "-d", _GRUB, "-p", "(,msdos1)/boot/grub", "-c", str(script)]
    argv += ["-o", str(core), "biosdisk", "part_msdos", "ext2", "linux"]
    done = run_in(tools, argv, timeout_seconds=60, binds=[work])
    if not done.ok:
        raise ImageError(f"grub-mkimage failed: {done.fault}")
    image = core.read_bytes()
    script.unlink()
    core.unlink()
    if len(image) > PARTITION_BYTES - SECTOR:
        raise ImageError(f"GRUB's core.img: got {len(image)} bytes, expected at most {PARTITION_BYTES - SECTOR}")
    return image


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
