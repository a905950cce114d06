"""The life of a VM, row by row where a row matters."""

from itertools import product

import pytest

from deskgrid.core.desktop.vm import (
    ALIVE_SECONDS_HARDWARE,
    ALIVE_SECONDS_SOFTWARE,
    FETCH_SECONDS,
    FINISH_SECONDS,
    LEAVE_SECONDS,
    START_SECONDS,
    TABLE,
    WAIT_SECONDS,
    Command,
    Event,
    Kind,
    Vm,
    adopt,
    step,
)
from deskgrid.model.desktop import Fault, VmState

from .values import NOW, WHY, after, event, lease, ordered, vm_in

S, K, C = VmState, Kind, Command
HERE = (S.FETCHING, S.STARTING, S.BOOTING, S.RUNNING, S.PAUSED, S.LEAVING, S.KILLING)
RUNS = (S.BOOTING, S.RUNNING)


def happens(vm: Vm, kind: Kind, at: float = 1.0, **more: object) -> tuple[Vm, tuple[Command, ...]]:
    return step(vm, event(kind, **more), after(at))


def test_every_state_has_a_row_for_every_kind_of_event() -> None:
    assert set(TABLE) == set(S)
    assert all(set(rows) == set(K) for rows in TABLE.values())


@pytest.mark.parametrize(("state", "kind"), list(product(S, K)))
def test_an_event_in_any_state_keeps_the_vm_whole(state: VmState, kind: Kind) -> None:
    vm, commands = happens(vm_in(state), kind, until=after(400) if kind is K.LEASE else None)
    assert vm.id == "vm-1"
    assert vm.reason.name and vm.reason.sentence
    assert vm.state is S.ENDED or vm.deadline is not None
    assert len(set(commands)) == len(commands)


@pytest.mark.parametrize("kind", list(K))
def test_an_ended_vm_stays_ended_and_is_killed_if_it_says_that_it_runs(kind: Kind) -> None:
    vm, commands = happens(vm_in(S.ENDED), kind)
    assert vm.state is S.ENDED
    assert commands == ((C.KILL,) if kind in (K.STARTED, K.ALIVE) else ())


@pytest.mark.parametrize("state", HERE)
@pytest.mark.parametrize("kind", [K.REFUSED, K.REFUSED_NOW])
def test_a_refusal_stops_the_cpus_or_ends_the_vm_at_once(state: VmState, kind: Kind) -> None:
    vm, commands = happens(vm_in(state), kind, grace_seconds=60.0)
    if state in RUNS:
        assert commands[0] in (C.PAUSE, C.KILL)
    assert vm.state in (S.PAUSED, S.LEAVING, S.KILLING, S.ENDED)


def test_a_new_lease_orders_the_image_and_waits_an_hour_for_it() -> None:
    vm = ordered()
    assert (vm.state, vm.deadline, vm.reason) == (S.FETCHING, after(FETCH_SECONDS), lease().reason)


def test_a_fetch_may_outlast_the_lease_that_it_began_under() -> None:
    vm, _ = happens(ordered(), K.LEASE, until=after(1000))
    assert vm.lease.until == after(1000)
    assert vm.deadline == after(FETCH_SECONDS)


def test_the_whole_life_of_a_vm_that_does_its_work_and_is_withdrawn() -> None:
    vm, orders = happens(ordered(), K.FETCHED)
    assert (vm.state, orders) == (S.STARTING, (C.START,))
    vm, orders = happens(vm, K.STARTED, accelerator="kvm")
    assert (vm.state, orders, vm.deadline) == (S.BOOTING, (), after(1 + ALIVE_SECONDS_HARDWARE))
    vm, orders = happens(vm, K.ALIVE)
    assert (vm.state, orders, vm.alive, vm.deadline) == (S.RUNNING, (), True, vm.lease.until)
    vm, orders = happens(vm, K.WITHDRAWN)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (C.VACATE,), after(1 + FINISH_SECONDS))
    vm, orders = happens(vm, K.LEFT)
    assert (vm.state, orders) == (S.KILLING, (C.KILL,))
    vm, orders = happens(vm, K.GONE)
    assert (vm.state, orders, vm.fault, vm.reason.name) == (S.ENDED, (), Fault.NONE, "withdrawn")


def test_under_emulation_a_guest_has_longer_to_show_a_sign_of_life() -> None:
    vm, _ = happens(vm_in(S.STARTING), K.STARTED, accelerator="tcg")
    assert vm.deadline == after(1 + ALIVE_SECONDS_SOFTWARE)


def test_a_renewed_lease_moves_the_deadline_of_a_running_vm() -> None:
    vm, orders = happens(vm_in(S.RUNNING), K.LEASE, until=after(900))
    assert (vm.deadline, vm.lease.until, orders, vm.reason) == (after(900), after(900), (), WHY)


def test_the_owner_who_returns_pauses_a_running_vm_for_the_grace() -> None:
    vm, orders = happens(vm_in(S.RUNNING), K.REFUSED, grace_seconds=600.0)
    assert (vm.state, orders, vm.deadline, vm.reason.name) == (S.PAUSED, (C.PAUSE,), after(601), "refused")


