"""Kernel and initial RAM disk of an image, taken from its root tree.

Rules:
- The initial RAM disk is ours and small: busybox, a dozen modules, not compressed. Its `init` is guest/initrd-init.
- Modules are loaded in three lists: `first` (virtio disk), `others` (disks of VirtualBox and older machines, only when
  the first brought none) and `network`; each list has dependencies before what needs them.
- For direct boot the kernel is given as what `vmlinuz` holds packed (an ELF file with a PVH entry): unpacking it
  under software emulation costs more than the whole rest of the kernel's start.

Source: Documentation/arch/x86/boot.rst (payload_offset, payload_length), modules.dep(5).
"""

import lzma
import re
import struct
import subprocess
import tempfile
import zlib
from pathlib import Path

from deskgrid.host.system.programs import ENVIRONMENT
from deskgrid.images.build import cpio
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.contract import ImageError

FIRST = ("virtio_blk",)
OTHERS = ("ahci", "ata_piix", "sd_mod", "virtio_scsi", "nvme")
NETWORK = ("virtio_net", "virtio_rng", "e1000")

_APT_HELPER = Path("/usr/lib/apt/apt-helper")
_ELF = b"\x7fELF"


def version(tree: RootTar) -> str:
    """Return the version of the newest kernel in the tree. Raises: ImageError when there is none."""
    found = [match[1] for path in tree.members if (match := re.fullmatch(r"boot/vmlinuz-([^/]+)", path))]
    if not found:
        raise ImageError("kernel of the image: got no /boot/vmlinuz-*, expected one; add a linux-image package")
    return max(found, key=_natural)


def vmlinuz(tree: RootTar) -> bytes:
    """Return the packed kernel, as GRUB boots it."""
    return tree.read(f"boot/vmlinuz-{version(tree)}")


def unpacked(packed: bytes) -> bytes:
    """Return the ELF file that a packed x86 kernel holds; the packed kernel itself when it can't be unpacked."""
    if packed[0x202:0x206] != b"HdrS" and packed[0x1FE:0x200] != b"\x55\xaa":
        return packed
    offset, length = struct.unpack_from("<II", packed, 0x248)
    start = (packed[0x1F1] + 1) * 512 + offset
    try:
        elf = _decompressed(packed[start : start + length])
    except (OSError, ValueError, lzma.LZMAError, zlib.error, subprocess.SubprocessError):
        return packed
    return elf if elf.startswith(_ELF) else packed


def _decompressed(payload: bytes) -> bytes:
    if payload.startswith(_ELF):
        return payload
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    if payload.startswith(b"\xfd7zXZ\x00"):
        return lzma.LZMADecompressor().decompress(payload)
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd(payload[:-4])  # the kernel's build appends the size
    raise ValueError("unknown compression")


def _zstd(data: bytes) -> bytes:
    """Decompress with APT's own reader, which is wherever mmdebstrap is."""
    with tempfile.NamedTemporaryFile(suffix=".zst") as file:
        file.write(data)
        file.flush()
        argv = [str(_APT_HELPER), "cat-file", file.name]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=120, env=ENVIRONMENT
        )
        return done.stdout


def initrd(tree: RootTar, init: bytes) -> bytes:
    """Return the initial RAM disk. init: the program that it starts. Raises: ImageError."""
    folders = ("bin", "dev", "proc", "sys", "disk", "modules")
    entries = [cpio.directory(folder) for folder in folders]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.program("bin/busybox", _busybox(tree)))
    entries.append(cpio.program("init", init))
    modules: dict[str, bytes] = {}
    for name, wanted in (("first", FIRST), ("others", OTHERS), ("network", NETWORK)):
        needed = _modules(tree, wanted)
        modules |= {Path(path).name.split(".ko")[0] + ".ko": _module(tree, path) for path in needed}
        listed = "".join(f"{Path(path).name.split('.ko')[0]}.ko\n" for path in needed)
        entries.append(cpio.plain(f"modules/{name}", listed.encode()))
    entries += [cpio.plain(f"modules/{name}", data) for name, data in sorted(modules.items())]
    return cpio.archive(entries)


def _busybox(tree: RootTar) -> bytes:
    for path in ("usr/bin/busybox", "bin/busybox"):
        if path in tree.members:
            return tree.read(path)
    raise ImageError("image: got no busybox, expected the package busybox-static in it")


def _modules(tree: RootTar, wanted: tuple[str, ...]) -> list[str]:
    """Return the module files in the order in which they are to be loaded; built-in or unknown ones are left out."""
    folder = _module_folder(tree)
    needs: dict[str, list[str]] = {}
    for line in tree.read(f"{folder}/modules.dep").decode().splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".ko")[0].replace("-", "_"): path for path in needs}
    order: list[str] = []
    for path in (by_name[name] for name in wanted if name in by_name):
        order += [step for step in (*reversed(needs[path]), path) if step not in order]
    return [f"{folder}/{path}" for path in order]


def _module_folder(tree: RootTar) -> str:
    name = version(tree)
    for folder in (f"usr/lib/modules/{name}", f"lib/modules/{name}"):
        if f"{folder}/modules.dep" in tree.members:
            return folder
    raise ImageError(f"kernel {name} of the image: got no modules.dep, expected its modules below /lib/modules")


def _module(tree: RootTar, path: str) -> bytes:
    data = tree.read(path)
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return zlib.decompressobj(wbits=31).decompress(data)
    return _zstd(data) if path.endswith(".zst") else data


def _natural(text: str) -> list[tuple[int, str]]:
    """Order 6.12 after 6.9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
