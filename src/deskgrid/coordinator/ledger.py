"""The leases that live, and what becomes of them: the coordinator's memory of every VM until its end.

Rules, told first:
- A lease is given out only after it was recorded. Its pool token is in memory only, until its desktop shows the VM.
- Each report that shows a VM extends its lease; no lease outlives its VM's pool token.
- A VM ends for the coordinator when its desktop says so, no longer shows it, or is silent until the lease lapses.
  A VM that is withdrawn is not ordered any more; it ends when its desktop has ended it.
- Joined is a success. A start that failed is a failure of the image or the desktop; an owner's return is nobody's.
- Nothing here waits or writes: changes collect in `take` and are put back when they could not be recorded.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from deskgrid.coordinator.kept import COORDINATOR, LeaseRecord, Line, outcomes_of
from deskgrid.coordinator.outcomes import Outcomes
from deskgrid.model.desktop import Fault, Transition, VmReport, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease
from deskgrid.model.pool import Machine
from deskgrid.model.reason import Reason

_UP = (VmState.BOOTING, VmState.RUNNING)
_SENTENCE = 500

LAPSED = Reason("lapsed", "Its desktop was silent until the lease was over.")
NEVER_SHOWN = Reason("never-started", "Its desktop was told to start it and never showed it.")
VANISHED = Reason("vanished", "Its desktop no longer reports it; its agent was restarted or lost it.")
NEVER_JOINED = Reason("never-joined", "It was up, but HTCondor never saw it.")


class Live:
    """One lease that lives: its record, and what is only known for now.

    token: SECRET, while the desktop has not shown the VM. recorded: the lease is in the database.
    recorded_until: how far it is recorded to hold. up_since: without a pause, while it has not joined.
    """

    __slots__ = ("jobs", "record", "recorded", "recorded_until", "report", "token", "told", "up_since", "withdrawn")

    def __init__(self, record: LeaseRecord, token: str | None = None, recorded: bool = False) -> None:
        self.record = record
        self.token = token
        self.recorded = recorded
        self.recorded_until = record.lease.until
        self.report: VmReport | None = None
        self.withdrawn: Reason | None = record.end if record.withdrawn_at else None
        self.up_since: datetime | None = None
        self.jobs: tuple[str, ...] = ()
        self.told = False

    @property
    def lease(self) -> Lease:
        """The lease as it is now."""
        return self.record.lease

    def __repr__(self) -> str:
        return f"Live({self.lease.vm_id}, token={'<secret>' if self.token else None})"


class Batch(msgspec.Struct):
    """Changes to be recorded in one transaction."""

    leases: dict[str, Live]
    lines: list[Line]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to record."""
        return not self.leases and not self.lines