def test_further_refusals_do_not_lengthen_the_grace() -> None:
    vm, orders = happens(vm_in(S.PAUSED, seconds=30), K.REFUSED, grace_seconds=60.0)
    assert (vm.deadline, orders) == (after(30), ())


def test_a_renewed_lease_does_not_lengthen_the_grace() -> None:
    vm, _ = happens(vm_in(S.PAUSED, seconds=30), K.LEASE, until=after(900))
    assert vm.deadline == after(30)


def test_a_paused_vm_goes_on_when_the_owner_has_left_again() -> None:
    vm, orders = happens(vm_in(S.PAUSED), K.ALLOWED)
    assert (vm.state, orders, vm.deadline) == (S.RUNNING, (C.RESUME,), vm.lease.until)


@pytest.mark.parametrize("kind", [K.DUE, K.WITHDRAWN, K.REFUSED_NOW])
def test_a_paused_vm_that_must_go_has_two_seconds_to_leave(kind: Kind) -> None:
    vm, orders = happens(vm_in(S.PAUSED), kind)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (C.VACATE,), after(1 + LEAVE_SECONDS))


def test_without_grace_a_vm_is_paused_and_then_leaves_confined() -> None:
    vm, orders = happens(vm_in(S.RUNNING), K.REFUSED_NOW)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (C.PAUSE, C.VACATE), after(1 + LEAVE_SECONDS))


def test_the_owner_who_returns_shortens_a_leave_that_had_more_time() -> None:
    vm, _ = happens(vm_in(S.LEAVING, seconds=20), K.REFUSED, grace_seconds=60.0)
    assert vm.deadline == after(1 + LEAVE_SECONDS)


def test_a_second_refusal_does_not_lengthen_a_leave() -> None:
    vm, _ = happens(vm_in(S.LEAVING, seconds=1.5), K.REFUSED)
    assert vm.deadline == after(1.5)


def test_a_leave_without_a_deadline_gets_one() -> None:
    vm, _ = step(Vm(lease(), S.LEAVING, NOW, WHY, None), event(K.REFUSED), NOW)
    assert vm.deadline == after(LEAVE_SECONDS)


def test_a_leaving_guest_that_does_not_answer_is_killed_and_killed_again() -> None:
    vm, orders = happens(vm_in(S.LEAVING), K.DUE)
    assert (vm.state, orders) == (S.KILLING, (C.KILL,))
    again, orders = happens(vm, K.DUE, at=3.0)
    assert (again.state, orders, again.since) == (S.KILLING, (C.KILL,), vm.since)
    assert again.deadline > vm.deadline


def test_the_first_cause_of_an_end_stays() -> None:
    vm, _ = happens(vm_in(S.RUNNING), K.REFUSED_NOW)
    for kind in (K.DUE, K.GONE):
        vm, _ = happens(vm, kind, fault=Fault.IMAGE)
    assert (vm.state, vm.reason.name, vm.fault) == (S.ENDED, "refused-now", Fault.NONE)


def test_before_the_guest_is_up_there_is_no_work_to_lose_and_no_grace() -> None:
    for state in (S.STARTING, S.BOOTING):
        vm, orders = happens(vm_in(state), K.REFUSED, grace_seconds=60.0)
        assert (vm.state, orders) == (S.KILLING, (C.KILL,))


def test_a_start_that_comes_after_the_order_to_end_is_killed() -> None:
    vm, orders = happens(vm_in(S.KILLING), K.STARTED, accelerator="kvm")
    assert (vm.state, orders) == (S.KILLING, (C.KILL,))


def test_a_paused_vm_that_says_that_it_runs_is_paused() -> None:
    assert happens(vm_in(S.PAUSED), K.STARTED)[1] == (C.PAUSE,)


def test_a_silent_guest_on_hardware_condemns_the_accelerator_and_is_the_desktops_fault() -> None:
    vm, orders = happens(vm_in(S.BOOTING, accelerator="kvm"), K.DUE)
    assert (vm.state, orders, vm.fault) == (S.KILLING, (C.DISTRUST, C.KILL), Fault.DESKTOP)


@pytest.mark.parametrize("accelerator", ["tcg", "fake"])
def test_a_silent_guest_under_emulation_is_the_images_fault_and_emulation_stays_trusted(accelerator: str) -> None:
    vm, orders = happens(vm_in(S.BOOTING, accelerator=accelerator), K.DUE)
    assert (vm.state, orders, vm.fault) == (S.KILLING, (C.KILL,), Fault.IMAGE)


@pytest.mark.parametrize("state", [S.FETCHING, S.STARTING])
def test_what_takes_too_long_before_a_guest_runs_is_the_desktops_fault(state: VmState) -> None:
    assert happens(vm_in(state), K.DUE)[0].fault is Fault.DESKTOP


def test_a_hypervisor_that_dies_before_the_guest_runs_is_the_desktops_fault() -> None:
    vm, _ = happens(vm_in(S.STARTING), K.GONE)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.DESKTOP)


