"""The life of a lease, row by row where a row matters."""

from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.fleet.lease import (
    LAPSED,
    LEASE_EVENTS,
    LEASE_TABLE,
    NEVER_SHOWN,
    VANISHED,
    AdsGone,
    AnyLeaseEvent,
    DesktopCutOff,
    LeaseEffect,
    LeaseEvent,
    LeaseLapsed,
    LeaseOrdered,
    LeaseRecord,
    LeaseRecorded,
    LeaseState,
    LeaseWithdrawn,
    VmClaimed,
    VmJoined,
    VmMissing,
    VmOver,
    VmShown,
    outcomes_between,
    outcomes_of,
    spent_of,
    state_of,
    step,
)
from deskgrid.model.desktop import Fault
from deskgrid.model.reason import Reason

from .values import WHY, after, lease

S, E = LeaseState, LeaseEffect
WANTED = (S.GRANTED, S.RECORDED, S.ORDERED, S.SHOWN, S.JOINED, S.CLAIMED)
LIVING = (*WANTED, S.WITHDRAWN)
OTHER = Reason("other", "Another cause.")
FRESH = LeaseRecord(lease())
WAY: dict[LeaseState, tuple[AnyLeaseEvent, ...]] = {
    S.GRANTED: (),
    S.RECORDED: (LeaseRecorded(),),
    S.ORDERED: (LeaseRecorded(), LeaseOrdered()),
    S.SHOWN: (LeaseRecorded(), LeaseOrdered(), VmShown("kvm")),
    S.JOINED: (LeaseRecorded(), LeaseOrdered(), VmShown("kvm"), VmJoined(after(5))),
    S.CLAIMED: (LeaseRecorded(), LeaseOrdered(), VmShown("kvm"), VmJoined(after(5)), VmClaimed()),
    S.WITHDRAWN: (LeaseRecorded(), LeaseWithdrawn(WHY)),
    S.ENDED: (LeaseRecorded(), VmOver(WHY)),
    S.ADS_GONE: (LeaseRecorded(), VmOver(WHY), AdsGone()),
}
EVENTS: dict[type[LeaseEvent], AnyLeaseEvent] = {
    VmJoined: VmJoined(after(20)),
    VmShown: VmShown("tcg"),
    VmOver: VmOver(OTHER, Fault.IMAGE, "tcg"),
    LeaseWithdrawn: LeaseWithdrawn(OTHER, Fault.IMAGE),
    DesktopCutOff: DesktopCutOff(OTHER),
}


def at(state: LeaseState) -> LeaseRecord:
    record = FRESH
    for event in WAY[state]:
        record, _ = step(record, event, after(10))
    assert record.state is state
    return record


def of(kind: type[LeaseEvent]) -> AnyLeaseEvent:
    return EVENTS.get(kind) or kind()  # type: ignore[return-value]


def happens(state: LeaseState, event: AnyLeaseEvent, now: float = 30) -> tuple[LeaseRecord, tuple[LeaseEffect, ...]]:
    return step(at(state), event, after(now))


def test_every_state_has_a_row_for_every_event() -> None:
    assert set(LEASE_TABLE) == set(S)
    assert all(set(rows) == set(LEASE_EVENTS) for rows in LEASE_TABLE.values())


@pytest.mark.parametrize(("state", "kind"), list(product(S, LEASE_EVENTS)))
def test_what_changes_a_row_is_written_and_the_state_follows_from_the_row(
    state: LeaseState, kind: type[LeaseEvent]
) -> None:
    before = at(state)
    record, effects = step(before, of(kind), after(30))
    if msgspec.structs.replace(record, state=before.state) != before:
        assert E.WRITE in effects
    if record.state is not S.GRANTED:
        assert state_of(record) is record.state
    assert (record.state in (S.WITHDRAWN, S.ENDED, S.ADS_GONE)) is (record.end is not None)
    assert len(set(effects)) == len(effects)


@given(st.lists(st.sampled_from(LEASE_EVENTS), max_size=12))
def test_an_end_is_told_once_and_nothing_comes_back_from_it(kinds: list[type[LeaseEvent]]) -> None:
    record, ends, first = FRESH, 0, None
    for seconds, kind in enumerate(kinds):
        before = record
        record, effects = step(record, of(kind), after(seconds))
        ended = before.state not in (S.ENDED, S.ADS_GONE) and record.state is S.ENDED
        ends += ended
        assert ended <= {E.TELL, E.INVALIDATE, E.RELEASE}.issubset(effects)
        assert before.state not in (S.ENDED, S.ADS_GONE) or record.state in (S.ENDED, S.ADS_GONE)
        first = first or record.end
        assert record.end == first
    assert ends == (record.state in (S.ENDED, S.ADS_GONE))


def test_nothing_is_said_before_it_is_recorded() -> None:
    assert happens(S.GRANTED, LeaseOrdered()) == (FRESH, ())
    record, effects = happens(S.RECORDED, LeaseOrdered())
    assert (record.state, record.ordered_at, effects) == (S.ORDERED, after(30), (E.WRITE, E.TELL))


@pytest.mark.parametrize("state", [S.GRANTED, S.RECORDED, S.ORDERED])
def test_a_report_without_a_vm_that_was_never_shown_says_nothing(state: LeaseState) -> None:
    assert happens(state, VmMissing()) == (at(state), ())


