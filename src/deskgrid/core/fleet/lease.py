"""The life of a lease, as the coordinator sees it: one table.

Rules:
- Everything that can happen to a lease is an event; every event has a row in every state.
- `step(record, event, now)` decides; what it says is to be done (write the row, tell the story, take the ads out of the
  collector) is carried out by whoever holds the leases (`coordinator/state/ledger.py`).
- A lease is said to nobody before it is recorded, and no end is acknowledged before it is.
- A VM ends for the coordinator when its desktop says so, no longer shows it, or is silent until the lease lapses. One
  that is withdrawn is not ordered any more; it ends when its desktop has ended it.
- The first cause of an end stays. Joining is a success; a start that failed is a failure of the image or the desktop;
  an owner's return is nobody's.
- A record is a row of the database: the state follows from what is in it (`state_of`), so that a restart loses nothing.

The figure in docs/lease-life.md is drawn from the table.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias, get_args

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.lease import Lease
from deskgrid.model.plan import Outcome, Spent
from deskgrid.model.reason import Reason

LAPSED = Reason("lapsed", "Its desktop was silent until the lease was over.")
NEVER_SHOWN = Reason("never-started", "Its desktop was told to start it and never showed it.")
VANISHED = Reason("vanished", "Its desktop no longer reports it; its agent was restarted or lost it.")


class LeaseState(StrEnum):
    """How far a lease has come."""

    GRANTED = "granted"
    RECORDED = "recorded"
    ORDERED = "ordered"
    SHOWN = "shown"
    JOINED = "joined"
    CLAIMED = "claimed"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"
    ADS_GONE = "ads-gone"


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease and its history.

    ordered_at: its desktop was told. shown_at: its desktop has taken it. joined_at: it is in the collector.
    claimed: a job has had it.
    end: why it ended or was withdrawn. fault: whose fault that is.
    forgotten_at: its ads have left the collector.
    """

    lease: Lease
    shown_at: datetime | None = None
    joined_at: datetime | None = None
    claimed: bool = False
    accelerator: str = ""
    withdrawn_at: datetime | None = None
    ended_at: datetime | None = None
    end: Reason | None = None
    fault: Fault = Fault.NONE
    forgotten_at: datetime | None = None
    ordered_at: datetime | None = None
    state: LeaseState = LeaseState.GRANTED


class LeaseEvent(msgspec.Struct, frozen=True):
    """Something that happened to a lease or its VM."""


class LeaseRecorded(LeaseEvent, frozen=True, tag="recorded"):
    """It is in the database."""


class LeaseOrdered(LeaseEvent, frozen=True, tag="ordered"):
    """Its desktop was told to start it."""


class VmShown(LeaseEvent, frozen=True, tag="shown"):
    """Its desktop's report shows its VM. accelerator: "" while it is not known."""

    accelerator: str = ""


class VmMissing(LeaseEvent, frozen=True, tag="missing"):
    """Its desktop's report does not show its VM."""


class VmOver(LeaseEvent, frozen=True, tag="over"):
    """Its desktop says that its VM has ended."""

    reason: Reason
    fault: Fault = Fault.NONE
    accelerator: str = ""


class VmJoined(LeaseEvent, frozen=True, tag="joined"):
    """HTCondor's collector knows its VM."""

    at: datetime


class VmClaimed(LeaseEvent, frozen=True, tag="claimed"):
    """HTCondor gave its VM to a job."""


class LeaseLapsed(LeaseEvent, frozen=True, tag="lapsed"):
    """Its time is over, and its desktop has not renewed it by a report."""


class LeaseWithdrawn(LeaseEvent, frozen=True, tag="withdrawn"):
    """It is not wanted any more: by its operator, its image's revocation, a waiting job, or since it never joined."""

    reason: Reason
    fault: Fault = Fault.NONE


class DesktopCutOff(LeaseEvent, frozen=True, tag="cut-off"):
    """Its desktop is not heard any more: it was revoked."""

    reason: Reason


class AdsGone(LeaseEvent, frozen=True, tag="ads-gone"):
    """Its VM's ads have left the collector."""


AnyLeaseEvent: TypeAlias = (
    LeaseRecorded
    | LeaseOrdered
    | VmShown
    | VmMissing
    | VmOver
    | VmJoined
    | VmClaimed
    | LeaseLapsed
    | LeaseWithdrawn
    | DesktopCutOff
    | AdsGone
)
LEASE_EVENTS: tuple[type[LeaseEvent], ...] = get_args(AnyLeaseEvent)