@pytest.mark.parametrize("state", [S.BOOTING, S.RUNNING])
def test_a_guest_that_dies_by_itself_is_its_images_fault(state: VmState) -> None:
    vm, _ = happens(vm_in(state), K.GONE)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.IMAGE)


def test_a_driver_that_knows_whose_fault_it_was_is_believed() -> None:
    vm, _ = happens(vm_in(S.STARTING), K.START_FAILED, fault=Fault.DESKTOP)
    assert (vm.state, vm.fault) == (S.ENDED, Fault.DESKTOP)


def test_a_fetch_that_failed_ends_the_vm_with_the_reason() -> None:
    vm, _ = happens(ordered(), K.FETCH_FAILED, fault=Fault.DESKTOP)
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
        Event(K.DUE)


# -- the computer and the agent -----------------------------------------------------------------------------------


def test_a_computer_that_goes_to_sleep_pauses_what_runs_for_the_grace() -> None:
    vm, orders = happens(vm_in(S.RUNNING), K.SLEEPING, grace_seconds=60.0)
    assert (vm.state, orders, vm.deadline, vm.reason.name) == (S.PAUSED, (C.PAUSE,), after(61), "sleeping")
    again, orders = happens(vm, K.SLEEPING, at=30.0, grace_seconds=60.0)
    assert (again.deadline, orders) == (after(61), ()), "it is not lengthened"


@pytest.mark.parametrize("state", [S.RUNNING, S.PAUSED])
def test_a_computer_that_shuts_down_gives_a_guest_two_seconds(state: VmState) -> None:
    vm, orders = happens(vm_in(state), K.SHUTTING_DOWN)
    assert (vm.state, orders[-1], vm.deadline) == (S.LEAVING, C.VACATE, after(1 + LEAVE_SECONDS))
    assert (orders[0] is C.PAUSE) == (state is S.RUNNING)
    assert happens(vm, K.DUE, at=3.0)[1] == (C.KILL,)


@pytest.mark.parametrize("kind", [K.SLEEPING, K.SHUTTING_DOWN])
@pytest.mark.parametrize("state", [S.STARTING, S.BOOTING])
def test_before_the_guest_is_up_sleep_and_shutdown_kill(state: VmState, kind: Kind) -> None:
    vm, orders = happens(vm_in(state), kind, grace_seconds=60.0)
    assert (vm.state, orders) == (S.KILLING, (C.KILL,))


@pytest.mark.parametrize("kind", [K.SLEEPING, K.SHUTTING_DOWN])
def test_sleep_and_shutdown_hurry_a_guest_that_leaves_at_leisure(kind: Kind) -> None:
    vm, orders = happens(vm_in(S.LEAVING, seconds=20), kind, grace_seconds=60.0)
    assert (vm.state, orders, vm.deadline) == (S.LEAVING, (), after(1 + LEAVE_SECONDS))


@pytest.mark.parametrize("state", list(S))
def test_an_agent_that_makes_way_orders_nothing_and_moves_nothing(state: VmState) -> None:
    vm = vm_in(state)
    assert happens(vm, K.HANDED_OVER) == (vm, ())


def test_a_policy_that_shortens_the_grace_is_obeyed_by_what_is_paused_already() -> None:
    vm, orders = happens(vm_in(S.PAUSED, seconds=60), K.REFUSED, grace_seconds=5.0)
    assert (vm.state, orders, vm.deadline) == (S.PAUSED, (), after(6))


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_a_guest_that_waits_for_its_image_is_given_more_time_up_to_a_limit_and_no_accelerator_is_blamed(
    accelerator: str,
) -> None:
    vm, _ = happens(vm_in(S.STARTING), K.STARTED, accelerator=accelerator)
    lasts = ALIVE_SECONDS_HARDWARE if accelerator == "kvm" else ALIVE_SECONDS_SOFTWARE
    waiting, orders = happens(vm, K.WAITING, at=30.0)
    assert (waiting.state, waiting.deadline, waiting.waited, orders) == (S.BOOTING, after(30 + lasts), True, ())
    assert happens(waiting, K.DUE, at=700.0)[1] == ((C.DISTRUST, C.KILL) if accelerator == "kvm" else (C.KILL,))
    at = 30.0
    while waiting.deadline and at < 2 * WAIT_SECONDS:
        at += 5.0
        waiting, _ = happens(waiting, K.WAITING, at=at)
    assert waiting.deadline == after(1 + WAIT_SECONDS)
    late, orders = happens(waiting, K.DUE, at=2 * WAIT_SECONDS)
    assert (late.state, late.fault, orders) == (S.KILLING, Fault.DESKTOP, (C.KILL,))


def test_a_start_that_waits_for_its_image_is_given_more_time_and_waiting_never_takes_any_away() -> None:
    vm, _ = happens(ordered(), K.FETCHED, at=0.0)
    early, _ = happens(vm, K.WAITING, at=-20.0)
    assert early.deadline == vm.deadline == after(START_SECONDS)
    assert happens(vm, K.WAITING, at=20.0)[0].deadline == after(20 + START_SECONDS)