@pytest.mark.parametrize(
    ("state", "fault"), [(S.SHOWN, Fault.DESKTOP), (S.JOINED, Fault.NONE), (S.CLAIMED, Fault.NONE)]
)
def test_a_vm_that_its_desktop_no_longer_shows_has_ended(state: LeaseState, fault: Fault) -> None:
    record, effects = happens(state, VmMissing())
    assert (record.state, record.end, record.fault, record.ended_at) == (S.ENDED, VANISHED, fault, after(30))
    assert effects == (E.WRITE, E.TELL, E.COUNT, E.RELEASE, E.INVALIDATE)


@pytest.mark.parametrize(
    ("state", "end", "fault"),
    [
        (S.GRANTED, NEVER_SHOWN, Fault.NONE),
        (S.RECORDED, NEVER_SHOWN, Fault.DESKTOP),
        (S.ORDERED, NEVER_SHOWN, Fault.DESKTOP),
        (S.SHOWN, LAPSED, Fault.DESKTOP),
        (S.JOINED, LAPSED, Fault.NONE),
        (S.CLAIMED, LAPSED, Fault.NONE),
        (S.WITHDRAWN, WHY, Fault.NONE),
    ],
)
def test_a_lease_that_lapses_ends_by_whose_fault_it_is(state: LeaseState, end: Reason, fault: Fault) -> None:
    record, _ = happens(state, LeaseLapsed())
    assert (record.state, record.end, record.fault) == (S.ENDED, end, fault)


@pytest.mark.parametrize("kind", [VmMissing, VmOver, LeaseLapsed, DesktopCutOff])
def test_one_that_is_withdrawn_ends_for_the_reason_that_it_was_withdrawn_for(kind: type[LeaseEvent]) -> None:
    record, effects = happens(S.WITHDRAWN, of(kind))
    assert (record.state, record.end) == (S.ENDED, WHY)
    assert record.withdrawn_at == after(10) and E.INVALIDATE in effects


def test_the_first_fault_stays_and_is_counted_once() -> None:
    withdrawn, _ = happens(S.SHOWN, LeaseWithdrawn(WHY, Fault.IMAGE))
    ended, _ = step(withdrawn, VmOver(OTHER, Fault.DESKTOP), after(40))
    assert (ended.end, ended.fault) == (WHY, Fault.IMAGE)
    assert [outcome.fault for outcome in outcomes_between(at(S.SHOWN), withdrawn)] == [Fault.IMAGE]
    assert outcomes_between(withdrawn, ended) == []


def test_joining_is_a_success_also_of_one_that_is_withdrawn_and_is_told_once() -> None:
    record, effects = happens(S.WITHDRAWN, VmJoined(after(20)))
    assert (record.state, effects) == (S.WITHDRAWN, (E.WRITE, E.TELL, E.COUNT))
    assert [outcome.ok for outcome in outcomes_between(at(S.WITHDRAWN), record)] == [True]
    assert step(record, VmJoined(after(21)), after(31)) == (record, ())


@pytest.mark.parametrize(("told", "joined"), [(-5, 30), (20, 20), (31, 30)])
def test_a_time_of_joining_that_cannot_be_is_now(told: float, joined: float) -> None:
    assert happens(S.SHOWN, VmJoined(after(told)))[0].joined_at == after(joined)


@pytest.mark.parametrize("state", [S.ENDED, S.ADS_GONE])
def test_a_vm_that_has_ended_and_is_in_the_collector_is_sent_away_each_time(state: LeaseState) -> None:
    assert happens(state, VmJoined(after(20))) == (at(state), (E.INVALIDATE,))
    assert happens(state, VmShown("tcg")) == (at(state), ())


def test_ads_go_once() -> None:
    record, effects = happens(S.ENDED, AdsGone())
    assert (record.state, record.forgotten_at, effects) == (S.ADS_GONE, after(30), (E.WRITE, E.TELL))
    assert step(record, AdsGone(), after(31)) == (record, ())


def test_another_accelerator_is_written_and_one_that_is_not_known_says_nothing() -> None:
    assert happens(S.JOINED, VmShown("tcg"))[0].accelerator == "tcg"
    assert happens(S.JOINED, VmShown("")) == (at(S.JOINED), ())
    assert happens(S.RECORDED, VmOver(WHY, Fault.NONE, "tcg"))[0].accelerator == "tcg"
    assert happens(S.JOINED, VmOver(WHY, Fault.NONE, "tcg"))[0].accelerator == "kvm"


@pytest.mark.parametrize("state", WANTED)
def test_whoever_is_withdrawn_is_ordered_no_more(state: LeaseState) -> None:
    record, effects = happens(state, LeaseWithdrawn(OTHER))
    assert (record.state, record.end, record.withdrawn_at) == (S.WITHDRAWN, OTHER, after(30))
    assert effects == (E.WRITE, E.TELL, E.COUNT, E.RELEASE)


def test_what_came_of_a_lease_is_known_when_its_vm_was_there_and_has_ended() -> None:
    assert spent_of(at(S.CLAIMED)) is None and spent_of(at(S.ENDED)) is None
    spent = spent_of(happens(S.CLAIMED, VmOver(WHY))[0])
    assert spent is not None and (spent.claimed, spent.joined_at, spent.ended_at) == (True, after(5), after(30))


def test_a_fault_after_a_job_had_the_machine_is_no_failed_start() -> None:
    assert [o.ok for o in outcomes_of(happens(S.CLAIMED, VmOver(WHY, Fault.IMAGE))[0])] == [True]
    assert [o.ok for o in outcomes_of(happens(S.JOINED, VmOver(WHY, Fault.IMAGE))[0])] == [True, False]
    assert outcomes_of(happens(S.SHOWN, VmOver(WHY))[0]) == []