class LeaseEffect(StrEnum):
    """What is to be done besides."""

    WRITE = "write"  # the row has changed
    TELL = "tell"  # a line of the VM's story, named like the event
    COUNT = "count"  # success or failure, for the standing of image and desktop
    RELEASE = "release"  # its desktop's orders have changed: its report is answered now
    INVALIDATE = "invalidate"  # the VM's ads leave the collector, its job is free


class LeaseRow(msgspec.Struct, frozen=True):
    """One row: where to, and what is to be done. end, fault: why it ends, unless the event says so."""

    to: LeaseState
    effects: tuple[LeaseEffect, ...] = ()
    end: Reason | None = None
    fault: Fault = Fault.NONE


S, E = LeaseState, LeaseEffect
_NEWS = (E.WRITE, E.TELL)


def _ends(end: Reason | None = None, fault: Fault = Fault.NONE) -> LeaseRow:
    return LeaseRow(S.ENDED, (*_NEWS, E.COUNT, E.RELEASE, E.INVALIDATE), end, fault)


def _alive(
    state: LeaseState,
    *,
    recorded: LeaseState,
    ordered: LeaseState,
    missing: LeaseRow,
    lapsed: LeaseRow,
) -> Mapping[type[LeaseEvent], LeaseRow]:
    """A state in which its VM is wanted."""
    shown = state in (S.SHOWN, S.JOINED, S.CLAIMED)
    joined = state in (S.JOINED, S.CLAIMED)
    return {
        LeaseRecorded: LeaseRow(recorded),
        LeaseOrdered: LeaseRow(ordered, _NEWS if ordered is not state else ()),
        VmShown: LeaseRow(state) if shown else LeaseRow(S.SHOWN, (E.WRITE,)),
        VmMissing: missing,
        VmOver: _ends(),
        VmJoined: LeaseRow(state) if joined else LeaseRow(S.JOINED, (*_NEWS, E.COUNT)),
        VmClaimed: LeaseRow(state) if state is S.CLAIMED else LeaseRow(S.CLAIMED, _NEWS),
        LeaseLapsed: lapsed,
        LeaseWithdrawn: LeaseRow(S.WITHDRAWN, (*_NEWS, E.COUNT, E.RELEASE)),
        DesktopCutOff: _ends(),
        AdsGone: LeaseRow(state),
    }


def _over(state: LeaseState) -> Mapping[type[LeaseEvent], LeaseRow]:
    """A state in which nothing of its VM is left, but perhaps its ads; one that joins late is sent away again."""
    stays = dict.fromkeys(LEASE_EVENTS, LeaseRow(state))
    gone = LeaseRow(S.ADS_GONE, _NEWS if state is S.ENDED else ())
    return {**stays, VmJoined: LeaseRow(state, (E.INVALIDATE,)), AdsGone: gone}


LEASE_TABLE: Mapping[LeaseState, Mapping[type[LeaseEvent], LeaseRow]] = {
    S.GRANTED: _alive(
        S.GRANTED,
        recorded=S.RECORDED,
        ordered=S.GRANTED,  # nothing is said before it is recorded
        missing=LeaseRow(S.GRANTED),
        lapsed=_ends(NEVER_SHOWN),  # the database refused it: no desktop's fault
    ),
    S.RECORDED: _alive(
        S.RECORDED,
        recorded=S.RECORDED,
        ordered=S.ORDERED,
        missing=LeaseRow(S.RECORDED),
        lapsed=_ends(NEVER_SHOWN, Fault.DESKTOP),
    ),
    S.ORDERED: _alive(
        S.ORDERED,
        recorded=S.ORDERED,
        ordered=S.ORDERED,
        missing=LeaseRow(S.ORDERED),  # the report was on its way before
        lapsed=_ends(NEVER_SHOWN, Fault.DESKTOP),
    ),
    S.SHOWN: _alive(
        S.SHOWN,
        recorded=S.SHOWN,
        ordered=S.SHOWN,
        missing=_ends(VANISHED, Fault.DESKTOP),
        lapsed=_ends(LAPSED, Fault.DESKTOP),
    ),
    S.JOINED: _alive(S.JOINED, recorded=S.JOINED, ordered=S.JOINED, missing=_ends(VANISHED), lapsed=_ends(LAPSED)),
    S.CLAIMED: _alive(S.CLAIMED, recorded=S.CLAIMED, ordered=S.CLAIMED, missing=_ends(VANISHED), lapsed=_ends(LAPSED)),
    S.WITHDRAWN: {
        LeaseRecorded: LeaseRow(S.WITHDRAWN),
        LeaseOrdered: LeaseRow(S.WITHDRAWN),
        VmShown: LeaseRow(S.WITHDRAWN),
        VmMissing: _ends(),
        VmOver: _ends(),
        VmJoined: LeaseRow(S.WITHDRAWN, (*_NEWS, E.COUNT)),
        VmClaimed: LeaseRow(S.WITHDRAWN, _NEWS),
        LeaseLapsed: _ends(),
        LeaseWithdrawn: LeaseRow(S.WITHDRAWN),
        DesktopCutOff: _ends(),
        AdsGone: LeaseRow(S.WITHDRAWN),
    },
    S.ENDED: _over(S.ENDED),
    S.ADS_GONE: _over(S.ADS_GONE),
}


