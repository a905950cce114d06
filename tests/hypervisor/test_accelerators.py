"""Which QEMU, and on what: by trial, and remembered."""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deskgrid.hypervisor.keeper.place import folders, has_keeper, sweep
from deskgrid.hypervisor.machine.accelerators import NoHypervisor, Trust, find_qemu, mend, offered


def program(folder: Path, words: str, code: int = 0) -> str:
    path = folder / "qemu"
    path.write_text(f"#!/bin/sh\necho '{words}'\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_qemu_is_one_sentence_with_the_command_that_mends_it() -> None:
    with pytest.raises(NoHypervisor, match=r"got no program no-such-qemu, expected QEMU 8\.2 or later; .*apt install"):
        find_qemu("no-such-qemu")


@pytest.mark.parametrize("words", ["QEMU emulator version 7.2.17 (Debian)", "QEMU emulator version 8.1.0", "hello"])
def test_a_qemu_that_is_too_old_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(NoHypervisor, match=r"expected QEMU 8\.2 or later"):
        find_qemu(program(tmp_path, words))


def test_a_qemu_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoHypervisor, match="expected its version"):
        find_qemu(program(tmp_path, "", 1))


@pytest.mark.skipif(sys.platform != "linux", reason="only there QEMU can have a sandbox")
def test_a_qemu_that_was_built_without_its_sandbox_is_none(tmp_path: Path) -> None:
    path = tmp_path / "qemu"
    path.write_text(
        '#!/bin/sh\ncase " $* " in *" -sandbox "*) echo "-sandbox support is not enabled" >&2; exit 1;;\n'
        "esac\necho QEMU emulator version 10.0.2\n"
    )
    path.chmod(0o755)
    with pytest.raises(NoHypervisor, match="built without its sandbox"):
        find_qemu(str(path))


@pytest.mark.parametrize(
    ("words", "version"), [("QEMU emulator version 8.2.0", "8.2.0"), ("version 10.0.2 (x)", "10.0.2")]
)
def test_a_qemu_that_is_new_enough_is_found(tmp_path: Path, words: str, version: str) -> None:
    assert find_qemu(program(tmp_path, words)).version == version


def test_on_debian_12_qemu_comes_from_backports(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    assert "apt install -t bookworm-backports qemu-system-x86" in mend(release)
    release.write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    assert mend(release) == "try: apt install qemu-system-x86"


def test_software_emulation_is_always_offered_and_last() -> None:
    assert offered()[-1] == "tcg"


def test_distrust_is_remembered_for_this_version_and_kernel_only(tmp_path: Path) -> None:
    file = tmp_path / "accelerators.json"
    Trust(file).distrust("kvm", "10.0.2")
    Trust(file).distrust("hvf", "10.0.2")
    everything = ("kvm", "hvf", "whpx", "tcg")
    assert Trust(file).trusted("10.0.2", everything) == ("whpx", "tcg")
    assert Trust(file).trusted("10.0.3", everything) == everything
    content = json.loads(file.read_text())
    content["bound_to"] = content["bound_to"] + "x"
    file.write_text(json.dumps(content))
    assert Trust(file).trusted("10.0.2", everything) == everything


def test_distrust_ends_after_a_week_and_when_the_clock_is_set_back(tmp_path: Path) -> None:
    file, at = tmp_path / "accelerators.json", datetime(2026, 3, 1, tzinfo=UTC)
    Trust(file, lambda: at).distrust("kvm", "10.0.2")

    def trusted(after: timedelta) -> tuple[str, ...]:
        return Trust(file, lambda: at + after).trusted("10.0.2", ("kvm", "tcg"))

    assert trusted(timedelta(days=6, hours=23)) == ("tcg",)
    assert trusted(timedelta(days=7)) == ("kvm", "tcg")
    assert trusted(timedelta(hours=-1)) == ("kvm", "tcg")


def test_what_was_proven_is_remembered_and_so_is_distrust_until_a_guest_lives_again(tmp_path: Path) -> None:
    file = tmp_path / "accelerators.json"
    Trust(file).prove("tcg", "10.0.2")
    Trust(file).prove("kvm", "10.0.2")
    assert Trust(file).proven("10.0.2") == {"kvm", "tcg"}
    assert Trust(file).proven("10.0.3") == frozenset()
    Trust(file).distrust("kvm", "10.0.2")
    assert Trust(file).proven("10.0.2") == {"tcg"}
    assert Trust(file).trusted("10.0.2", ("kvm", "tcg")) == ("tcg",)
    Trust(file).prove("kvm", "10.0.2")
    assert Trust(file).trusted("10.0.2", ("kvm", "tcg")) == ("kvm", "tcg")


def test_software_emulation_is_never_distrusted(tmp_path: Path) -> None:
    trust = Trust(tmp_path / "accelerators.json")
    trust.distrust("tcg", "10.0.2")
    assert trust.trusted("10.0.2", ("kvm", "tcg")) == ("kvm", "tcg")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bound_to": 1}', "null", '{"bound_to": "x", "distrusted": 3}'])
def test_a_damaged_memory_distrusts_nothing(tmp_path: Path, content: str) -> None:
    file = tmp_path / "accelerators.json"
    file.write_text(content)
    assert Trust(file).trusted("10.0.2", ("kvm", "tcg")) == ("kvm", "tcg")


def test_folders_without_a_keeper_are_swept(tmp_path: Path) -> None:
    (tmp_path / "vm-1").mkdir()
    (tmp_path / "vm-1" / "keeper.sock").touch()
    assert folders(tmp_path) == [tmp_path / "vm-1"]
    assert not has_keeper(tmp_path / "vm-1")
    assert sweep(tmp_path / "vm-1")
    assert folders(tmp_path) == []
    assert folders(tmp_path / "missing") == []
