"""What happened and is not recorded yet: leases as they are now, and lines of stories.

Rules, told first:
- Changes are taken away to be recorded in one transaction, and put back when that failed.
- A line that waits already is not taken a second time, however often a desktop tells it while the database refuses.
- Text and times from a desktop are made fit here: no control characters, not too long, no time that a database refuses.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from deskgrid.coordinator.db.tellers import Tellers
from deskgrid.coordinator.db.values import COORDINATOR, LeaseRecord, Line
from deskgrid.model.desktop import Transition, VmReport
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import printable

_SENTENCE = 500
_SKEW_SECONDS = 1.0


class Live:
    """One lease that lives: its record, and what is only known for now.

    token: SECRET, while the desktop has not shown the VM. recorded: the lease is in the database.
    recorded_until: how far it is recorded to hold. up_since: without a pause, while it has not joined.
    renewed: SECRET, the newest token of a VM that was shown. token_from: when its newest token was made; None: unknown.
    """

    __slots__ = (
        *("jobs", "record", "recorded", "recorded_until", "renewed", "report", "token", "token_from", "told"),
        *("up_since", "withdrawn"),
    )

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
        self.renewed = ""
        self.token_from: datetime | None = record.lease.granted_at if token else None

    @property
    def lease(self) -> Lease:
        """The lease as it is now."""
        return self.record.lease

    def counted(self) -> LiveLease:
        """What the planner sees of it."""
        return LiveLease(self.lease, self.record.joined_at, self.record.claimed, bool(self.jobs))

    def __repr__(self) -> str:
        return f"Live({self.lease.vm_id}, token={'<secret>' if self.token else None})"


LineKey = tuple[str, datetime, str, str, str]


class Batch(msgspec.Struct):
    """Changes to be recorded in one transaction."""

    leases: dict[str, Live]
    lines: dict[LineKey, Line]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to record."""
        return not self.leases and not self.lines


class Changes:
    """The changes that wait to be recorded."""

    def __init__(self) -> None:
        self._batch = Batch({}, {})
        self.tellers = Tellers()

    @property
    def wait(self) -> bool:
        """Whether there are any."""
        return not self._batch.empty

    @property
    def have_lines(self) -> bool:
        """Whether there are lines of a story among them."""
        return bool(self._batch.lines)

    def lease(self, live: Live) -> None:
        """A lease is new or has changed."""
        live.recorded_until = live.lease.until
        self._batch.leases[live.lease.vm_id] = live

    def tell(self, vm_id: str, event: str, sentence: str, at: datetime) -> None:
        """Add a line of the coordinator's to a VM's story."""
        self._add(Line(vm_id, at, at, COORDINATOR, "", event, sentence))

    def retell(self, desktop: str, story: Sequence[Transition], skew_seconds: float, now: datetime) -> None:
        """Add a desktop's lines to the stories of its VMs, with its clock set right; what it may not tell is dropped.

        Args:
            skew_seconds: the desktop's clock minus ours.
        """
        skew = timedelta(seconds=skew_seconds) if abs(skew_seconds) > _SKEW_SECONDS else timedelta(0)
        for line in story:
            if not self.tellers.may_tell(desktop, line.vm_id):
                continue
            told_at, at = _moments(line.at, skew, now)
            state, event, sentence = clean(line.state)[:32], clean(line.event)[:64], clean(line.sentence)
            if self._add(Line(line.vm_id, at, told_at, desktop, state, event, sentence)):
                self.tellers.count(desktop, line.vm_id)

    def take(self) -> Batch:
        """Take the changes away, to record them."""
        batch, self._batch = self._batch, Batch({}, {})
        return batch

    def put_back(self, batch: Batch) -> None:
        """They could not be recorded: keep them for the next time."""
        self._batch = Batch(batch.leases | self._batch.leases, batch.lines | self._batch.lines)

    def _add(self, line: Line) -> bool:
        key = (line.vm_id, line.told_at, line.source, line.state, line.event)
        return self._batch.lines.setdefault(key, line) is line


def clean(text: str) -> str:
    """Text from a desktop, fit for a terminal and a table."""
    return printable(text, _SENTENCE)


def _moments(told: datetime, skew: timedelta, now: datetime) -> tuple[datetime, datetime]:
    """A time as a desktop told it, and by our clock; a time that can't be is now."""
    try:
        return told.astimezone(UTC), min(now, told.astimezone(UTC) - skew)
    except OverflowError:
        return now, now
