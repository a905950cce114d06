"""The overlay that we write is what QEMU understands by an encrypted qcow2."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deskgrid.hypervisor.machine.overlay import CLUSTER_BYTES, OverlayError, create, fill, layout

PASSPHRASE = b"0123456789abcdef" * 4
MIB = 1024 * 1024


def test_the_same_randomness_gives_the_same_overlay_and_other_randomness_another() -> None:
    one, again = (layout(64 * MIB, PASSPHRASE, lambda count: b"r" * count) for _ in range(2))
    assert one == again
    assert one != layout(64 * MIB, PASSPHRASE, os.urandom)


def test_the_passphrase_is_not_in_it() -> None:
    assert all(PASSPHRASE not in content for _, content in layout(64 * MIB, PASSPHRASE, os.urandom))


def test_the_file_has_no_name_and_takes_less_than_a_megabyte(tmp_path: Path) -> None:
    handle = create(tmp_path)
    fill(handle, tmp_path, 1024 * MIB, 64 * MIB, PASSPHRASE)
    assert list(tmp_path.iterdir()) == []
    state = os.fstat(handle)
    os.close(handle)
    assert state.st_size == 64 * MIB
    assert state.st_blocks * 512 < MIB


def test_a_limit_that_holds_nothing_is_refused(tmp_path: Path) -> None:
    handle = create(tmp_path)
    with pytest.raises(OverlayError, match="got a limit of 1048576 bytes, expected at least"):
        fill(handle, tmp_path, 1024 * MIB, MIB, PASSPHRASE)
    os.close(handle)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match=r"overlay in .*missing: got No such file"):
        create(tmp_path / "missing")


@pytest.mark.real
@pytest.mark.parametrize("disk_bytes", [MIB, 1024 * MIB + 512, 6 * 1024 * 1024 * MIB])
def test_qemu_reads_and_writes_it_and_finds_no_fault(tmp_path: Path, disk_bytes: int) -> None:
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed")
    file, key = tmp_path / "overlay.qcow2", tmp_path / "key"
    key.write_bytes(PASSPHRASE)
    with file.open("wb") as target:
        for offset, content in layout(disk_bytes, PASSPHRASE, os.urandom):
            target.seek(offset)
            target.write(content)
    image = [
        *("--object", f"secret,id=k,file={key}", "--image-opts"),
        f"driver=qcow2,encrypt.key-secret=k,file.filename={file}",
    ]
    commands = ["write -P 7 4096 65536", "read -P 7 4096 65536", "read -P 0 131072 65536"]
    steps = [part for command in commands for part in ("-c", command)]
    assert (
        "No errors" in subprocess.run(["qemu-img", "check", *image], capture_output=True, text=True, check=True).stdout
    )
    said = subprocess.run(["qemu-io", *image, *steps], capture_output=True, text=True, check=True)
    assert "failed" not in said.stdout
    assert (
        "No errors" in subprocess.run(["qemu-img", "check", *image], capture_output=True, text=True, check=True).stdout
    )
    assert b"\7" * 512 not in file.read_bytes()[CLUSTER_BYTES:]
