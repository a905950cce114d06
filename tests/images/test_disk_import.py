"""Disks from elsewhere: what may be imported, and what becomes of it. qemu-img is the real one."""

import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from deskgrid.images.build import disk_import
from deskgrid.images.build.disk_import import fault_of, import_disk, inspect_disk
from deskgrid.images.build.listing import find_image
from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.publish.publish import publish, source_of

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
pytestmark = [needs_qemu, pytest.mark.slow]
MIB = 1 << 20


def qemu_img(*words: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        file.write((b"\xeb\x63".ljust(510, b"\0")) + b"\x55\xaa")
        file.seek(MIB)
        file.write(os.urandom(MIB))
    return path


@pytest.mark.parametrize("form", ["qcow2", "raw", "vdi", "vhdx", "vmdk"])
def test_a_disk_of_any_common_form_becomes_the_same_raw_disk(tmp_path: Path, raw: Path, form: str) -> None:
    disk = tmp_path / f"source.{form}"
    qemu_img("convert", "-f", "raw", "-O", form, raw, disk)
    said: list[float] = []
    built = import_disk(disk, "cloud", 1 << 30, cache=tmp_path / "cache", progress=lambda part, _: said.append(part))
    assert built.fresh
    assert (built.folder / manifest.DISK).read_bytes() == raw.read_bytes()
    held = manifest.read(built.folder, built.ref)
    assert held == built.manifest
    assert (held.kernel, held.initrd, held.recipe, held.disk_bytes) == (None, None, None, 64 * MIB)
    assert held.imported is not None
    assert held.imported.form == form
    assert sorted(path.name for path in built.folder.iterdir()) == [manifest.DISK, manifest.FILE, manifest.SEED]
    assert (built.folder / manifest.DISK).stat().st_blocks * 512 < 8 * MIB
    assert said == sorted(said)
    assert find_image("cloud", tmp_path / "cache/images").ref == built.ref


@pytest.mark.parametrize(
    ("first", "expected"), [(bytes(512), "no boot record"), (bytes(510) + b"\x55\xaa", "not by UEFI alone")]
)
def test_a_disk_that_can_not_boot_by_bios_is_refused(tmp_path: Path, raw: Path, first: bytes, expected: str) -> None:
    with raw.open("r+b") as file:
        file.write(first)
    with pytest.raises(ImageError, match=expected):
        import_disk(raw, "cloud", 1 << 30, cache=tmp_path)
    assert not list((tmp_path / "images").glob("cloud/*"))


def test_the_same_disk_is_found_again_and_other_words_make_another_image(tmp_path: Path, raw: Path) -> None:
    one = import_disk(raw, "cloud", 1 << 30, cache=tmp_path)
    again = import_disk(raw, "cloud", 1 << 30, cache=tmp_path)
    assert (again.ref, again.fresh) == (one.ref, False)
    other = import_disk(raw, "cloud", 1 << 30, ("condor",), cache=tmp_path)
    assert other.fresh
    assert other.ref != one.ref


def test_the_seed_of_an_image_is_covered_by_its_digest_and_the_same_again(tmp_path: Path, raw: Path) -> None:
    one = import_disk(raw, "cloud", 1 << 30, cache=tmp_path)
    other = import_disk(raw, "cloud", 1 << 30, cache=tmp_path / "elsewhere")
    assert other.ref == one.ref
    assert source_of(one.folder).sums[manifest.SEED] == manifest.measure(one.folder / manifest.SEED).sha256
    with (one.folder / manifest.SEED).open("r+b") as file:
        file.write(b"evil")
    with pytest.raises(ImageError, match="it was changed"):
        publish(source_of(one.folder), tmp_path / "web", ("lab", "cloud", "1"), ProjectKey(bytes(32)))


def test_a_disk_that_leans_on_another_file_is_refused(tmp_path: Path, raw: Path) -> None:
    leaning = tmp_path / "leaning.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", raw, leaning)
    with pytest.raises(ImageError, match="leans on another file"):
        inspect_disk(leaning)
    outside = tmp_path / "outside.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", outside, "64M")
    with pytest.raises(ImageError, match="leans on another file"):
        inspect_disk(outside)


def _swapping(path: Path, contents: list[bytes], over: threading.Event) -> None:
    """Give a name to one file after the other, as who may write to its folder can."""
    while not over.is_set():
        for content in contents:
            (path.parent / ".new").write_bytes(content)
            (path.parent / ".new").rename(path)
            over.wait(0.01)


def test_a_disk_that_is_exchanged_while_it_is_imported_brings_no_other_file_in(tmp_path: Path, raw: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(raw.read_bytes()[: 2 * MIB] + b"a secret of the host" * 1000)
    good, evil, disk = tmp_path / "good.qcow2", tmp_path / "evil.qcow2", tmp_path / "uploads/disk.qcow2"
    qemu_img("convert", "-O", "qcow2", raw, good)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, evil)
    disk.parent.mkdir()
    disk.write_bytes(good.read_bytes())
    over = threading.Event()
    swapper = threading.Thread(target=_swapping, args=(disk, [evil.read_bytes(), good.read_bytes()], over))
    swapper.start()
    try:
        for attempt in range(20):
            with contextlib.suppress(ImageError):  # the evil one, or exchanged while it was read
                built = import_disk(disk, f"try-{attempt}", 1 << 30, cache=tmp_path / "cache")
                assert (built.folder / manifest.DISK).read_bytes() == raw.read_bytes()
    finally:
        over.set()
        swapper.join()
    disk.write_bytes(good.read_bytes())
    built = import_disk(disk, "at-rest", 1 << 30, cache=tmp_path / "cache")
    assert (built.folder / manifest.DISK).read_bytes() == raw.read_bytes()


