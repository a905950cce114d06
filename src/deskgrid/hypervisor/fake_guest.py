"""A pretended guest: what it does is data, and when it does it is counted in its own time.

A guest's time runs only while its VM's CPUs do.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

from deskgrid.model.desktop import Fault

Later = Callable[[float, Callable[[], None]], object]
Now = Callable[[], datetime]


class GuestBehaviour(msgspec.Struct, frozen=True):
    """What VMs of one image do. All seconds count while the VM's CPUs run, from the VM's start.

    start_seconds: until Started. start_fault: it can't be started, and whose fault that is.
    alive_after_seconds: first sign of life; None: never. silent_on: accelerators on which it never shows one.
    join_seconds: from there until it has joined; None: never.
    leave_seconds: until it has vacated when it was asked; None: it ignores that.
    leaves_after_seconds, leaves_as: this time after it has joined it leaves by itself, as "unused" or "failed".
    ends_after_seconds, ends_with: its VM ends by itself, and the sentence for that.
    kill_seconds: until a killed VM's memory is back.
    """

    start_seconds: float = 0.4
    start_fault: Fault | None = None
    alive_after_seconds: float | None = 15.0
    silent_on: frozenset[str] = frozenset()
    join_seconds: float | None = 15.0
    leave_seconds: float | None = 1.0
    leaves_after_seconds: float | None = None
    leaves_as: Literal["unused", "failed"] = "unused"
    ends_after_seconds: float | None = None
    ends_with: str = "the guest's kernel gave up"
    kill_seconds: float = 0.1


class GuestTime:
    """A guest's own time, and what is planned in it. Stands still until `go`."""

    def __init__(self, later: Later, now: Now) -> None:
        self._later = later
        self._now = now
        self._plans: list[tuple[float, Callable[[], None]]] = []
        self._lived_seconds = 0.0
        self._since: datetime | None = None
        self._alarm = 0

    def plan(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something after so many seconds of this time."""
        self._count()
        self._plans.append((self._lived_seconds + seconds, what))
        self._plans.sort(key=lambda plan: plan[0])
        self._arm()

    def go(self) -> None:
        """Run."""
        if self._since is None:
            self._since = self._now()
            self._arm()

    def stop(self) -> None:
        """Stand still."""
        self._count()
        self._since = None
        self._alarm += 1

    def lived_seconds(self) -> float:
        """How long it has run."""
        self._count()
        return self._lived_seconds

    def end(self) -> None:
        """Nothing more happens."""
        self._plans.clear()
        self.stop()

    def _count(self) -> None:
        if self._since is not None:
            now = self._now()
            self._lived_seconds += (now - self._since).total_seconds()
            self._since = now

    def _arm(self) -> None:
        self._alarm += 1
        alarm = self._alarm
        if self._since is not None and self._plans:
            self._later(max(0.0, self._plans[0][0] - self._lived_seconds), lambda: self._ring(alarm))

    def _ring(self, alarm: int) -> None:
        if alarm != self._alarm:
            return
        self._count()
        due, what = self._plans.pop(0)
        self._lived_seconds = max(self._lived_seconds, due)
        what()
        self._arm()
