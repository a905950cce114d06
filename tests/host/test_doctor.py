"""What the doctor says, from values; and one visit to this very machine."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deskgrid.host.doctor.contact import Contact
from deskgrid.host.doctor.desktop import virtualisation
from deskgrid.host.doctor.facts import GIB, PACKAGES, AgentFacts, ComputerFacts, Finding, Kvm, Level, Namespaces, worst
from deskgrid.host.doctor.findings import examine
from deskgrid.host.doctor.gather import Who, gather
from deskgrid.host.system import sandbox
from deskgrid.model.inventory import Trial, Verdict, Virtualisation

pytestmark = pytest.mark.slow

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
HEALTHY = ComputerFacts(now=NOW, newest_file_at=NOW - timedelta(days=2))
ALL = HEALTHY.programs


def ill(**changes: Any) -> ComputerFacts:
    return msgspec.structs.replace(HEALTHY, **changes)


def one(name: str, **changes: Any) -> Finding:
    return next(finding for finding in examine(ill(**changes)) if finding.name == name)


def test_a_machine_that_lacks_nothing_gets_only_good_findings_and_nothing_to_do() -> None:
    findings = examine(HEALTHY)
    assert {finding.level for finding in findings} == {Level.OK}
    assert all(finding.mend == () for finding in findings)
    assert worst(findings) is Level.OK


def test_names_are_unique_and_stable() -> None:
    names = [finding.name for finding in examine(HEALTHY)]
    assert names == list(dict.fromkeys(names))
    assert [finding.name for finding in examine(ill(qemu=None, uid=0, programs=frozenset()))] == names
    desktop = [finding.name for finding in examine(HEALTHY, desktop=True)]
    assert set(names) - set(desktop) == {*PACKAGES, "archive-keys", "root-trees", "subordinate-ids"}


def test_every_finding_is_one_sentence_that_ends() -> None:
    everything_wrong = ill(
        python=(3, 9, 2),
        qemu=None,
        programs=frozenset(),
        archive_keys=False,
        namespaces=Namespaces(False, "not permitted"),
        subordinate_ids=False,
        sudo=False,
        kvm=Kvm.MISSING,
        memory_bytes=GIB,
        disk_free_bytes=0,
        input_refused=5,
        now=NOW - timedelta(days=30),
        trials=(Trial("kvm", Verdict.FAILS, 50, "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy"),),
        vboxdrv=True,
        virtualbox="7.2.22",
        contact=Contact("https://head:9443", "no answer in time"),
        state="/var/lib/deskgrid",
        state_error="No such file or directory",
        logind=False,
    )
    findings = examine(everything_wrong)
    assert all(finding.sentence.endswith(".") for finding in findings)
    assert all(finding.level is not Level.OK for finding in findings)
    assert worst(findings) is Level.BAD


def test_a_finding_survives_json() -> None:
    findings = examine(ill(qemu=None))
    assert msgspec.json.decode(msgspec.json.encode(findings), type=tuple[Finding, ...]) == findings


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("QEMU emulator version 7.2.15 (Debian 1:7.2+dfsg-7)", Level.BAD),
        ("QEMU emulator version 8.1.9", Level.BAD),
        ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", Level.OK),
        ("QEMU emulator version 10.0.2", Level.OK),
        ("error while loading shared libraries", Level.BAD),
        ("", Level.BAD),
        (None, Level.BAD),
    ],
)
def test_qemu_counts_from_8_2_on(said: str | None, level: Level) -> None:
    assert one("qemu", qemu=said).level is level


def test_a_qemu_without_its_sandbox_is_bad_and_one_that_has_it_says_what_holds_a_guest() -> None:
    bad = one("qemu", qemu="qemu-system-x86_64: -sandbox support is not enabled in this QEMU binary")
    assert bad.level is Level.BAD and "without its sandbox" in bad.sentence
    assert sandbox.wall().sentence in one("qemu", qemu="QEMU emulator version 10.0.2").sentence


def test_debian_12_gets_qemu_from_backports_with_the_archive_that_it_already_uses() -> None:
    finding = one("qemu", qemu=None, codename="bookworm", apt_uri="http://mirror.example/debian/")
    assert finding.mend == (
        "echo 'deb http://mirror.example/debian/ bookworm-backports main' "
        "| sudo tee /etc/apt/sources.list.d/bookworm-backports.list",
        "sudo apt-get update",
        "sudo apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86 qemu-utils",
    )


def test_backports_that_are_there_are_not_added_again_and_root_needs_no_sudo() -> None:
    finding = one("qemu", qemu="QEMU emulator version 7.2.15", codename="bookworm", backports=True, uid=0)
    assert finding.mend == (
        "apt-get update",
        "apt-get install --no-install-recommends -t bookworm-backports qemu-system-x86 qemu-utils",
    )


def test_a_system_without_apt_gets_sentences_but_no_commands_that_it_does_not_have() -> None:
    findings = examine(ill(apt=False, qemu=None, programs=frozenset(), codename="bookworm"))
    assert not any("apt" in command for finding in findings for command in finding.mend)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_missing_program_is_named_with_the_package_that_has_it(name: str) -> None:
    finding = one(name, programs=ALL - {name})
    assert finding.level is not Level.OK
    assert any(PACKAGES[name] in command for command in finding.mend)


def test_newuidmap_is_not_needed_by_root() -> None:
    without = ALL - {"newuidmap"}
    assert one("newuidmap", programs=without, uid=0).level is Level.WARN
    assert one("newuidmap", programs=without, sudo=False).level is Level.BAD


@pytest.mark.parametrize(
    ("spaces", "command"),
    [
        (
            Namespaces(False, "mount: permission denied", apparmor_restricts=True),
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (Namespaces(False, clone_allowed=False), "sysctl -w kernel.unprivileged_userns_clone=1"),
        (Namespaces(False, limit=0), "sysctl -w user.max_user_namespaces=15000"),
    ],
)
def test_user_namespaces_that_are_switched_off_are_told_with_their_switch(spaces: Namespaces, command: str) -> None:
    with_sudo = one("root-trees", namespaces=spaces)
    assert (with_sudo.level, with_sudo.mend) == (Level.WARN, (f"sudo {command}",))
    without = one("root-trees", namespaces=spaces, sudo=False)
    assert (without.level, without.mend) == (Level.BAD, (f"sudo {command}", "sudo -v"))


def test_in_a_chroot_sudo_is_the_way_and_nothing_is_wrong_with_that() -> None:
    spaces = Namespaces(False, "Operation not permitted", apparmor_restricts=True)
    assert one("root-trees", namespaces=spaces, in_chroot=True).level is Level.OK
    assert one("root-trees", namespaces=spaces, in_chroot=True).mend == ()
    assert one("root-trees", namespaces=spaces, in_chroot=True, sudo=False).level is Level.BAD


def test_root_in_a_container_without_the_right_to_mount_is_told_so() -> None:
    finding = one("root-trees", uid=0, namespaces=Namespaces(False, "unshare failed"))
    assert finding.level is Level.BAD
    assert "unshare failed" in finding.sentence


def test_without_sudo_the_commands_are_for_root_and_do_not_name_it() -> None:
    findings = examine(ill(programs=frozenset(), sudo=False, qemu=None, codename="bookworm", subordinate_ids=False))
    assert not any("sudo" in command for finding in findings for command in finding.mend)
    assert one("rights", programs=frozenset(), sudo=False, namespaces=Namespaces(False)).level is Level.WARN


def test_dev_kvm_that_opens_is_not_called_proof() -> None:
    assert "proves nothing" in one("kvm").sentence


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"kvm": Kvm.REFUSED}, ("sudo usermod -aG kvm alice  # then log in again",)),
        ({"kvm": Kvm.REFUSED, "uid": 0, "account": "uid 61999"}, ("chmod 0666 /dev/kvm",)),
        ({"kvm": Kvm.REFUSED, "uid": 0, "account": "grid"}, ("usermod -aG kvm grid  # then log in again",)),
        ({"kvm": Kvm.REFUSED, "uid": 0, "virtualisation": False}, ()),
        ({"kvm": Kvm.MISSING}, ("sudo modprobe kvm_intel",)),
        ({"kvm": Kvm.MISSING, "vendor": "AuthenticAMD"}, ("sudo modprobe kvm_amd",)),
        ({"kvm": Kvm.MISSING, "virtualisation": False}, ()),
    ],
)
def test_without_kvm_it_goes_on_slower_and_says_what_may_help(changes: dict[str, Any], mend: tuple[str, ...]) -> None:
    finding = one("kvm", **changes)
    assert (finding.level, finding.mend) == (Level.WARN, mend)


def test_a_cpu_without_virtualisation_is_told_where_to_switch_it_on() -> None:
    assert "firmware" in one("cpu", virtualisation=False).sentence
    assert "hypervisor that runs this machine" in one("cpu", virtualisation=False, hypervised=True).sentence
    assert one("cpu", virtualisation=False, offered=True).mend == ("sudo deskgrid firmware enable-virtualization",)


BUSY = (Trial("kvm", Verdict.FAILS, 40, "ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy"),)


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, Virtualisation.ON),
        ({"virtualisation": False, "offered": False}, Virtualisation.ABSENT),
        ({"virtualisation": False, "offered": True}, Virtualisation.OFF),
        ({"virtualisation": False, "said_off": True}, Virtualisation.OFF),
        ({"virtualisation": False}, Virtualisation.UNKNOWN),
        ({"virtualisation": False, "hypervised": True, "offered": False}, Virtualisation.HIDDEN),
        ({"said_off": True, "kvm": Kvm.MISSING}, Virtualisation.OFF),
        ({"said_off": True}, Virtualisation.ON),
        ({"vboxdrv": True}, Virtualisation.ON),
        ({"vboxdrv": True, "trials": BUSY}, Virtualisation.HELD),
        ({"trials": BUSY}, Virtualisation.ON),
    ],
)
def test_virtualisation_is_absent_or_off_or_hidden_or_held_as_far_as_that_can_be_known(
    changes: dict[str, Any], state: Virtualisation
) -> None:
    assert virtualisation(ill(**changes)) is state


@pytest.mark.parametrize(
    ("verdicts", "level"),
    [
        ({"kvm": Verdict.WORKS, "tcg": Verdict.WORKS}, Level.OK),
        ({"kvm": Verdict.SLOW, "tcg": Verdict.WORKS}, Level.WARN),
        ({"tcg": Verdict.WORKS}, Level.WARN),
        ({"kvm": Verdict.HANGS, "tcg": Verdict.FAILS}, Level.BAD),
        ({}, Level.WARN),
    ],
)
def test_an_accelerator_counts_when_a_guest_has_run_on_it(verdicts: dict[str, Verdict], level: Level) -> None:
    trials = tuple(Trial(name, verdict, 100, "so it was") for name, verdict in verdicts.items())
    found = one("accelerators", trials=trials)
    assert found.level is level
    assert all(f"{trial.accelerator}: {trial.verdict.value}, so it was." in found.sentence for trial in trials)


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [(3.0, Level.OK, "differ by 3 s"), (-61.0, Level.WARN, "61 s behind"), (3600.0, Level.WARN, "3600 s ahead of")],
)
def test_the_clock_is_compared_with_the_coordinators(ahead: float, level: Level, words: str) -> None:
    found = one("coordinator-clock", contact=Contact("https://head:9443", "", 12, ahead))
    assert (found.level, words in found.sentence) == (level, True)


def test_a_coordinator_that_can_not_be_reached_is_bad_and_one_that_has_no_date_is_odd() -> None:
    found = one("coordinator", contact=Contact("https://head:9443", "no answer in time; is the way to it open?"))
    assert found.level is Level.BAD
    assert "no answer in time" in found.sentence
    assert one("coordinator-clock", contact=Contact("https://head:9443")).level is Level.WARN


@pytest.mark.parametrize(
    ("total", "available", "level"),
    [(2, 2, Level.BAD), (4, 3.5, Level.WARN), (16, 2, Level.WARN), (16, 12, Level.OK)],
)
def test_memory_is_measured_against_the_systems_reserve(total: float, available: float, level: Level) -> None:
    changes = {"memory_bytes": int(total * GIB), "memory_available_bytes": int(available * GIB)}
    assert one("memory", **changes).level is level


@pytest.mark.parametrize(("free", "level"), [(5, Level.BAD), (12, Level.WARN), (50, Level.OK)])
def test_disk_is_measured_where_the_cache_is(free: int, level: Level) -> None:
    finding = one("disk", disk_free_bytes=free * GIB, cache="/somewhere")
    assert finding.level is level
    assert "/somewhere" in finding.sentence


def test_a_cache_that_can_not_be_written_is_bad_however_large_the_disk() -> None:
    finding = one("disk", cache_error="no right to write in /var/cache", user="o'brien")
    assert finding.level is Level.BAD
    assert finding.mend == ("sudo install -d -o 'o'\"'\"'brien' /var/cache/deskgrid",)


@pytest.mark.parametrize(
    ("now", "level"),
    [
        (NOW - timedelta(days=2, minutes=2), Level.OK),
        (NOW - timedelta(days=2, hours=1), Level.BAD),
        (datetime(1970, 1, 1, tzinfo=UTC), Level.BAD),
        (NOW + timedelta(days=400), Level.OK),
        (NOW + timedelta(days=4000), Level.WARN),
    ],
)
def test_a_clock_before_the_machines_own_files_is_wrong(now: datetime, level: Level) -> None:
    assert one("clock", now=now).level is level


def test_a_clock_that_nothing_keeps_right_is_a_warning_and_an_unknown_one_is_not() -> None:
    assert one("clock", clock_synchronised=False).level is Level.WARN
    assert one("clock", clock_synchronised=None).level is Level.OK


def test_an_account_that_can_not_hear_the_keyboard_is_told_which_group_it_needs() -> None:
    finding = one("owner", input_refused=3)
    assert finding.level is Level.WARN
    assert finding.mend == ("sudo usermod -aG input alice  # then log in again",)
    assert one("owner", input_devices=0).level is Level.OK


def test_another_account_is_judged_by_owner_group_and_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "device"
    file.touch()
    me, group = file.stat().st_uid, file.stat().st_gid
    stranger, fellow = Who("x", me + 1, frozenset()), Who("y", me + 1, frozenset({group}))
    file.chmod(0o060)
    assert fellow.may(file, os.R_OK | os.W_OK)
    assert not stranger.may(file, os.R_OK)
    file.chmod(0o004)
    assert stranger.may(file, os.R_OK)
    assert not stranger.may(file, os.R_OK | os.W_OK)
    assert not fellow.may(file, os.R_OK)
    assert not stranger.may(tmp_path / "missing", os.R_OK)


def test_the_agents_state_folder_must_be_its_own_alone(tmp_path: Path) -> None:
    agent = AgentFacts(tmp_path / "state")
    assert gather(agent=agent, trial_seconds=0).state_error == "No such file or directory"
    agent.state.mkdir(mode=0o755)
    if os.geteuid() == 0:
        assert "never runs as root" in gather(agent=agent, trial_seconds=0).state_error
        os.chown(agent.state, 61999, 61999)
    agent.state.chmod(0o755)
    assert gather(agent=agent, trial_seconds=0).state_error == "others may look into it"
    agent.state.chmod(0o700)
    facts = gather(agent=agent, trial_seconds=0)
    assert (facts.state_error, facts.contact, facts.trials) == ("", None, ())


def test_this_machine_can_be_asked_and_judged(tmp_path: Path) -> None:
    facts = gather(tmp_path / "not" / "made" / "yet", trial_seconds=0)
    assert facts.python >= (3, 11, 0)
    assert facts.memory_bytes >= facts.memory_available_bytes > 0
    assert facts.disk_free_bytes > 0
    assert facts.cache_error == ""
    assert "@" not in facts.apt_uri
    findings = examine(facts)
    assert next(finding for finding in findings if finding.name == "clock").level is not Level.BAD
    assert not (tmp_path / "not").exists()


def test_a_folder_below_a_file_can_not_hold_the_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert gather(tmp_path / "file" / "cache", trial_seconds=0).cache_error
