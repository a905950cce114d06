"""Pacing: no storms of starts, and a load of others that counts only when it lasts."""

from collections import Counter
from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.desktop.inputs import Ticked
from deskgrid.core.desktop.state import AgentState, begin, next_due
from deskgrid.core.policy.availability import refusals
from deskgrid.core.policy.facts import Facts, Waits
from deskgrid.core.policy.pacing import Pace, fraction, load_seen, over_at
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason

from .values import ALL_DAY, AWAY, NOW, ROOMY, TYPING, after, desk, lease, sensed, told, turn

DAY = date(2026, 3, 3)
PACED = msgspec.structs.replace(ALL_DAY, start_offset_seconds=60.0)
SPACED = msgspec.structs.replace(ALL_DAY, start_spacing_seconds=5.0)


def test_the_share_of_a_desktop_is_the_same_on_every_system_and_another_one_each_day() -> None:
    assert fraction("desk-1", DAY) == fraction("desk-1", DAY) == pytest.approx(0.22622714, abs=1e-6)
    assert fraction("desk-1", DAY) != fraction("desk-1", date(2026, 3, 4)) != fraction("desk-2", date(2026, 3, 4))


@given(st.text(max_size=64), st.dates())
def test_the_share_lies_between_nothing_and_all(name: str, day: date) -> None:
    assert 0 <= fraction(name, day) < 1


@pytest.mark.parametrize("pattern", ["lab-{:02}", "pc{}", "{}.physics", "desk-{:05}"])
def test_fifty_desktops_of_a_lab_spread_evenly_over_the_offset(pattern: str) -> None:
    """In each tenth there should be five; 1.9 standard deviations of a fair draw are about four more."""
    for day in range(1, 11):
        tenths = Counter(int(fraction(pattern.format(n), date(2026, 3, day)) * 10) for n in range(50))
        assert max(tenths.values()) <= 14 and len(tenths) >= 8, tenths


