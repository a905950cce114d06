"""The life of a VM, row by row where a row matters."""

from itertools import product
from typing import get_args

import pytest

from deskgrid.core.commands import Command, Distrust, Kill, Pause, Renew, Resume, Start, Vacate
from deskgrid.core.desktop.vm import (
    ALIVE_SECONDS_HARDWARE,
    ALIVE_SECONDS_SOFTWARE,
    FETCH_SECONDS,
    FINISH_SECONDS,
    KINDS,
    LEAVE_SECONDS,
    NOTES,
    START_SECONDS,
    TABLE,
    WAIT_SECONDS,
    Vm,
    adopt,
    step,
)
from deskgrid.core.events import (
    Alive,
    Allowed,
    AnyEvent,
    Due,
    Event,
    Fetched,
    FetchFailed,
    Gone,
    GuestLeft,
    HandedOver,
    Leased,
    Refused,
    RefusedNow,
    ShuttingDown,
    Sleeping,
    Started,
    StartFailed,
    Waiting,
    Withdrawn,
)
from deskgrid.model.desktop import Fault, VmState

from .values import NOW, WHY, after, event, lease, ordered, vm_in

S = VmState
HERE = (S.FETCHING, S.STARTING, S.BOOTING, S.RUNNING, S.PAUSED, S.LEAVING, S.KILLING)
RUNS = (S.BOOTING, S.RUNNING)


def happens(vm: Vm, kind: type[Event], at: float = 1.0, **more: object) -> tuple[Vm, tuple[type[Command], ...]]:
    """The VM afterwards, and the kinds of commands."""
    vm, commands = step(vm, event(kind, **more), after(at))
    return vm, tuple(map(type, commands))


def test_every_state_has_a_row_for_every_kind_of_event() -> None:
    assert set(TABLE) == set(S)
    assert all(set(rows) == set(KINDS) for rows in TABLE.values())


@pytest.mark.parametrize(("state", "kind"), list(product(S, KINDS)))
def test_an_event_in_any_state_keeps_the_vm_whole(state: VmState, kind: type[Event]) -> None:
    vm, commands = happens(vm_in(state), kind, until=after(400))
    assert vm.id == "vm-1"
    assert vm.reason.name and vm.reason.sentence
    assert vm.state is S.ENDED or vm.deadline is not None
    assert len(set(commands)) == len(commands)


@pytest.mark.parametrize("kind", list(KINDS))
def test_an_ended_vm_stays_ended_and_is_killed_if_it_says_that_it_runs(kind: type[Event]) -> None:
    vm, commands = happens(vm_in(S.ENDED), kind)
    assert vm.state is S.ENDED
    assert commands == ((Kill,) if kind in (Started, Alive) else ())


@pytest.mark.parametrize("state", HERE)
@pytest.mark.parametrize("kind", [Refused, RefusedNow])
def test_a_refusal_stops_the_cpus_or_ends_the_vm_at_once(state: VmState, kind: type[Event]) -> None:
    vm, commands = happens(vm_in(state), kind, grace_seconds=60.0)
    if state in RUNS:
        assert commands[0] in (Pause, Kill)
    assert vm.state in (S.PAUSED, S.LEAVING, S.KILLING, S.ENDED)


def test_a_new_lease_orders_the_image_and_waits_an_hour_for_it() -> None:
    vm = ordered()
    assert (vm.state, vm.deadline, vm.reason) == (S.FETCHING, after(FETCH_SECONDS), lease().reason)


def test_a_fetch_may_outlast_the_lease_that_it_began_under() -> None:
    vm, _ = happens(ordered(), Leased, until=after(1000))
    assert vm.lease.until == after(1000)
    assert vm.deadline == after(FETCH_SECONDS)


