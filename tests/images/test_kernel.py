"""Kernel and initial RAM disk from a tree made by hand."""

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from deskgrid.images.build import cpio, kernel
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.contract import ImageError

from .trees import plain, write

K = "usr/lib/modules/6.12.9"
DEPENDENCIES = f"""\
kernel/drivers/block/virtio_blk.ko.xz:
kernel/net/core/failover.ko.xz:
kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz
kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz kernel/net/core/failover.ko.xz
kernel/drivers/char/virtio-rng.ko.xz:
{"kernel/drivers/other.ko.xz:"}
"""


def tree(folder: Path, *more: tuple[object, bytes]) -> RootTar:
    modules = [line.split(":")[0] for line in DEPENDENCIES.splitlines()]
    return RootTar(
        write(
            folder / "tree.tar",
            plain(f"./{K}/modules.dep", DEPENDENCIES.encode()),
            *(plain(f"./{K}/{path}", lzma.compress(Path(path).name.encode())) for path in modules),
            plain("./boot/vmlinuz-6.12.9", b"kernel"),
            plain("./usr/bin/busybox", b"busybox"),
            *more,  # type: ignore[arg-type]
        )
    )


def unpack(archive: bytes) -> dict[str, bytes]:
    found, at = {}, 0
    while True:
        numbers = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        assert archive[at : at + 6] == b"070701"
        name = archive[at + 110 : at + 110 + numbers[11] - 1].decode()
        start = (at + 110 + numbers[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = archive[start : start + numbers[6]]
        at = (start + numbers[6] + 3) // 4 * 4


def bzimage(payload: bytes) -> bytes:
    """As much of a packed kernel as says where its payload is."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + bytes(16) + payload + bytes(64)


def test_modules_are_listed_with_what_they_need_before_them(tmp_path: Path) -> None:
    with tree(tmp_path) as root:
        found = unpack(kernel.initrd(root, b"#!init"))
    assert found["modules/first"] == b"virtio_blk.ko\n"
    assert found["modules/network"] == b"failover.ko\nnet_failover.ko\nvirtio_net.ko\nvirtio-rng.ko\n"
    assert found["modules/others"] == b""
    assert found["modules/virtio_net.ko"] == b"virtio_net.ko.xz"
    assert "modules/other.ko" not in found
    assert (found["init"], found["bin/busybox"]) == (b"#!init", b"busybox")


def test_the_same_tree_gives_the_same_initial_ram_disk(tmp_path: Path) -> None:
    with tree(tmp_path) as root:
        assert kernel.initrd(root, b"i") == kernel.initrd(root, b"i")


def test_the_newest_kernel_is_taken_by_number_not_by_letter(tmp_path: Path) -> None:
    with tree(tmp_path, plain("./boot/vmlinuz-6.9.30", b"old")) as root:
        assert kernel.version(root) == "6.12.9"


def test_a_tree_without_kernel_busybox_or_modules_is_refused_in_words(tmp_path: Path) -> None:
    with RootTar(write(tmp_path / "a.tar", plain("./x"))) as root, pytest.raises(ImageError, match="linux-image"):
        kernel.version(root)
    with (
        RootTar(write(tmp_path / "b.tar", plain("./boot/vmlinuz-1"), plain("./x"))) as root,
        pytest.raises(ImageError, match="busybox-static"),
    ):
        kernel.initrd(root, b"")
    with (
        RootTar(write(tmp_path / "c.tar", plain("./boot/vmlinuz-1"), plain("./bin/busybox"))) as root,
        pytest.raises(ImageError, match=r"modules\.dep"),
    ):
        kernel.initrd(root, b"")


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes], ids=["xz", "gzip", "plain"])
def test_a_packed_kernel_is_unpacked(pack: object) -> None:
    elf = b"\x7fELF" + b"text" * 100
    assert kernel.unpacked(bzimage(pack(elf))) == elf  # type: ignore[operator]


@pytest.mark.parametrize(
    "payload", [b"unknown", lzma.compress(b"no elf"), b"\xfd7zXZ\x00broken", b"\x28\xb5\x2f\xfdzz"]
)
def test_a_kernel_that_can_not_be_unpacked_stays_as_it_is(payload: bytes) -> None:
    packed = bzimage(payload)
    assert kernel.unpacked(packed) == packed


def test_a_record_of_the_archive_is_as_the_kernel_wants_it() -> None:
    data = cpio.archive([cpio.directory("dev"), cpio.character_device("dev/console", 5, 1), cpio.plain("a", b"12345")])
    assert len(data) % 512 == 0
    assert data[:6] == b"070701"
    assert unpack(data) == {"dev": b"", "dev/console": b"", "a": b"12345"}
    console = data[data.index(b"dev/console") - 110 :]
    assert int(console[14:22], 16) == 0o20600
    assert (int(console[78:86], 16), int(console[86:94], 16)) == (5, 1)
