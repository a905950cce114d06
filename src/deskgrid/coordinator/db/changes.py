"""What happened and is not recorded yet: leases as they are now, and lines of stories.

Rules:
- Changes are taken away to be recorded in one transaction, and put back when that failed.
- A line that waits already is not taken a second time, however often a desktop tells it while the database refuses.
- Text and times from a desktop are made fit here: no control characters, not too long, no time that a database refuses.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from deskgrid.coordinator.db.story_rights import StoryRights
from deskgrid.coordinator.db.values import COORDINATOR
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.model.desktop import Transition
from deskgrid.model.values.text import printable
from deskgrid.wire.operator import StoryLine

_SENTENCE = 500
_SKEW_SECONDS = 1.0


LineKey = tuple[str, datetime, str, str, str]


class Batch(msgspec.Struct):
    """Changes to be recorded in one transaction."""

    leases: dict[str, LeaseRecord]
    lines: dict[LineKey, StoryLine]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to record."""
        return not self.leases and not self.lines


class Changes:
    """The changes that wait to be recorded."""

    def __init__(self, recorded: Callable[[Iterable[str]], None]) -> None:
        """Args: recorded: told which leases were recorded."""
        self._told_recorded = recorded
        self._batch = Batch({}, {})
        self.tellers = StoryRights()

    @property
    def wait(self) -> bool:
        """Whether there are any."""
        return not self._batch.empty

    @property
    def have_lines(self) -> bool:
        """Whether there are lines of a story among them."""
        return bool(self._batch.lines)

    def lease(self, record: LeaseRecord) -> None:
        """A lease is new or has changed."""
        self._batch.leases[record.lease.vm_id] = record

    def tell(self, vm_id: str, event: str, sentence: str, at: datetime) -> None:
        """Add a line of the coordinator's to a VM's story."""
        self._add(StoryLine(vm_id, at, at, COORDINATOR, "", event, sentence))

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
            if self._add(StoryLine(line.vm_id, at, told_at, desktop, state, event, sentence)):
                self.tellers.count(desktop, line.vm_id)

    def take(self) -> Batch:
        """Take the changes away, to record them."""
        batch, self._batch = self._batch, Batch({}, {})
        return batch

    def recorded(self, batch: Batch) -> None:
        """They are in the database."""
        self._told_recorded(batch.leases)

    def put_back(self, batch: Batch) -> None:
        """They could not be recorded: keep them for the next time."""
        self._batch = Batch(batch.leases | self._batch.leases, batch.lines | self._batch.lines)

    def _add(self, line: StoryLine) -> bool:
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