def test_fifty_desktops_that_become_free_at_the_same_moment_start_at_different_ones() -> None:
    starts = []
    for number in range(50):
        here = begin(f"lab-{number:02}", PACED, sensed(TYPING), NOW)
        here, _ = turn(here, sensed(AWAY), NOW)
        starts.append((next_due(here) or NOW) - NOW)
    assert len({round(start.total_seconds(), 1) for start in starts}) > 40
    assert max(starts) < timedelta(seconds=61) and max(starts) > timedelta(seconds=45)
    assert max(Counter(start // timedelta(seconds=5) for start in starts).values()) <= 12


def waiting(at: float) -> AgentState:
    return turn(desk(PACED), Ticked(), after(at))[0]


def test_the_offset_counts_from_when_nothing_else_refused_and_ends_by_itself() -> None:
    before = desk(PACED)
    assert [reason.name for reason in before.availability.refusals] == ["start-offset"]
    due = next_due(before)
    assert due is not None and before.availability.refusals[0].until is not None
    assert due - before.availability.refusals[0].until == timedelta(milliseconds=1)
    assert not turn(before, Ticked(), due - timedelta(milliseconds=2))[0].availability.available
    free, _ = turn(before, Ticked(), due)
    assert free.availability.available and next_due(free) is None


def test_whatever_refuses_in_between_begins_the_offset_anew() -> None:
    due = next_due(desk(PACED))
    assert due is not None
    typed, _ = turn(waiting(10), sensed(TYPING), after(20))
    assert typed.pace.clear_since is None and next_due(typed) is None
    again, _ = turn(typed, sensed(AWAY), after(21))
    assert next_due(again) == due + timedelta(seconds=21)


def test_the_offset_does_not_begin_anew_with_each_start() -> None:
    both = msgspec.structs.replace(PACED, start_spacing_seconds=5.0)
    due = next_due(desk(both))
    assert due is not None
    free, _ = turn(desk(both), Ticked(), due)
    one, _ = turn(free, told(lease(), at=due), due)
    assert [reason.name for reason in one.availability.refusals] == ["start-spacing"]
    assert one.wake_at == due + timedelta(seconds=5, milliseconds=1)


def test_two_leases_at_once_are_spaced_the_second_one_is_refused_with_the_reason() -> None:
    now, acts = turn(desk(SPACED), told(lease("vm-1"), lease("vm-2")), NOW)
    assert [act.vm_id for act in acts] == ["vm-1"]
    assert [(vm.vm_id, vm.reason.name) for vm in now.ended] == [("vm-2", "start-spacing")]
    assert now.room.vms == 1
    assert turn(now, Ticked(), after(5.1))[0].availability.available


def test_a_start_that_was_refused_is_no_start() -> None:
    huge = msgspec.structs.replace(lease(), size=msgspec.structs.replace(lease().size, cpus=999))
    now, _ = turn(desk(SPACED), told(huge), NOW)
    assert now.pace.started_at is None and now.availability.available


def load(policy: Policy, *seen: tuple[float, float | None]) -> list[bool]:
    """Whether the load counts after each reading: (seconds since the last one, share of others)."""
    pace, now, counts = Pace(), NOW, []
    for seconds, share in seen:
        now += timedelta(seconds=seconds)
        pace = load_seen(pace, policy, msgspec.structs.replace(ROOMY, others_cpu=share), now)
        counts.append(pace.loaded)
    return counts


def test_a_load_counts_when_it_has_lasted_and_until_it_has_been_gone_for_a_while() -> None:
    policy = Policy(others_cpu_max=0.5, others_cpu_seconds=60.0, resume_seconds=15.0)
    assert load(policy, (0, 0.9), (30, 0.9), (29, 0.9), (1, 0.9)) == [False, False, False, True]
    assert load(policy, (0, 0.9), (59, 0.4), (1, 0.9), (59, 0.9)) == [False] * 4, "a pause begins it anew"
    assert load(policy, (0, 0.9), (60, 0.9), (1, 0.1), (14, 0.1), (1, 0.1)) == [False, True, True, True, False]
    assert load(policy, (0, 0.9), (60, 0.9), (1, 0.1), (14, 0.9), (1, 0.1), (14, 0.1)) == [False, *[True] * 5]
    assert load(policy, (0, 0.9), (60, 0.9), (0, 0.5), (15, 0.5), (0, 0.9)) == [False, True, True, False, False]


def test_at_the_limit_is_not_above_it() -> None:
    assert load(Policy(others_cpu_max=0.5), (0, 0.5), (3600, 0.5)) == [False, False]


def test_a_policy_without_patience_counts_a_load_at_once() -> None:
    assert load(Policy(others_cpu_seconds=0.0, resume_seconds=0.0), (0, 0.9), (1, 0.1)) == [True, False]


def test_a_reading_without_load_neither_begins_nor_ends_anything() -> None:
    policy = Policy(others_cpu_seconds=60.0, resume_seconds=15.0)
    assert load(policy, (0, None), (999, None)) == [False, False]
    assert load(policy, (0, 0.9), (30, None), (30, 0.9), (999, None), (0, 0.1)) == [False, False, True, True, True]


def test_a_desk_makes_way_for_a_load_that_lasts_and_comes_back() -> None:
    busy = sensed(machine=msgspec.structs.replace(ROOMY, others_cpu=0.9))
    calm = sensed(machine=msgspec.structs.replace(ROOMY, others_cpu=0.1))
    now = desk()
    for at, seen, name in ((0, busy, None), (59, busy, None), (60, busy, "others-load"), (61, calm, "others-load")):
        now, _ = turn(now, seen, after(at))
        assert (now.standing.refusal and now.standing.refusal.name) == name
    assert turn(now, calm, after(76))[0].standing.refusal is None


def paced(policy: Policy, waits: Waits) -> list[Reason]:
    return refusals(policy, Facts(AWAY, ROOMY, NOW, waits=waits))[1]


@given(
    st.builds(Waits, st.none() | st.floats(0, 100), st.none() | st.floats(0, 100), st.just(False), st.floats(0, 0.999)),
    st.sampled_from([0.0, 5.0, 60.0]),
    st.sampled_from([0.0, 5.0, 60.0]),
)
def test_when_pacing_says_that_it_is_over_it_is(waits: Waits, spacing: float, offset: float) -> None:
    policy = Policy(start_spacing_seconds=spacing, start_offset_seconds=offset)
    over = over_at(policy, waits, NOW)
    assert (over is None) == (paced(policy, waits) == [])
    if over is not None:
        more = (over - NOW).total_seconds()
        later = Waits(
            None if waits.clear_seconds is None else waits.clear_seconds + more,
            None if waits.started_seconds is None else waits.started_seconds + more,
            fraction=waits.fraction,
        )
        assert paced(policy, later) == []
