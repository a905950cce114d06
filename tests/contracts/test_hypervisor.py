"""What every hypervisor driver MUST do: the sentences of `hypervisor/contract.py`.

On the fake, and on real QEMU, with its disk from files and from a process that serves it out of an encrypted store.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "hypervisor"))

from rigs import FakeRig, QemuRig, Rig
from served import ServedRig

from deskgrid.core.commands import Kill, Pause, Renew, Resume, Vacate
from deskgrid.core.events import Gone, GuestLeft, Joined, Paused, Started, StartFailed

RIGS: dict[str, type[Rig]] = {"fake": FakeRig, "qemu": QemuRig, "served": ServedRig}


@pytest.fixture(
    params=["fake", pytest.param("qemu", marks=pytest.mark.real), pytest.param("served", marks=pytest.mark.real)]
)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = RIGS[request.param]()
    yield made
    made.close()


def kinds(rig: Rig, vm_id: str) -> list[str]:
    return [type(event).__name__ for event in rig.events(vm_id)]


def test_a_vm_starts_comes_alive_and_joins_in_this_order(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    assert kinds(rig, vm) == ["Started", "Alive", "Joined"]
    assert rig.wait(vm, Started).accelerator in ("kvm", "tcg")


def test_a_vm_that_is_started_twice_runs_once(rig: Rig) -> None:
    vm = rig.start("silent")
    rig.driver.start(_spec_again(rig, vm))
    rig.wait(vm, Started)
    rig.driver.start(_spec_again(rig, vm))
    rig.pass_time(1.0)
    assert kinds(rig, vm) == ["Started"]


def _spec_again(rig: Rig, vm_id: str):
    from rigs import spec_of

    return spec_of(vm_id, "silent", getattr(rig, "guest", None))


def test_commands_to_an_unknown_or_ended_vm_do_nothing(rig: Rig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.driver.order(vm, Kill())
    rig.wait(vm, Gone)
    for vm_id in (vm, "nobody"):
        for command in (Pause(), Resume(), Vacate(), Kill()):
            rig.driver.order(vm_id, command)
    rig.driver.start(_spec_again(rig, vm))
    rig.pass_time(1.0)
    assert kinds(rig, vm) == ["Started", "Gone"]
    assert kinds(rig, "nobody") == []


def test_after_pause_no_cpu_runs_until_it_is_resumed(rig: Rig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    rig.driver.order(vm, Pause())
    assert rig.wait(vm, Paused, 0.2 + rig.slack_seconds).milliseconds < 200 + 1000 * rig.slack_seconds
    before = rig.lived_seconds(vm)
    rig.pass_time(1.0)
    assert rig.lived_seconds(vm) - before < 0.05
    assert [seen.paused for seen in rig.driver.observe()] == [True]
    rig.driver.order(vm, Pause())
    rig.driver.order(vm, Resume())
    rig.pass_time(1.5)
    assert rig.lived_seconds(vm) - before > 0.2
    assert [seen.paused for seen in rig.driver.observe()] == [False]


def test_a_vm_that_was_asked_to_leave_runs_confined_and_says_that_it_has_left(rig: Rig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    rig.driver.order(vm, Pause())
    rig.wait(vm, Paused)
    rig.driver.order(vm, Vacate())
    left = rig.wait(vm, GuestLeft)
    assert left.cause == "asked"
    assert kinds(rig, vm) == ["Started", "Alive", "Joined", "Paused", "GuestLeft"]
    assert rig.cores(vm) == 1
    assert [seen.paused for seen in rig.driver.observe()] == [False]


def test_a_vm_that_goes_on_after_all_gets_its_cores_back(rig: Rig) -> None:
    vm = rig.start("stubborn")
    rig.wait(vm, Joined)
    before = rig.cores(vm)
    rig.driver.order(vm, Vacate())
    rig.pass_time(0.5)
    assert rig.cores(vm) == 1
    rig.driver.order(vm, Resume())
    rig.pass_time(0.5)
    assert rig.cores(vm) == before


def test_a_guest_that_is_not_up_yet_has_left_at_once(rig: Rig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.driver.order(vm, Vacate())
    assert rig.wait(vm, GuestLeft, 1.0 + rig.slack_seconds).cause == "asked"


@pytest.mark.parametrize("paused", [False, True])
def test_kill_ends_a_vm_within_a_second_whatever_its_guest_does(rig: Rig, paused: bool) -> None:
    vm = rig.start("stubborn")
    rig.wait(vm, Joined)
    if paused:
        rig.driver.order(vm, Pause())
        rig.pass_time(0.3)
    else:
        rig.driver.order(vm, Vacate())
    rig.driver.order(vm, Kill())
    gone = rig.wait(vm, Gone, 1.0 + rig.slack_seconds)
    assert gone.clean
    assert rig.left_behind(vm) == []
    rig.pass_time(0.5)
    assert [kind for kind in kinds(rig, vm) if kind != "Paused"] == ["Started", "Alive", "Joined", "Gone"]


def test_kill_ends_a_vm_that_is_still_starting(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.driver.order(vm, Kill())
    assert rig.wait(vm, Gone, 3.0 + rig.slack_seconds).clean
    assert rig.left_behind(vm) == []


def test_a_vm_that_cannot_start_says_whose_fault_that_is_and_leaves_nothing(rig: Rig) -> None:
    vm = rig.start("missing")
    failed = rig.wait(vm, StartFailed, 30.0)
    assert failed.fault == rig.missing_fault
    assert failed.sentence
    assert rig.left_behind(vm) == []
    assert kinds(rig, vm) == ["StartFailed"]


def test_a_guest_that_panics_takes_its_vm_with_it(rig: Rig) -> None:
    vm = rig.start("panics")
    gone = rig.wait(vm, Gone)
    assert not gone.clean
    assert "kernel gave up" in gone.sentence
    assert rig.left_behind(vm) == []


def test_a_guest_may_leave_by_itself(rig: Rig) -> None:
    vm = rig.start("unused")
    assert rig.wait(vm, GuestLeft).cause == "unused"
    assert kinds(rig, vm) == ["Started", "Alive", "Joined", "GuestLeft"]


def test_a_renewed_token_reaches_the_guest(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.driver.order(vm, Renew("a.newer.token"))
    assert rig.has_token(vm, "a.newer.token")


def test_a_silent_guest_never_comes_alive(rig: Rig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.pass_time(8.0)
    assert kinds(rig, vm) == ["Started"]
    assert [seen.alive for seen in rig.driver.observe()] == [False]


def test_a_vm_ends_within_five_seconds_when_nobody_tends_it(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.driver.heartbeat()
    rig.crash()
    rig.pass_time(3.0)
    assert rig.left_behind(vm)
    rig.pass_time(2.0 + rig.slack_seconds)
    assert rig.left_behind(vm) == []


def test_an_agent_that_comes_back_in_time_finds_its_vms_again_and_they_go_on(rig: Rig) -> None:
    vm = rig.start("stubborn")
    rig.wait(vm, Joined)
    rig.crash()
    rig.pass_time(2.0)
    rig.come_back()
    (seen,) = rig.driver.observe()
    assert (seen.vm_id, seen.image.name, seen.desktop, seen.alive, seen.paused) == (
        vm,
        "stubborn",
        "desk-1",
        True,
        False,
    )
    assert seen.accelerator == rig.wait(vm, Started).accelerator
    rig.pass_time(6.0)
    assert [seen.vm_id for seen in rig.driver.observe()] == [vm]
    rig.driver.order(vm, Kill())
    assert rig.wait(vm, Gone, 1.0 + rig.slack_seconds).clean


def test_what_happened_while_no_agent_was_there_is_told_to_the_next_one(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Started)
    rig.crash()
    before = kinds(rig, vm)
    rig.come_back()
    assert [seen.vm_id for seen in rig.driver.observe()] == [vm]
    rig.wait(vm, Joined)
    once = ["Started", "Alive", "Joined"]
    assert before == once[: len(before)]
    after = kinds(rig, vm)[len(before) :]
    assert after in (once[len(before) :], once[len(before) - 1 :]), "again at most the last, not acknowledged yet"


def test_a_limit_of_cores_holds_for_vms_that_run_and_for_those_that_start_later(rig: Rig) -> None:
    one = rig.start("silent")
    rig.wait(one, Started)
    rig.driver.limit(1)
    other = rig.start("silent")
    rig.wait(other, Started)
    rig.pass_time(0.5)
    assert (rig.cores(one), rig.cores(other)) == (1, 1)
    rig.driver.limit(2)
    rig.pass_time(0.5)
    assert rig.cores(one) == rig.cores(other) == min(2, len(os.sched_getaffinity(0)))


def test_under_a_limit_of_no_core_no_cpu_runs_not_even_if_it_is_resumed_until_the_limit_is_raised(rig: Rig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    rig.driver.limit(0)
    rig.wait(vm, Paused, 0.2 + rig.slack_seconds)
    before = rig.lived_seconds(vm)
    rig.driver.order(vm, Resume())
    rig.pass_time(1.0)
    assert rig.lived_seconds(vm) - before < 0.1
    assert [seen.paused for seen in rig.driver.observe()] == [True]
    rig.driver.limit(1)
    rig.pass_time(1.5)
    assert rig.lived_seconds(vm) - before > 0.2
    assert [seen.paused for seen in rig.driver.observe()] == [False]


def test_a_vm_that_is_paused_stays_so_when_the_limit_is_raised(rig: Rig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    rig.driver.order(vm, Pause())
    rig.wait(vm, Paused, 0.2 + rig.slack_seconds)
    rig.driver.limit(0)
    rig.driver.limit(2)
    rig.pass_time(0.5)
    before = rig.lived_seconds(vm)
    rig.pass_time(1.0)
    assert rig.lived_seconds(vm) - before < 0.05
    assert [seen.paused for seen in rig.driver.observe()] == [True]


def test_a_vm_that_leaves_runs_confined_even_under_a_limit_of_no_core(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.driver.limit(0)
    rig.driver.order(vm, Vacate())
    assert rig.wait(vm, GuestLeft).cause == "asked"
    assert rig.cores(vm) == 1


def test_the_limit_of_the_next_agent_holds_for_vms_that_it_has_found(rig: Rig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.crash()
    rig.come_back()
    rig.driver.limit(1)
    assert [seen.vm_id for seen in rig.driver.observe()] == [vm]
    rig.pass_time(0.5)
    assert rig.cores(vm) == 1


def test_an_agent_that_hands_over_has_the_announced_time_and_its_vms_go_on(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.driver.hand_over(15.0)
    rig.crash()
    rig.pass_time(8.0)
    rig.come_back()
    assert [seen.vm_id for seen in rig.driver.observe()] == [vm]
    rig.pass_time(1.0)
    assert kinds(rig, vm) == ["Started", "Alive", "Joined"]
    rig.crash()
    rig.pass_time(5.0 + rig.slack_seconds)
    assert rig.left_behind(vm) == []


def test_an_agent_that_hands_over_and_does_not_come_back_is_not_waited_for_for_ever(rig: Rig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.driver.hand_over(6.0)
    rig.crash()
    rig.pass_time(5.0)
    assert rig.left_behind(vm)
    rig.pass_time(2.0 + rig.slack_seconds)
    assert rig.left_behind(vm) == []


def test_several_vms_do_not_disturb_each_other(rig: Rig) -> None:
    one, other = rig.start("silent"), rig.start("silent")
    rig.wait(one, Started)
    rig.wait(other, Started)
    assert {seen.vm_id for seen in rig.driver.observe()} == {one, other}
    rig.driver.order(one, Kill())
    rig.wait(one, Gone, 1.0 + rig.slack_seconds)
    rig.pass_time(1.0)
    assert kinds(rig, other) == ["Started"]
    assert [seen.vm_id for seen in rig.driver.observe()] == [other]


def test_it_tells_what_a_vm_that_runs_has_used_and_nothing_of_one_that_is_gone(rig: Rig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    assert vm in rig.driver.cpu_seconds()
    rig.driver.order(vm, Kill())
    rig.wait(vm, Gone)
    assert rig.driver.cpu_seconds() == {}
