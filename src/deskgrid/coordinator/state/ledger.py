"""The leases that live, and what becomes of them: the coordinator's memory of every VM until its end.

Rules, told first:
- A lease is given out only after it was recorded. Its pool token is in memory only.
- Each report that shows a VM extends its lease. Its pool token is short-lived, and renewed while the lease holds.
- A VM ends for the coordinator when its desktop says so, no longer shows it, or is silent until the lease lapses.
  A VM that is withdrawn is not ordered any more; it ends when its desktop has ended it.
- Joined is a success. A start that failed is a failure of the image or the desktop; an owner's return is nobody's.
- Nothing here waits or writes: what is to be recorded collects in `changes`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from deskgrid.coordinator.db.changes import Changes, Live, clean
from deskgrid.coordinator.db.values import LeaseRecord, outcomes_of, spent_of
from deskgrid.coordinator.state.outcomes import LastVms, Outcomes
from deskgrid.model.desktop import Fault, VmReport, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease
from deskgrid.model.pool import Machine
from deskgrid.model.reason import Reason

_UP = (VmState.BOOTING, VmState.RUNNING)

LAPSED = Reason("lapsed", "Its desktop was silent until the lease was over.")
NEVER_SHOWN = Reason("never-started", "Its desktop was told to start it and never showed it.")
VANISHED = Reason("vanished", "Its desktop no longer reports it; its agent was restarted or lost it.")
NEVER_JOINED = Reason("never-joined", "It was up, but HTCondor never saw it.")


class Ledger:
    """All living leases.

    changes: what is not recorded yet. ended: vm ids whose ads must leave the collector, for the caller to take away.
    condemned: those whose pool tokens must die too, until they have, whoever is enrolled by that name since.
    """

    def __init__(
        self, lease_seconds: float, token_seconds: float, outcomes: Outcomes, last_vms: LastVms | None = None
    ) -> None:
        self._lease_seconds = lease_seconds
        self._lease, self._token_half = timedelta(seconds=lease_seconds), timedelta(seconds=token_seconds / 2)
        self._live: dict[str, Live] = {}
        self._of: dict[str, dict[str, Live]] = {}
        self._gone: dict[str, LeaseRecord] = {}
        self.changes = Changes()
        self.outcomes, self.last_vms = outcomes, last_vms or LastVms()
        self.ended: list[str] = []
        self.condemned: set[str] = set()

    # what is there

    def get(self, vm_id: str) -> Live | None:
        """The living lease of a VM."""
        return self._live.get(vm_id)

    def of(self, desktop: str) -> Sequence[Live]:
        """The living leases of a desktop."""
        return tuple(self._of.get(desktop, {}).values())

    def all(self) -> Sequence[Live]:
        """All living leases."""
        return tuple(self._live.values())

    def for_plan(self) -> tuple[LiveLease, ...]:
        """What the planner counts: living leases that are not withdrawn."""
        return tuple(live.counted() for live in self._live.values() if live.withdrawn is None)

    def tokens_due(self, now: datetime, most: int) -> list[Live]:
        """Leases whose token was lost by a restart or has lived half its life; those that need it most come first."""
        living = [live for live in self._live.values() if live.withdrawn is None]
        lost = [live for live in living if live.token_from is None]
        old = [(live.token_from, live) for live in living if live.token_from is not None]
        due = [one for one in old if now - one[0] > self._token_half]
        return [*lost, *(live for _, live in sorted(due, key=lambda one: one[0]))][:most]

    def renew_token(self, live: Live, token: str, now: datetime) -> None:
        """A lease has a new token."""
        if live.record.ended_at is not None:
            return
        live.token_from = now
        if live.record.shown_at is None:
            live.token = token
        else:
            live.renewed = token

    # what happens

    def restore(self, living: Iterable[LeaseRecord], gone: Iterable[LeaseRecord], now: datetime) -> None:
        """Take up what an earlier life recorded. Each lease gets time for its desktop to report."""
        for record in living:
            # A time in the future was recorded while this computer's clock was ahead.
            granted_at, until = min(record.lease.granted_at, now), now + self._lease
            lease = msgspec.structs.replace(record.lease, granted_at=granted_at, until=until)
            self._add(Live(msgspec.structs.replace(record, lease=lease), recorded=True))
        for record in gone:
            if record.ended_at is not None and record.ended_at > now:
                record = msgspec.structs.replace(record, ended_at=now)
            self._gone[record.lease.vm_id] = record
            if record.forgotten_at is None:
                self.ended.append(record.lease.vm_id)

    def grant(self, lease: Lease, token: str) -> None:
        """A new lease; it is given out once it is recorded."""
        live = Live(LeaseRecord(lease), token)
        self._add(live)
        self._change(live)
        self.changes.tell(lease.vm_id, "granted", lease.reason.sentence, lease.granted_at)

    def hear(self, desktop: str, vms: Sequence[VmReport], ended: Sequence[VmReport], now: datetime) -> None:
        """Take in what a desktop reports of its VMs."""
        mine = self._of.get(desktop)
        if not mine:
            return
        for report in ended:
            if (live := mine.get(report.vm_id)) is not None:
                self._end(live, report.reason, report.fault, now, report)
        shown = set()
        for report in vms:
            if (live := mine.get(report.vm_id)) is not None:
                shown.add(report.vm_id)
                if report.state is VmState.ENDED:
                    self._end(live, report.reason, report.fault, now, report)
                else:
                    self._shown(live, report, now)
        for live in [live for vm_id, live in mine.items() if vm_id not in shown]:
            if live.withdrawn is not None:
                self._end(live, live.withdrawn, live.record.fault, now)
            elif live.record.shown_at is not None:
                fault = Fault.NONE if live.record.joined_at else Fault.DESKTOP
                self._end(live, VANISHED, fault, now)

    def see(self, machines: Iterable[Machine], now: datetime) -> list[str]:
        """Take in what the collector knows. Returns the ids of VMs that have ended and are still there."""
        ghosts = []
        for machine in machines:
            live = self._live.get(machine.vm_id)
            if live is None:
                if machine.vm_id in self._gone:
                    ghosts.append(machine.vm_id)
                continue
            live.jobs = machine.jobs
            if live.record.joined_at is None:
                told = machine.joined_at
                joined = told if told is not None and live.lease.granted_at <= told <= now else now
                self._change(live, joined_at=joined)
                self.changes.tell(machine.vm_id, "joined", "HTCondor knows it.", joined)
                self.outcomes.add(outcomes_of(live.record)[0])
            if machine.claimed and not live.record.claimed:
                self._change(live, claimed=True)
                self.changes.tell(machine.vm_id, "claimed", "HTCondor gave it to a job.", now)
        return ghosts

    def expire(self, now: datetime, join_seconds: float | None) -> list[str]:
        """End leases that lapsed, withdraw VMs that are up but never joined.

        Args:
            join_seconds: how long a VM may be up without joining; None when it is not known who has joined.

        Returns: the desktops whose orders changed.
        """
        changed = []
        for live in self.all():
            if live.lease.until <= now:
                changed.append(live.lease.desktop)
                if live.withdrawn is not None:
                    self._end(live, live.withdrawn, live.record.fault, now)
                else:
                    fault = Fault.NONE if live.record.joined_at or not live.recorded else Fault.DESKTOP
                    self._end(live, LAPSED if live.record.shown_at else NEVER_SHOWN, fault, now)
            elif (
                join_seconds is not None
                and live.up_since is not None
                and live.record.joined_at is None
                and now - live.up_since > timedelta(seconds=join_seconds)
                and self.withdraw(live.lease.vm_id, NEVER_JOINED, now, Fault.IMAGE)
            ):
                changed.append(live.lease.desktop)
        return changed

    def shift(self, by: timedelta) -> None:
        """The clock was set by so much: move all that is remembered."""
        for live in self._live.values():
            lease = live.lease
            lease = msgspec.structs.replace(lease, granted_at=lease.granted_at + by, until=lease.until + by)
            self._change(live, lease=lease, **_moved(live.record, by))
            live.up_since = None if live.up_since is None else live.up_since + by
        for vm_id, record in self._gone.items():
            self._gone[vm_id] = msgspec.structs.replace(record, **_moved(record, by))
        self.outcomes.shift(by)
        self.last_vms.shift(by)

    def prolong(self, now: datetime) -> None:
        """The coordinator itself was away: nobody could report, so nobody is late."""
        for live in self._live.values():
            self._renew(live, now)

    def withdraw(self, vm_id: str, reason: Reason, now: datetime, fault: Fault = Fault.NONE) -> bool:
        """Order a VM no longer. Returns False when it is not there or withdrawn already."""
        live = self._live.get(vm_id)
        if live is None or live.withdrawn is not None:
            return False
        live.withdrawn = reason
        self._change(live, withdrawn_at=now, end=reason, fault=fault)
        if fault is not Fault.NONE:
            self._failed(live)
        self.changes.tell(vm_id, "withdrawn", reason.sentence, now)
        return True

    def cut_off(self, desktop: str, reason: Reason, now: datetime) -> None:
        """End all leases of a desktop that will not be heard any more; tokens of those that ended lately die too."""
        for live in self.of(desktop):
            self._end(live, reason, Fault.NONE, now)
        self.condemned |= {vm_id for vm_id, record in self._gone.items() if record.lease.desktop == desktop}

    def strangers(self, is_member: Callable[[str], bool]) -> set[str]:
        """The desktops of all leases that are no members."""
        records = [*(live.record for live in self._live.values()), *self._gone.values()]
        return {name for name in {one.lease.desktop for one in records} if not is_member(name)}

    def condemn_older(self, enrolled_at: Mapping[str, datetime]) -> None:
        """VMs that are not forgotten yet and were their desktop's before it was enrolled anew: their tokens die too."""
        for vm_id, record in self._gone.items():
            since = enrolled_at.get(record.lease.desktop)
            if record.forgotten_at is None and since is not None and record.lease.granted_at < since:
                self.condemned.add(vm_id)

    def forgotten(self, vm_id: str, now: datetime) -> None:
        """The VM's ads have left the collector."""
        record = self._gone.get(vm_id)
        if record is None or record.forgotten_at is not None:
            return
        record = msgspec.structs.replace(record, forgotten_at=now)
        self._gone[vm_id] = record
        self.changes.lease(Live(record))
        self.changes.tell(vm_id, "ads-withdrawn", "HTCondor was told that it is gone.", now)

    def drop_gone(self, before: datetime) -> None:
        """Forget VMs that ended long ago; their ads have expired."""
        for vm_id, record in list(self._gone.items()):
            if record.ended_at is not None and record.ended_at < before:
                del self._gone[vm_id]
                self.condemned.discard(vm_id)

    # inside

    def _add(self, live: Live) -> None:
        self._live[live.lease.vm_id] = live
        self.changes.tellers.add(live.lease.desktop, live.lease.vm_id)
        self._of.setdefault(live.lease.desktop, {})[live.lease.vm_id] = live

    def _change(self, live: Live, **values: Any) -> None:
        if values:
            live.record = msgspec.structs.replace(live.record, **values)
        self.changes.lease(live)

    def _shown(self, live: Live, report: VmReport, now: datetime) -> None:
        live.report = report
        if live.record.shown_at is None:
            live.token = None
            self._change(live, shown_at=now)
        accelerator = clean(report.accelerator)[:64]
        if accelerator and accelerator != live.record.accelerator:
            self._change(live, accelerator=accelerator)
        if report.state not in _UP:
            live.up_since = None
        elif live.up_since is None:
            live.up_since = now
        if live.withdrawn is None:
            self._renew(live, now)

    def _renew(self, live: Live, now: datetime) -> None:
        until = now + self._lease
        if until > live.lease.until:
            live.record = msgspec.structs.replace(live.record, lease=msgspec.structs.replace(live.lease, until=until))
            if (until - live.recorded_until).total_seconds() > self._lease_seconds / 2:
                self._change(live)

    def _end(self, live: Live, reason: Reason, fault: Fault, now: datetime, report: VmReport | None = None) -> None:
        vm_id = live.lease.vm_id
        already = live.record.fault is not Fault.NONE
        reason = live.withdrawn or reason
        end = Reason(clean(reason.name)[:64], clean(reason.sentence))
        accelerator = live.record.accelerator or (clean(report.accelerator)[:64] if report else "")
        fault = live.record.fault if already else fault
        live.token, live.renewed = None, ""
        self._change(live, ended_at=now, end=end, fault=fault, accelerator=accelerator)
        if not already:
            self._failed(live)
        if (spent := spent_of(live.record)) is not None:
            self.last_vms.add(spent)
        del self._live[vm_id]
        del self._of[live.lease.desktop][vm_id]
        self._gone[vm_id] = live.record
        self.ended.append(vm_id)
        self.changes.tell(vm_id, "ended", end.sentence, now)

    def _failed(self, live: Live) -> None:
        for outcome in outcomes_of(live.record):
            if not outcome.ok:
                self.outcomes.add(outcome)


def _moved(record: LeaseRecord, by: timedelta) -> dict[str, datetime]:
    moments = ("shown_at", "joined_at", "withdrawn_at", "ended_at", "forgotten_at")
    return {name: at + by for name in moments if (at := getattr(record, name)) is not None}
