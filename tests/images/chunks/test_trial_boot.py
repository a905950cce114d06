"""What a trial boot reads first, with the real QEMU."""

import json
import shutil
from pathlib import Path

import pytest

from deskgrid.images.build.build import build
from deskgrid.images.contract import ImageError
from deskgrid.images.publish.publish import Publication
from deskgrid.images.publish.trial import keep_reads, kept_reads
from deskgrid.images.publish.trial_boot import QEMU, qemu_args, try_out


def _source(folder: Path) -> Publication:
    return Publication(folder / "disk.raw", folder / "kernel", folder / "initrd", "quiet", 256 << 20, (), "0" * 64)


def test_the_trials_machine_reaches_no_network_and_leaves_its_disk_alone(tmp_path: Path) -> None:
    argv = qemu_args(QEMU, _source(tmp_path), tmp_path / "socket", 7)
    assert "user,id=net,ipv6=off,restrict=on" in argv
    assert any("snapshot=on" in word and "nbd+unix" in word for word in argv)


def test_first_reads_are_kept_beside_the_disk_and_a_damaged_list_is_none(tmp_path: Path) -> None:
    assert kept_reads(tmp_path) == []
    keep_reads(tmp_path, [8192, 0])
    assert kept_reads(tmp_path) == [8192, 0]
    (tmp_path / "first-reads.json").write_text("{")
    assert kept_reads(tmp_path) == []


@pytest.mark.real
@pytest.mark.skipif(shutil.which(QEMU) is None, reason="no QEMU")
def test_a_machine_that_reads_nothing_is_an_error_with_qemus_words(tmp_path: Path) -> None:
    source = _source(tmp_path)
    source.disk.write_bytes(bytes(1 << 20))
    (tmp_path / "kernel").write_bytes(b"no kernel")
    (tmp_path / "initrd").write_bytes(b"no initrd")
    with pytest.raises(ImageError, match="read nothing of its disk"):
        try_out(source, most_seconds=30)


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_demos_guest_reads_its_member_and_htcondor() -> None:
    folder = build(Path(__file__).parents[3] / "recipes/demo.toml").folder
    facts = json.loads((folder / "image.json").read_bytes())
    said: list[str] = []
    source = _source(folder)
    source = Publication(
        source.disk, source.kernel, source.initrd, facts["cmdline"], facts["memory_bytes"], (), "0" * 64
    )
    tried = try_out(source, said.append)
    assert "HTCondor's daemons start" in said
    assert len(tried.first_reads) * 4096 > 20 << 20
    assert tried.promise is not None and tried.promise.free_bytes > 512 << 20
    assert {"CondorVersion", "OpSysAndVer", "OpSysMajorVer"} <= {one.name for one in tried.promise.says}