_MARKS = {S.ORDERED: "ordered_at", S.WITHDRAWN: "withdrawn_at", S.ENDED: "ended_at", S.ADS_GONE: "forgotten_at"}


def step(record: LeaseRecord, event: AnyLeaseEvent, now: datetime) -> tuple[LeaseRecord, tuple[LeaseEffect, ...]]:
    """Decide what an event does to a lease. Returns: the lease after it, and what is to be done."""
    row, known = LEASE_TABLE[record.state][type(event)], _knowing(record, event, now)
    if row.to is record.state:
        if known is record:  # nothing new, and so nothing to be said
            return record, tuple(effect for effect in row.effects if effect is E.INVALIDATE)
        return known, row.effects if E.WRITE in row.effects else (*row.effects, E.WRITE)
    if row.to in (S.WITHDRAWN, S.ENDED):
        known = _ending(known, row, event)
    mark = {_MARKS[row.to]: now} if row.to in _MARKS else {}
    return msgspec.structs.replace(known, state=row.to, **mark), row.effects


def _knowing(record: LeaseRecord, event: AnyLeaseEvent, now: datetime) -> LeaseRecord:
    """The record with what the event tells, whatever becomes of the lease; the same one when it tells nothing new."""
    if record.state in (S.ENDED, S.ADS_GONE):
        return record
    news: dict[str, object] = {}
    match event:
        case VmShown(accelerator):
            news = {"shown_at": record.shown_at or now, "accelerator": accelerator or record.accelerator}
        case VmOver(accelerator=accelerator):
            news = {"accelerator": record.accelerator or accelerator}
        case VmJoined(at) if record.joined_at is None:
            news = {"joined_at": at if record.lease.granted_at <= at <= now else now}
        case VmClaimed():
            news = {"claimed": True}
    told = {name: value for name, value in news.items() if value != getattr(record, name)}
    return msgspec.structs.replace(record, **told) if told else record


def _ending(record: LeaseRecord, row: LeaseRow, event: AnyLeaseEvent) -> LeaseRecord:
    """The first cause stays, and so does the first fault."""
    end = record.end or row.end or getattr(event, "reason", None)
    fault = record.fault if record.fault is not Fault.NONE else getattr(event, "fault", row.fault)
    return msgspec.structs.replace(record, end=end, fault=fault)


def state_of(record: LeaseRecord) -> LeaseState:
    """The state that follows from what a row holds."""
    if record.ended_at is not None:
        return S.ENDED if record.forgotten_at is None else S.ADS_GONE
    if record.withdrawn_at is not None:
        return S.WITHDRAWN
    for holds, state in (
        (record.claimed, S.CLAIMED),
        (record.joined_at is not None, S.JOINED),
        (record.shown_at is not None, S.SHOWN),
        (record.ordered_at is not None, S.ORDERED),
    ):
        if holds:
            return state
    return S.RECORDED


def spent_of(record: LeaseRecord) -> Spent | None:
    """What came of a lease that has ended and had its VM; one that nobody took up says nothing."""
    lease, ended = record.lease, record.ended_at
    if ended is None or record.shown_at is None:
        return None
    return Spent(lease.image.name, lease.size, lease.desktop, ended, record.joined_at, record.claimed)


def outcomes_between(before: LeaseRecord, after: LeaseRecord) -> list[Outcome]:
    """What a step says that was not said before."""
    said = {outcome.ok for outcome in outcomes_of(before)}
    return [outcome for outcome in outcomes_of(after) if outcome.ok not in said]


def outcomes_of(record: LeaseRecord) -> list[Outcome]:
    """What one lease says about its image and its desktop: joining is a success, ending unused by a fault a failure."""
    image, desktop = record.lease.image.name, record.lease.desktop
    found = []
    if record.joined_at is not None:
        found.append(Outcome(image, desktop, record.joined_at, True))
    ended = record.ended_at or record.withdrawn_at
    if ended is not None and record.fault is not Fault.NONE and not record.claimed:
        found.append(Outcome(image, desktop, ended, False, record.fault))
    return found