def test_the_whole_life_of_a_vm_that_does_its_work_and_is_withdrawn() -> None:
    vm, orders = happens(ordered(), Fetched)
    assert (vm.state, orders) == (S.STARTING, (Start,))
    vm, orders = happens(vm, Started, accelerator="kvm")
    assert (vm.state, orders, vm.deadline) == (S.BOOTING, (), after(1 + ALIVE_SECONDS_HARDWARE))
    vm, orders = happens(vm, Alive)
    assert (vm.state, orders, vm.alive, vm.deadline) == (S.RUNNING, (), True, vm.lease.until)
    vm, orders = happens(vm, Withdrawn)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (Vacate,), after(1 + FINISH_SECONDS))
    vm, orders = happens(vm, GuestLeft)
    assert (vm.state, orders) == (S.KILLING, (Kill,))
    vm, orders = happens(vm, Gone)
    assert (vm.state, orders, vm.fault, vm.reason.name) == (S.ENDED, (), Fault.NONE, "withdrawn")


def test_under_emulation_a_guest_has_longer_to_show_a_sign_of_life() -> None:
    vm, _ = happens(vm_in(S.STARTING), Started, accelerator="tcg")
    assert vm.deadline == after(1 + ALIVE_SECONDS_SOFTWARE)


def test_a_renewed_lease_moves_the_deadline_of_a_running_vm() -> None:
    vm, orders = happens(vm_in(S.RUNNING), Leased, until=after(900))
    assert (vm.deadline, vm.lease.until, orders, vm.reason) == (after(900), after(900), (), WHY)


def test_the_owner_who_returns_pauses_a_running_vm_for_the_grace() -> None:
    vm, orders = happens(vm_in(S.RUNNING), Refused, grace_seconds=600.0)
    assert (vm.state, orders, vm.deadline, vm.reason.name) == (S.PAUSED, (Pause,), after(601), "refused")


def test_further_refusals_do_not_lengthen_the_grace() -> None:
    vm, orders = happens(vm_in(S.PAUSED, seconds=30), Refused, grace_seconds=60.0)
    assert (vm.deadline, orders) == (after(30), ())


def test_a_renewed_lease_does_not_lengthen_the_grace() -> None:
    vm, _ = happens(vm_in(S.PAUSED, seconds=30), Leased, until=after(900))
    assert vm.deadline == after(30)


def test_a_paused_vm_goes_on_when_the_owner_has_left_again() -> None:
    vm, orders = happens(vm_in(S.PAUSED), Allowed)
    assert (vm.state, orders, vm.deadline) == (S.RUNNING, (Resume,), vm.lease.until)


@pytest.mark.parametrize("kind", [Due, Withdrawn, RefusedNow])
def test_a_paused_vm_that_must_go_has_two_seconds_to_leave(kind: type[Event]) -> None:
    vm, orders = happens(vm_in(S.PAUSED), kind)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (Vacate,), after(1 + LEAVE_SECONDS))


def test_without_grace_a_vm_is_paused_and_then_leaves_confined() -> None:
    vm, orders = happens(vm_in(S.RUNNING), RefusedNow)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (Pause, Vacate), after(1 + LEAVE_SECONDS))


def test_the_owner_who_returns_shortens_a_leave_that_had_more_time() -> None:
    vm, _ = happens(vm_in(S.LEAVING, seconds=20), Refused, grace_seconds=60.0)
    assert vm.deadline == after(1 + LEAVE_SECONDS)


def test_a_second_refusal_does_not_lengthen_a_leave() -> None:
    vm, _ = happens(vm_in(S.LEAVING, seconds=1.5), Refused)
    assert vm.deadline == after(1.5)


def test_a_leave_without_a_deadline_gets_one() -> None:
    vm, _ = step(Vm(lease(), S.LEAVING, NOW, WHY, None), event(Refused), NOW)
    assert vm.deadline == after(LEAVE_SECONDS)


def test_a_leaving_guest_that_does_not_answer_is_killed_and_killed_again() -> None:
    vm, orders = happens(vm_in(S.LEAVING), Due)
    assert (vm.state, orders) == (S.KILLING, (Kill,))
    again, orders = happens(vm, Due, at=3.0)
    assert (again.state, orders, again.since) == (S.KILLING, (Kill,), vm.since)
    assert again.deadline > vm.deadline


def test_the_first_cause_of_an_end_stays() -> None:
    vm, _ = happens(vm_in(S.RUNNING), RefusedNow)
    for kind in (Due, Gone):
        vm, _ = happens(vm, kind, fault=Fault.IMAGE)
    assert (vm.state, vm.reason.name, vm.fault) == (S.ENDED, "refused-now", Fault.NONE)