def test_what_its_header_says_later_is_not_followed(tmp_path: Path, raw: Path) -> None:
    """The header gets its backing file after it was looked at: QEMU's program is told that there is none."""
    secret, disk, out = tmp_path / "secret", tmp_path / "disk.qcow2", tmp_path / "out.raw"
    shutil.copy(raw, secret)
    qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", secret, disk)
    with disk.open("rb") as file:
        words = disk_import.spoken_of("qcow2", file)
        control = ["qemu-img", "convert", "-O", "raw", str(disk), str(out)]
        subprocess.run(control, check=True, capture_output=True)
        assert out.read_bytes() == raw.read_bytes()
        argv = ["qemu-img", "convert", "-O", "raw", words, str(out)]
        subprocess.run(argv, check=True, capture_output=True, pass_fds=[file.fileno()])
    assert not any(out.read_bytes())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to another account")
def test_the_account_that_converts_can_lead_root_nowhere(tmp_path: Path, raw: Path) -> None:
    """As root the disk is converted by an account, which owns its two files and may write to no folder."""
    qcow2 = tmp_path / "disk.qcow2"
    qemu_img("convert", "-O", "qcow2", raw, qcow2)
    seen: set[tuple[int, int, str]] = set()

    def look(part: float, said: str) -> None:
        for path in (tmp_path / "images").glob(".cloud.work"):
            facts = path.stat()
            seen.add((facts.st_uid, facts.st_mode & 0o777, said))

    built = import_disk(qcow2, "cloud", 1 << 30, cache=tmp_path, progress=look)
    assert {(uid, mode) for uid, mode, said in seen if said == "making the raw disk"} == {(0, 0o700)}
    for path in (built.folder, *built.folder.iterdir()):
        assert (path.stat().st_uid, path.stat().st_mode & 0o022) == (0, 0)


def test_a_disk_that_changes_while_it_is_read_is_refused(tmp_path: Path, raw: Path) -> None:
    def change(part: float, said: str) -> None:
        if said == "copying the disk":
            with raw.open("r+b") as file:
                file.seek(2 * MIB)
                file.write(b"later")

    with pytest.raises(ImageError, match="it was changed while it was read"):
        import_disk(raw, "cloud", 1 << 30, cache=tmp_path, progress=change)


def test_a_pipe_is_no_disk_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="no plain file"):
        import_disk(tmp_path / "pipe", "cloud", 1 << 30, cache=tmp_path)


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o777])
def test_the_umask_changes_nothing_in_what_is_made(tmp_path: Path, raw: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        built = import_disk(raw, "cloud", 1 << 30, cache=tmp_path / "cache")
    finally:
        os.umask(before)
    folders = [tmp_path / "cache", tmp_path / "cache/images", built.folder.parent, built.folder]
    assert [path.stat().st_mode & 0o777 for path in folders] == [0o755] * 4
    assert {path.stat().st_mode & 0o777 for path in built.folder.iterdir()} == {0o644}


def test_a_disk_in_several_files_is_refused(tmp_path: Path, raw: Path) -> None:
    flat = tmp_path / "flat.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, flat)
    with pytest.raises(ImageError, match="several files"):
        inspect_disk(flat)


def test_an_encrypted_disk_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    locked = tmp_path / "locked.qcow2"
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    qemu_img("create", "--object", f"secret,id=s,file={secret}", "-f", "qcow2", "-o", options, locked, "64M")
    with pytest.raises(ImageError, match="an encrypted one"):
        inspect_disk(locked)


@pytest.mark.parametrize("size", ["1M", "3T"])
def test_a_disk_of_absurd_size_is_refused(tmp_path: Path, size: str) -> None:
    disk = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", disk, size)
    with pytest.raises(ImageError, match="got a size of"):
        inspect_disk(disk)


def test_what_is_no_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file"):
        import_disk(tmp_path / "gone", "cloud", 1 << 30, cache=tmp_path)
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + os.urandom(2000))
    with pytest.raises(ImageError, match=r"broken\.qcow2"):
        inspect_disk(broken)


def test_an_interrupted_import_leaves_nothing_that_is_taken_for_an_image(tmp_path: Path, raw: Path) -> None:
    work = tmp_path / "images/.cloud.work"
    work.mkdir(parents=True)
    (work / manifest.DISK).write_bytes(b"half")
    built = import_disk(raw, "cloud", 1 << 30, cache=tmp_path)
    assert built.manifest.disk_bytes == 64 * MIB
    assert not work.exists()


def test_words_that_make_no_image_are_one_sentence(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(ImageError, match="image name: got"):
        import_disk(raw, "../x", 1 << 30, cache=tmp_path)
    with pytest.raises(ImageError, match="memory: got"):
        import_disk(raw, "cloud", 5, cache=tmp_path)
    with pytest.raises(ImageError, match="package to install: got '-x'"):
        import_disk(raw, "cloud", 1 << 30, ("-x",), cache=tmp_path)


def test_a_form_that_opens_other_things_than_files_is_refused() -> None:
    assert "got the form nbd" in fault_of({"format": "nbd", "virtual-size": 64 * MIB}, 0)
    facts = {"format": "qcow2", "virtual-size": 64 * MIB, "format-specific": {"data": {"corrupt": True}}}
    assert "marked as damaged" in fault_of(facts, 0)
