"""The coordinator's memory of every lease until its end: reports, collector and clock become events of their lives.

Rules:
- What an event means is decided by the table of `core/fleet/lease.py`; here its effects are carried out, nowhere else.
- Each report that shows a VM extends its lease. Its pool token is short-lived, and renewed while the lease holds; it is
  in memory only.
- Nothing here waits or writes: what is to be recorded collects in `changes`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from deskgrid.coordinator.db.changes import Changes, clean
from deskgrid.coordinator.state.outcomes import LastVms, Outcomes
from deskgrid.core.events import name_of
from deskgrid.core.fleet.lease import (
    AdsGone,
    AnyLeaseEvent,
    DesktopCutOff,
    LeaseEffect,
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
    spent_of,
    step,
)
from deskgrid.model.desktop import Fault, VmReport, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease
from deskgrid.model.pool import MachineAd
from deskgrid.model.reason import Reason

_UP = (VmState.BOOTING, VmState.RUNNING)
_STORY = {"over": "ended", "missing": "ended", "lapsed": "ended", "cut-off": "ended", "ads-gone": "ads-withdrawn"}
"""What an event's line is called, where not like the event."""

NEVER_JOINED = Reason("never-joined", "It was up, but HTCondor never saw it.")


class ActiveLease:
    """One lease that lives: its record, and what is only known for now.

    token: SECRET, while the desktop has not shown the VM. renewed: SECRET, the newest token of a VM that was shown.
    token_from: when its newest token was made; None: unknown. recorded_until: how far it is recorded to hold.
    up_since: without a pause, while it has not joined. jobs: that run in it now.
    """

    __slots__ = ("jobs", "record", "recorded_until", "renewed", "report", "token", "token_from", "up_since")

    def __init__(self, record: LeaseRecord, token: str | None = None) -> None:
        self.record = record
        self.token = token
        self.recorded_until = record.lease.until
        self.report: VmReport | None = None
        self.up_since: datetime | None = None
        self.jobs: tuple[str, ...] = ()
        self.renewed = ""
        self.token_from: datetime | None = record.lease.granted_at if token else None

    @property
    def lease(self) -> Lease:
        """The lease as it is now."""
        return self.record.lease

    @property
    def withdrawn(self) -> Reason | None:
        """Why it is not ordered any more; None: it is."""
        return self.record.end if self.record.state is LeaseState.WITHDRAWN else None

    def counted(self) -> LiveLease:
        """The lease as the planner sees it."""
        return LiveLease(self.lease, self.record.joined_at, self.record.claimed, bool(self.jobs))

    def __repr__(self) -> str:
        return f"ActiveLease({self.lease.vm_id}, token={'<secret>' if self.token else None})"