def test_what_is_for_the_story_only_moves_nothing_in_any_state() -> None:
    assert set(NOTES) | set(KINDS) == set(get_args(AnyEvent))
    for state, kind in product(S, NOTES):
        assert step(vm_in(state), event(kind), after(1)) == (vm_in(state), ())


def test_before_the_guest_is_up_there_is_no_work_to_lose_and_no_grace() -> None:
    for state in (S.STARTING, S.BOOTING):
        vm, orders = happens(vm_in(state), Refused, grace_seconds=60.0)
        assert (vm.state, orders) == (S.KILLING, (Kill,))


def test_a_start_that_comes_after_the_order_to_end_is_killed() -> None:
    vm, orders = happens(vm_in(S.KILLING), Started, accelerator="kvm")
    assert (vm.state, orders) == (S.KILLING, (Kill,))


def test_a_paused_vm_that_says_that_it_runs_is_paused() -> None:
    assert happens(vm_in(S.PAUSED), Started)[1] == (Pause,)


def test_a_silent_guest_on_hardware_condemns_the_accelerator_and_is_the_desktops_fault() -> None:
    vm, orders = happens(vm_in(S.BOOTING, accelerator="kvm"), Due)
    assert (vm.state, orders, vm.fault) == (S.KILLING, (Distrust, Kill), Fault.DESKTOP)


@pytest.mark.parametrize("accelerator", ["tcg", "fake"])
def test_a_silent_guest_under_emulation_is_the_images_fault_and_emulation_stays_trusted(accelerator: str) -> None:
    vm, orders = happens(vm_in(S.BOOTING, accelerator=accelerator), Due)
    assert (vm.state, orders, vm.fault) == (S.KILLING, (Kill,), Fault.IMAGE)


@pytest.mark.parametrize("state", [S.FETCHING, S.STARTING])
def test_what_takes_too_long_before_a_guest_runs_is_the_desktops_fault(state: VmState) -> None:
    assert happens(vm_in(state), Due)[0].fault is Fault.DESKTOP


def test_a_hypervisor_that_dies_before_the_guest_runs_is_the_desktops_fault() -> None:
    vm, _ = happens(vm_in(S.STARTING), Gone)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.DESKTOP)


@pytest.mark.parametrize("state", [S.BOOTING, S.RUNNING])
def test_a_guest_that_dies_by_itself_is_its_images_fault(state: VmState) -> None:
    vm, _ = happens(vm_in(state), Gone)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.IMAGE)


def test_a_driver_that_knows_whose_fault_it_was_is_believed() -> None:
    vm, _ = happens(vm_in(S.STARTING), StartFailed, fault=Fault.DESKTOP)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.DESKTOP)


def test_a_fetch_that_failed_ends_the_vm_with_the_reason() -> None:
    vm, _ = happens(ordered(), FetchFailed, fault=Fault.DESKTOP)
    assert (vm.state, vm.reason.name, vm.fault) == (S.ENDED, "fetch-failed", Fault.DESKTOP)


def test_a_vm_found_running_is_adopted_until_its_lease_ends() -> None:
    vm = adopted(paused=False, alive=True)
    assert (vm.state, vm.deadline) == (S.RUNNING, after(300))


def test_a_vm_found_booting_is_adopted_with_time_for_a_sign_of_life() -> None:
    vm = adopted(paused=False, alive=False)
    assert (vm.state, vm.deadline) == (S.BOOTING, after(ALIVE_SECONDS_SOFTWARE))


def test_a_vm_found_paused_is_adopted_for_no_longer_than_the_grace() -> None:
    vm = adopted(paused=True, alive=True)
    assert (vm.state, vm.deadline) == (S.PAUSED, after(60))


def adopted(*, paused: bool, alive: bool) -> Vm:
    return adopt(lease(), paused=paused, alive=alive, accelerator="tcg", grace_seconds=60.0, since=NOW, now=NOW)


def test_an_event_without_a_reason_of_its_own_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        Due()


# -- the computer and the agent -----------------------------------------------------------------------------------


