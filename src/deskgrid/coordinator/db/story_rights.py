"""Whose stories a desktop may tell: those of its own last VMs, so many lines each.

Rules:
- What a desktop tells of other VMs, or too much of one, is dropped here, before the database is asked.
- What is dropped is acknowledged all the same: telling it again would not help.
"""

from collections import OrderedDict
from collections.abc import Iterable

from deskgrid.coordinator.db.queries import STORY_LINES
from deskgrid.core.fleet.lease import LeaseRecord

REPORT_LINES = 1000
"""Lines of one report that are taken in; the others come again with the next one. (An agent keeps no more.)"""
_LAST = 128


class StoryRights:
    """The last VMs of each desktop, and how many lines were told of each."""

    def __init__(self) -> None:
        self._told: dict[str, OrderedDict[str, int]] = {}

    def add(self, desktop: str, vm_id: str) -> None:
        """This VM is, or was, the desktop's."""
        told = self._told.setdefault(desktop, OrderedDict())
        told.setdefault(vm_id, 0)
        if len(told) > _LAST:
            told.popitem(last=False)

    def remember(self, past: Iterable[LeaseRecord]) -> None:
        """Take up the VMs of an earlier life."""
        for record in sorted(past, key=lambda r: r.lease.granted_at):
            self.add(record.lease.desktop, record.lease.vm_id)

    def may_tell(self, desktop: str, vm_id: str) -> bool:
        """Whether a new line of a desktop's is taken."""
        told = self._told.get(desktop)
        return told is not None and told.get(vm_id, STORY_LINES) < STORY_LINES

    def count(self, desktop: str, vm_id: str) -> None:
        """One was taken."""
        self._told[desktop][vm_id] += 1