class Ledger:
    """All leases that live, and those that ended lately.

    changes: what is not recorded yet.
    invalidated: VM ids whose ads must leave the collector, for the caller to take away.
    released: desktops whose orders have changed, for the caller to take away.
    condemned: VMs whose pool tokens must die too, until they have, whoever is enrolled by that name since.
    """

    def __init__(
        self, lease_seconds: float, token_seconds: float, outcomes: Outcomes, last_vms: LastVms | None = None
    ) -> None:
        self._lease_seconds = lease_seconds
        self._lease, self._token_half = timedelta(seconds=lease_seconds), timedelta(seconds=token_seconds / 2)
        self._live: dict[str, ActiveLease] = {}
        self._of: dict[str, dict[str, ActiveLease]] = {}
        self._gone: dict[str, LeaseRecord] = {}
        self.changes = Changes(self._recorded)
        self.outcomes, self.last_vms = outcomes, last_vms or LastVms()
        self.invalidated: list[str] = []
        self.released: set[str] = set()
        self.condemned: set[str] = set()

    # -- what is there --------------------------------------------------------------------------------------------

    def get(self, vm_id: str) -> ActiveLease | None:
        """The living lease of a VM."""
        return self._live.get(vm_id)

    def of(self, desktop: str) -> Sequence[ActiveLease]:
        """The living leases of a desktop."""
        return tuple(self._of.get(desktop, {}).values())

    def all(self) -> Sequence[ActiveLease]:
        """All living leases."""
        return tuple(self._live.values())

    def for_plan(self) -> tuple[LiveLease, ...]:
        """What the planner counts: living leases that are not withdrawn."""
        return tuple(live.counted() for live in self._live.values() if live.withdrawn is None)

    def tokens_due(self, now: datetime, most: int) -> list[ActiveLease]:
        """Leases whose token was lost by a restart or has lived half its life; those that need it most come first."""
        living = [live for live in self._live.values() if live.withdrawn is None]
        lost = [live for live in living if live.token_from is None]
        old = [(live.token_from, live) for live in living if live.token_from is not None]
        due = [one for one in old if now - one[0] > self._token_half]
        return [*lost, *(live for _, live in sorted(due, key=lambda one: one[0]))][:most]

    def strangers(self, is_member: Callable[[str], bool]) -> set[str]:
        """The desktops of all leases that are no members."""
        records = [*(live.record for live in self._live.values()), *self._gone.values()]
        return {name for name in {one.lease.desktop for one in records} if not is_member(name)}

    # -- what happens ---------------------------------------------------------------------------------------------

    def restore(self, living: Iterable[LeaseRecord], gone: Iterable[LeaseRecord], now: datetime) -> None:
        """Take up what an earlier life recorded. Each lease gets time for its desktop to report."""
        for record in living:
            # A time in the future was recorded while this computer's clock was ahead.
            granted_at, until = min(record.lease.granted_at, now), now + self._lease
            lease = msgspec.structs.replace(record.lease, granted_at=granted_at, until=until)
            self._add(ActiveLease(msgspec.structs.replace(record, lease=lease)))
        for record in gone:
            if record.ended_at is not None and record.ended_at > now:
                record = msgspec.structs.replace(record, ended_at=now)
            self._gone[record.lease.vm_id] = record
            if record.state is LeaseState.ENDED:
                self.invalidated.append(record.lease.vm_id)

    def grant(self, lease: Lease, token: str) -> None:
        """A new lease; it is given out once it is recorded."""
        live = ActiveLease(LeaseRecord(lease), token)
        self._add(live)
        self.released.add(lease.desktop)
        self._write(live)
        self.changes.tell(lease.vm_id, "granted", lease.reason.sentence, lease.granted_at)

    def renew_token(self, live: ActiveLease, token: str, now: datetime) -> None:
        """A lease has a new token."""
        if live.lease.vm_id not in self._live:
            return
        self.released.add(live.lease.desktop)
        live.token_from = now
        if live.record.shown_at is None:
            live.token = token
        else:
            live.renewed = token

    def ordered(self, vm_id: str, now: datetime) -> None:
        """Its desktop was told to start it."""
        self._happen(vm_id, LeaseOrdered(), now)

    def hear(self, desktop: str, vms: Sequence[VmReport], ended: Sequence[VmReport], now: datetime) -> None:
        """Take in what a desktop reports of its VMs."""
        mine = self._of.get(desktop)
        if not mine:
            return
        shown = {report.vm_id: report for report in vms}
        over = {report.vm_id: report for report in (*vms, *ended) if report.state is VmState.ENDED}
        over |= {report.vm_id: report for report in ended}
        for vm_id, live in list(mine.items()):
            if (report := over.get(vm_id)) is not None:
                reason = Reason(clean(report.reason.name)[:64], clean(report.reason.sentence))
                self._happen(vm_id, VmOver(reason, report.fault, clean(report.accelerator)[:64]), now)
            elif (report := shown.get(vm_id)) is not None:
                self._shown(live, report, now)
            else:
                self._happen(vm_id, VmMissing(), now)

    def see(self, machines: Iterable[MachineAd], now: datetime) -> None:
        """Take in what the collector knows; a VM that has ended and is still there is sent away again."""
        for machine in machines:
            if (live := self._live.get(machine.vm_id)) is not None:
                live.jobs = machine.jobs
            self._happen(machine.vm_id, VmJoined(machine.joined_at or now), now)
            if machine.claimed:
                self._happen(machine.vm_id, VmClaimed(), now)

    def expire(self, now: datetime, join_seconds: float | None) -> None:
        """End leases that lapsed, withdraw VMs that are up but never joined.

        Args:
            join_seconds: how long a VM may be up without joining; None when it is not known who has joined.
        """
        for live in self.all():
            if live.lease.until <= now:
                self._happen(live.lease.vm_id, LeaseLapsed(), now)
            elif (
                join_seconds is not None
                and live.up_since is not None
                and live.record.joined_at is None
                and now - live.up_since > timedelta(seconds=join_seconds)
            ):
                self._happen(live.lease.vm_id, LeaseWithdrawn(NEVER_JOINED, Fault.IMAGE), now)

    def withdraw(self, vm_id: str, reason: Reason, now: datetime) -> bool:
        """Order a VM no longer. Returns False when it is not there or withdrawn already."""
        live = self._live.get(vm_id)
        if live is None or live.withdrawn is not None:
            return False
        self._happen(vm_id, LeaseWithdrawn(reason), now)
        return True

    def cut_off(self, desktop: str, reason: Reason, now: datetime) -> None:
        """End all leases of a desktop that will not be heard any more; tokens of those that ended lately die too."""
        for live in self.of(desktop):
            self._happen(live.lease.vm_id, DesktopCutOff(reason), now)
        self.condemned |= {vm_id for vm_id, record in self._gone.items() if record.lease.desktop == desktop}

    def condemn_older(self, enrolled_at: Mapping[str, datetime]) -> None:
        """VMs whose ads are not gone yet and that were there before their desktop was enrolled anew: tokens die too."""
        for vm_id, record in self._gone.items():
            since = enrolled_at.get(record.lease.desktop)
            if record.state is LeaseState.ENDED and since is not None and record.lease.granted_at < since:
                self.condemned.add(vm_id)

    def ads_gone(self, vm_id: str, now: datetime) -> None:
        """The VM's ads have left the collector."""
        self._happen(vm_id, AdsGone(), now)

    def drop_gone(self, before: datetime) -> None:
        """Forget VMs that ended long ago; their ads have expired."""
        for vm_id, record in list(self._gone.items()):
            if record.ended_at is not None and record.ended_at < before:
                del self._gone[vm_id]
                self.condemned.discard(vm_id)

    # -- time -----------------------------------------------------------------------------------------------------

    def shift(self, by: timedelta) -> None:
        """The clock was set by so much: move all that is remembered."""
        for live in self._live.values():
            lease = live.lease
            lease = msgspec.structs.replace(lease, granted_at=lease.granted_at + by, until=lease.until + by)
            live.record = msgspec.structs.replace(live.record, lease=lease, **_moved(live.record, by))
            self._write(live)
            live.up_since = None if live.up_since is None else live.up_since + by
        for vm_id, record in self._gone.items():
            self._gone[vm_id] = msgspec.structs.replace(record, **_moved(record, by))
        self.outcomes.shift(by)
        self.last_vms.shift(by)

    def prolong(self, now: datetime) -> None:
        """The coordinator itself was away: nobody could report, so nobody is late."""
        for live in self._live.values():
            self._renew(live, now)

    # -- inside ---------------------------------------------------------------------------------------------------

    def _add(self, live: ActiveLease) -> None:
        self._live[live.lease.vm_id] = live
        self.changes.tellers.add(live.lease.desktop, live.lease.vm_id)
        self._of.setdefault(live.lease.desktop, {})[live.lease.vm_id] = live

    def _recorded(self, vm_ids: Iterable[str]) -> None:
        for vm_id in vm_ids:
            if (live := self._live.get(vm_id)) is not None:
                live.record, _ = step(live.record, LeaseRecorded(), live.lease.granted_at)

    def _happen(self, vm_id: str, event: AnyLeaseEvent, now: datetime) -> None:
        """Let an event have its effects."""
        live = self._live.get(vm_id)
        before = live.record if live is not None else self._gone.get(vm_id)
        if before is None:
            return
        after, effects = step(before, event, now)
        if live is not None:
            live.record = after
        if after.state is not before.state and after.state in (LeaseState.ENDED, LeaseState.ADS_GONE):
            self._keep_ended(after)
        for effect in effects:
            self._carry_out(effect, before, after, event, now)

    def _carry_out(
        self, effect: LeaseEffect, before: LeaseRecord, after: LeaseRecord, event: AnyLeaseEvent, now: datetime
    ) -> None:
        match effect:
            case LeaseEffect.WRITE:
                self.changes.lease(after)
                if (live := self._live.get(after.lease.vm_id)) is not None:
                    live.recorded_until = after.lease.until
            case LeaseEffect.TELL:
                self._tell(after, event, now)
            case LeaseEffect.COUNT:
                for outcome in outcomes_between(before, after):
                    self.outcomes.add(outcome)
            case LeaseEffect.RELEASE:
                self.released.add(after.lease.desktop)
            case LeaseEffect.INVALIDATE:
                self.invalidated.append(after.lease.vm_id)

    def _keep_ended(self, record: LeaseRecord) -> None:
        vm_id = record.lease.vm_id
        self._gone[vm_id] = record
        if self._live.pop(vm_id, None) is not None:
            del self._of[record.lease.desktop][vm_id]
            if (spent := spent_of(record)) is not None:
                self.last_vms.add(spent)

    def _tell(self, record: LeaseRecord, event: AnyLeaseEvent, now: datetime) -> None:
        sentences = {
            LeaseOrdered: f"{record.lease.desktop} was told to start it.",
            VmJoined: "HTCondor knows it.",
            VmClaimed: "HTCondor gave it to a job.",
            AdsGone: "HTCondor was told that it is gone.",
        }
        sentence = sentences.get(type(event)) or (record.end.sentence if record.end is not None else "")
        name, at = name_of(type(event)), record.joined_at if isinstance(event, VmJoined) else None
        self.changes.tell(record.lease.vm_id, _STORY.get(name, name), sentence, at or now)

    def _shown(self, live: ActiveLease, report: VmReport, now: datetime) -> None:
        live.report, live.token = report, None
        self._happen(report.vm_id, VmShown(clean(report.accelerator)[:64]), now)
        if report.state not in _UP:
            live.up_since = None
        elif live.up_since is None:
            live.up_since = now
        if live.withdrawn is None:
            self._renew(live, now)

    def _renew(self, live: ActiveLease, now: datetime) -> None:
        until = now + self._lease
        if until > live.lease.until:
            live.record = msgspec.structs.replace(live.record, lease=msgspec.structs.replace(live.lease, until=until))
            if (until - live.recorded_until).total_seconds() > self._lease_seconds / 2:
                self._write(live)

    def _write(self, live: ActiveLease) -> None:
        live.recorded_until = live.lease.until
        self.changes.lease(live.record)


def _moved(record: LeaseRecord, by: timedelta) -> dict[str, datetime]:
    moments = ("ordered_at", "shown_at", "joined_at", "withdrawn_at", "ended_at", "forgotten_at")
    return {name: at + by for name in moments if (at := getattr(record, name)) is not None}