class Ledger:
    """All living leases, and the changes that are not recorded yet.

    ended: vm ids whose ads must leave the collector, for the caller to take away.
    """

    def __init__(self, lease_seconds: float, token_seconds: float, outcomes: Outcomes) -> None:
        self._lease_seconds = lease_seconds
        self._lease, self._token_life = timedelta(seconds=lease_seconds), timedelta(seconds=token_seconds)
        self._live: dict[str, Live] = {}
        self._of: dict[str, dict[str, Live]] = {}
        self._gone: dict[str, LeaseRecord] = {}
        self._batch = Batch({}, [])
        self.outcomes = outcomes
        self.ended: list[str] = []

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
        return tuple(
            LiveLease(live.lease, live.record.joined_at, live.record.claimed)
            for live in self._live.values()
            if live.withdrawn is None
        )

    def recently_gone(self, vm_id: str) -> bool:
        """Whether this VM ended since the start, or shortly before."""
        return vm_id in self._gone

    # what happens

    def restore(self, living: Iterable[LeaseRecord], gone: Iterable[LeaseRecord], now: datetime) -> None:
        """Take up what an earlier life recorded. Each lease gets time for its desktop to report."""
        for record in living:
            until = max(record.lease.until, now + self._lease)
            record = msgspec.structs.replace(record, lease=msgspec.structs.replace(record.lease, until=until))
            self._add(Live(record, recorded=True))
        for record in gone:
            self._gone[record.lease.vm_id] = record
            if record.forgotten_at is None:
                self.ended.append(record.lease.vm_id)

    def grant(self, lease: Lease, token: str) -> None:
        """A new lease; it is given out once it is recorded."""
        live = Live(LeaseRecord(lease), token)
        self._add(live)
        self._change(live)
        self.tell(lease.vm_id, "granted", lease.reason.sentence, lease.granted_at)

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
                self.tell(machine.vm_id, "joined", "HTCondor knows it.", joined)
                self.outcomes.add(outcomes_of(live.record)[0])
            if machine.claimed and not live.record.claimed:
                self._change(live, claimed=True)
                self.tell(machine.vm_id, "claimed", "HTCondor gave it to a job.", now)
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
                    fault = Fault.NONE if live.record.joined_at else Fault.DESKTOP
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
        self.tell(vm_id, "withdrawn", reason.sentence, now)
        return True

    def cut_off(self, desktop: str, reason: Reason, now: datetime) -> None:
        """End all leases of a desktop that will not be heard any more."""
        for live in self.of(desktop):
            self._end(live, reason, Fault.NONE, now)

    def forgotten(self, vm_id: str, now: datetime) -> None:
        """The VM's ads have left the collector."""
        record = self._gone.get(vm_id)
        if record is None or record.forgotten_at is not None:
            return
        record = msgspec.structs.replace(record, forgotten_at=now)
        self._gone[vm_id] = record
        self._batch.leases[vm_id] = Live(record)
        self.tell(vm_id, "ads-withdrawn", "HTCondor was told that it is gone.", now)

    def drop_gone(self, before: datetime) -> None:
        """Forget VMs that ended long ago; their ads have expired."""
        for vm_id, record in list(self._gone.items()):
            if record.ended_at is not None and record.ended_at < before:
                del self._gone[vm_id]

    # what is to be recorded

    def tell(self, vm_id: str, event: str, sentence: str, at: datetime) -> None:
        """Add a line of the coordinator's to a VM's story."""
        self._batch.lines.append(Line(vm_id, at, at, COORDINATOR, "", event, sentence))

    def retell(self, desktop: str, story: Sequence[Transition], skew_seconds: float, now: datetime) -> None:
        """Add a desktop's lines to the stories of its VMs, with its clock set right. Foreign VMs: see `write_story`.

        Args:
            skew_seconds: the desktop's clock minus ours.
        """
        skew = timedelta(seconds=skew_seconds) if abs(skew_seconds) > 1 else timedelta(0)
        for line in story:
            at = min(now, _shifted(line.at, skew, now))
            state, event, sentence = clean(line.state)[:32], clean(line.event)[:64], clean(line.sentence)
            self._batch.lines.append(Line(line.vm_id, at, line.at, desktop, state, event, sentence))

    @property
    def to_record(self) -> bool:
        """Whether changes wait to be recorded."""
        return not self._batch.empty

    @property
    def to_tell(self) -> bool:
        """Whether lines of a story wait to be recorded."""
        return bool(self._batch.lines)

    def take(self) -> Batch:
        """Take the changes away, to record them."""
        batch, self._batch = self._batch, Batch({}, [])
        return batch

    def put_back(self, batch: Batch) -> None:
        """They could not be recorded: keep them for the next time."""
        self._batch = Batch(batch.leases | self._batch.leases, batch.lines + self._batch.lines)

    def was_recorded(self, batch: Batch) -> None:
        """They are in the database."""
        for live in batch.leases.values():
            live.recorded = True

    # inside

    def _add(self, live: Live) -> None:
        self._live[live.lease.vm_id] = live
        self._of.setdefault(live.lease.desktop, {})[live.lease.vm_id] = live

    def _change(self, live: Live, **values: Any) -> None:
        if values:
            live.record = msgspec.structs.replace(live.record, **values)
        live.recorded_until = live.lease.until
        self._batch.leases[live.lease.vm_id] = live

    def _shown(self, live: Live, report: VmReport, now: datetime) -> None:
        live.report = report
        if live.record.shown_at is None:
            live.token = None
            self._change(live, shown_at=now)
        if report.accelerator and report.accelerator != live.record.accelerator:
            self._change(live, accelerator=clean(report.accelerator)[:64])
        if report.state not in _UP:
            live.up_since = None
        elif live.up_since is None:
            live.up_since = now
        if live.withdrawn is None:
            self._renew(live, now)

    def _renew(self, live: Live, now: datetime) -> None:
        until = min(now + self._lease, live.lease.granted_at + self._token_life)
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
        live.token = None
        self._change(live, ended_at=now, end=end, fault=fault, accelerator=accelerator)
        if not already:
            self._failed(live)
        del self._live[vm_id]
        del self._of[live.lease.desktop][vm_id]
        self._gone[vm_id] = live.record
        self.ended.append(vm_id)
        self.tell(vm_id, "ended", end.sentence, now)

    def _failed(self, live: Live) -> None:
        for outcome in outcomes_of(live.record):
            if not outcome.ok:
                self.outcomes.add(outcome)


def clean(text: str) -> str:
    """Text from a desktop, fit for a terminal and a table: no control characters, not too long."""
    return "".join(c if c.isprintable() else " " for c in text[:_SENTENCE])


def _shifted(told: datetime, skew: timedelta, now: datetime) -> datetime:
    try:
        return told - skew
    except OverflowError:
        return now
