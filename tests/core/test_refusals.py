"""The table of refusals: what a desktop is called in lists, and what running VMs get."""

from datetime import timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.desktop.vm import TABLE, step
from deskgrid.core.events import Allowed, AnyEvent, Refused, RefusedNow, ShuttingDown, Sleeping
from deskgrid.core.fleet.fitness import tally
from deskgrid.core.policy.availability import standing
from deskgrid.core.policy.facts import Facts
from deskgrid.core.policy.layers import combine
from deskgrid.core.policy.refusals import REFUSALS, Effect, Name, Refusal, holding, state
from deskgrid.model.desktop import Availability, Room, VmState
from deskgrid.model.policy import Policy
from deskgrid.model.presence import Ending
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish

from .facts import AMPLE, CALM, FACTS, LAYER_SETS, MACHINES, READINGS, USED, WISHES
from .values import NOW, vm_in

ROOM, NO_ROOM = Room(4, 1 << 30, 1 << 30, 1), Room(0, 0, 0, 0)
SOMEBODY_IS_THERE = {"owner-active", "remote-session", "watching", "full-screen", "quiet-program"}


def refusing(*names: str) -> Availability:
    return Availability(False, tuple(Reason(name, "No.") for name in names))


def test_a_desktop_that_refuses_nothing_is_available_while_it_has_room() -> None:
    assert state(Availability(True), ROOM) == "available"
    assert state(Availability(True), NO_ROOM) == "full"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_desktop_is_in_use_only_where_somebody_uses_it(refusal: Refusal) -> None:
    name = refusal.name.value
    assert (state(refusing(name), ROOM) == "in use") == (name in SOMEBODY_IS_THERE)


def test_a_desktop_that_waits_for_its_turn_is_waiting_and_the_first_refusal_counts() -> None:
    for name in ("just-booted", "start-spacing", "start-offset"):
        assert state(refusing(name), ROOM) == "waiting"
    assert state(refusing("owner-paused", "owner-active"), ROOM) == "paused"
    assert state(refusing("policy-unreadable"), ROOM) == "not fit"


def test_for_everybody_to_read_a_name_that_only_its_desktop_knows_is_other() -> None:
    said = [
        Reason(name, "")
        for name in ("owner-active", "owner-active", "no-demand", "pay here " + "x" * 100_000, "y", "machine-unknown")
    ]
    assert tally(said) == ["2 owner-active", "2 other", "1 no-demand", "1 machine-unknown"]


def test_every_name_has_its_row_and_every_row_what_the_manual_says() -> None:
    assert [row.name for row in REFUSALS] == list(Name)
    assert all(row.state and row.ends and row.when for row in REFUSALS)
    assert {row.event for row in REFUSALS if row.effect is not Effect.STOP} == {Refused}


_MILDER = (VmState.RUNNING, VmState.PAUSED, VmState.LEAVING, VmState.KILLING, VmState.ENDED)


def fate(event: AnyEvent | None, before: VmState) -> tuple[int, float]:
    """What becomes of a VM: how far it goes, and how soon it goes further."""
    if event is None:
        event = Allowed(Reason("allowed", "The owner has left again."))
    after, _ = step(vm_in(before), event, NOW)
    left = timedelta.max if after.state is VmState.RUNNING or after.deadline is None else after.deadline - NOW
    return _MILDER.index(after.state), -left.total_seconds()


@given(LAYER_SETS, FACTS, READINGS | USED, MACHINES, WISHES, st.sampled_from((VmState.RUNNING, VmState.PAUSED)))
def test_one_refusal_more_never_makes_milder_what_happens_to_a_vm(
    layers: object, facts: Facts, reading: object, machine: object, wish: Wish | None, before: VmState
) -> None:
    policy = combine(layers).policy  # type: ignore[arg-type]
    less = {one.refusal.name for one in holding(policy, facts, starting=False)}
    for changed in ({"reading": reading}, {"machine": machine}, {"wish": wish}):
        more = msgspec.structs.replace(facts, **changed)
        if less <= {one.refusal.name for one in holding(policy, more, starting=False)}:
            assert fate(standing(policy, more).event, before) >= fate(standing(policy, facts).event, before)


@pytest.mark.parametrize("before", [VmState.RUNNING, VmState.PAUSED])
@pytest.mark.parametrize("ending", Ending)
def test_a_pause_hides_no_shutdown_and_no_sleep(before: VmState, ending: Ending) -> None:
    policy, calm = Policy(), Facts(CALM, AMPLE, NOW)
    about_to = msgspec.structs.replace(calm, reading=msgspec.structs.replace(CALM, ending=ending))
    paused = msgspec.structs.replace(about_to, wish=Wish(Ask.PAUSE, "owner", NOW, None))
    assert fate(standing(policy, paused).event, before) == fate(standing(policy, about_to).event, before)
    assert standing(policy, paused).refusal.name == "owner-paused"  # type: ignore[union-attr]


def test_events_that_are_said_to_give_no_grace_give_none() -> None:
    for before in (VmState.RUNNING, VmState.PAUSED):
        for kind in (Refused, Sleeping):
            assert TABLE[before][kind].to is VmState.PAUSED
        for kind in (RefusedNow, ShuttingDown):
            assert TABLE[before][kind].to is VmState.LEAVING