def test_a_computer_that_goes_to_sleep_pauses_what_runs_for_the_grace() -> None:
    vm, orders = happens(vm_in(S.RUNNING), Sleeping, grace_seconds=60.0)
    assert (vm.state, orders, vm.deadline, vm.reason.name) == (S.PAUSED, (Pause,), after(61), "sleeping")
    again, orders = happens(vm, Sleeping, at=30.0, grace_seconds=60.0)
    assert (again.deadline, orders) == (after(61), ()), "it is not lengthened"


@pytest.mark.parametrize("state", [S.RUNNING, S.PAUSED])
def test_a_computer_that_shuts_down_gives_a_guest_two_seconds(state: VmState) -> None:
    vm, orders = happens(vm_in(state), ShuttingDown)
    assert (vm.state, orders[-1], vm.deadline) == (S.LEAVING, Vacate, after(1 + LEAVE_SECONDS))
    assert (orders[0] is Pause) == (state is S.RUNNING)
    assert happens(vm, Due, at=3.0)[1] == (Kill,)


@pytest.mark.parametrize("kind", [Sleeping, ShuttingDown])
@pytest.mark.parametrize("state", [S.STARTING, S.BOOTING])
def test_before_the_guest_is_up_sleep_and_shutdown_kill(state: VmState, kind: type[Event]) -> None:
    vm, orders = happens(vm_in(state), kind, grace_seconds=60.0)
    assert (vm.state, orders) == (S.KILLING, (Kill,))


@pytest.mark.parametrize("kind", [Sleeping, ShuttingDown])
def test_sleep_and_shutdown_hurry_a_guest_that_leaves_at_leisure(kind: type[Event]) -> None:
    vm, orders = happens(vm_in(S.LEAVING, seconds=20), kind, grace_seconds=60.0)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (), after(1 + LEAVE_SECONDS))


@pytest.mark.parametrize("state", list(S))
def test_an_agent_that_makes_way_orders_nothing_and_moves_nothing(state: VmState) -> None:
    vm = vm_in(state)
    assert happens(vm, HandedOver) == (vm, ())


def test_a_policy_that_shortens_the_grace_is_obeyed_by_what_is_paused_already() -> None:
    vm, orders = happens(vm_in(S.PAUSED, seconds=60), Refused, grace_seconds=5.0)
    assert (vm.state, orders, vm.deadline) == (S.PAUSED, (), after(6))


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_a_guest_that_waits_for_its_image_is_given_more_time_up_to_a_limit_and_no_accelerator_is_blamed(
    accelerator: str,
) -> None:
    vm, _ = happens(vm_in(S.STARTING), Started, accelerator=accelerator)
    lasts = ALIVE_SECONDS_HARDWARE if accelerator == "kvm" else ALIVE_SECONDS_SOFTWARE
    waiting, orders = happens(vm, Waiting, at=30.0)
    assert (waiting.state, waiting.deadline, waiting.waited, orders) == (S.BOOTING, after(30 + lasts), True, ())
    assert happens(waiting, Due, at=700.0)[1] == ((Distrust, Kill) if accelerator == "kvm" else (Kill,))
    at = 30.0
    while waiting.deadline and at < 2 * WAIT_SECONDS:
        at += 5.0
        waiting, _ = happens(waiting, Waiting, at=at)
    assert waiting.deadline == after(1 + WAIT_SECONDS)
    late, orders = happens(waiting, Due, at=2 * WAIT_SECONDS)
    assert (late.state, late.fault, orders) == (S.KILLING, Fault.DESKTOP, (Kill,))


def test_a_start_that_waits_for_its_image_is_given_more_time_and_waiting_never_takes_any_away() -> None:
    vm, _ = happens(ordered(), Fetched, at=0.0)
    early, _ = happens(vm, Waiting, at=-20.0)
    assert early.deadline == vm.deadline == after(START_SECONDS)
    assert happens(vm, Waiting, at=20.0)[0].deadline == after(20 + START_SECONDS)


def test_a_command_that_is_printed_says_no_token() -> None:
    assert "eyJ" not in f"{[Renew('eyJsecret')]}"
