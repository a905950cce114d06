"""What a trial proves, from values; and trials on this very machine, with QEMUs that work, hang and fail."""

import os
import shutil
import stat
from pathlib import Path

import pytest

from deskgrid.host.doctor.guest import EXIT_CODE, boot_sector, disk
from deskgrid.host.doctor.trial import Run, arguments, judge, try_all
from deskgrid.host.system.process import Finished
from deskgrid.model.inventory import Verdict

DONE = Finished(EXIT_CODE, "123", "")


def test_the_guest_is_a_boot_sector_and_says_by_itself_which_bytes_it_is_made_of() -> None:
    sector = boot_sector()
    assert (len(sector), sector[-2:]) == (512, b"\x55\xaa")
    assert sector[0x65:0x6A] == bytes.fromhex("b8 10 00 00 00")  # where the far jump into long mode goes
    assert sector[0xB2:0xB4] == bytes.fromhex("ff c3")  # where the interrupt's gate points
    assert sector[0xBA:0xC0] == bytes.fromhex("17 00 d0 7c 00 00")  # what lgdt reads
    assert sector[0xC0:0xC2] == bytes.fromhex("8f 00")  # what lidt reads
    assert sector[0xD0:0xE8] == bytes.fromhex("00" * 8 + "00000000009a2000" + "0000000000920000")
    assert disk()[:512] == sector


@pytest.mark.parametrize(
    ("finished", "milliseconds", "verdict", "words"),
    [
        (DONE, 300, Verdict.WORKS, "a guest ran on it in 300 ms"),
        (DONE, 4500, Verdict.SLOW, "4500 ms, and 270 ms under software emulation"),
        (Finished(-9, "", "", True), 8000, Verdict.HANGS, "its firmware did not end"),
        (Finished(-9, "1", "", True), 8000, Verdict.HANGS, "it hangs in long mode"),
        (Finished(-9, "12", "", True), 8000, Verdict.HANGS, "its timer never rang"),
        (Finished(-6, "", "failed to set MSR 0x10a\nAborted"), 40, Verdict.FAILS, "failed to set MSR 0x10a Aborted"),
        (Finished(1, "", ""), 40, Verdict.FAILS, "QEMU ended with code 1"),
        (Finished(0, "1", ""), 40, Verdict.FAILS, "QEMU ended with code 0"),  # it restarted: a triple fault
        (Finished(EXIT_CODE, "", ""), 40, Verdict.FAILS, f"code {EXIT_CODE}"),
        (Finished(127, "", "qemu-system-x86_64: No such file or directory"), 1, Verdict.FAILS, "No such file"),
    ],
)
def test_only_a_guest_that_came_through_in_time_proves_an_accelerator(
    finished: Finished, milliseconds: int, verdict: Verdict, words: str
) -> None:
    trial, emulation = judge([Run("kvm", finished, milliseconds), Run("tcg", DONE, 270)])
    assert (trial.accelerator, trial.verdict, words in trial.sentence) == ("kvm", verdict, True), trial
    assert emulation.verdict is Verdict.WORKS


def test_an_accelerator_is_not_called_slow_when_the_whole_machine_is() -> None:
    assert [trial.verdict for trial in judge([Run("kvm", DONE, 4500), Run("tcg", DONE, 3000)])] == [Verdict.WORKS] * 2
    assert [trial.verdict for trial in judge([Run("kvm", DONE, 4500)])] == [Verdict.WORKS]


def program(folder: Path, lines: str) -> str:
    """A QEMU that does this; readable for the account that runs VMs."""
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | stat.S_IXOTH | stat.S_IROTH)
    return str(path)


def test_one_that_hangs_is_ended_when_its_time_is_over_and_the_other_is_not_held_up(tmp_path: Path) -> None:
    lines = f'case "$*" in *kvm*) printf 1; exec sleep 60;; esac; printf 123; exit {EXIT_CODE}'
    kvm, tcg = try_all(("kvm", "tcg"), program(tmp_path, lines), seconds=3.0)
    assert (kvm.verdict, tcg.verdict) == (Verdict.HANGS, Verdict.WORKS)
    assert 3000 <= kvm.milliseconds < 20_000


def test_without_accelerators_or_without_qemu_nothing_is_proven() -> None:
    assert try_all(()) == ()
    (trial,) = try_all(("tcg",), "/nonexistent/qemu", 5.0)
    assert trial.verdict is Verdict.FAILS


@pytest.mark.real
def test_on_this_machine_software_emulation_runs_the_guest() -> None:
    (trial,) = try_all(("tcg",), seconds=60.0)
    assert trial.verdict is Verdict.WORKS, trial
    print(f"trial on tcg: {trial.milliseconds} ms")


@pytest.mark.real
def test_an_accelerator_that_is_not_here_fails_with_qemus_words() -> None:
    (trial,) = try_all(("hvf",), seconds=60.0)
    assert trial.verdict is Verdict.FAILS
    assert "hvf" in trial.sentence


@pytest.mark.real
def test_a_guest_whose_disk_is_empty_comes_through_nowhere(tmp_path: Path) -> None:
    from deskgrid.host.system.process import run

    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    qemu = shutil.which("qemu-system-x86_64")
    assert qemu is not None
    finished = run(arguments(qemu, "tcg", file), 5.0)
    (trial,) = judge([Run("tcg", finished, 5000)])
    assert trial.verdict is Verdict.HANGS
