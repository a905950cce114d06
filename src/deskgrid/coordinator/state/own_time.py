"""The coordinator's own time: it says what the wall clock says, and passes steadily.

Rules:
- Between two looks at the wall clock it only passes, as the steady clock does. So nobody who sets this computer's clock
  makes a desktop look silent, a lease lapse, or a dead desktop look alive.
- When the wall clock was set, it is set right with it, by `set_right`, and whoever keeps moments in memory moves them
  by as much (`Coordinator.keep_time`): what was a minute ago is a minute ago still.
- The time that the computer slept has passed.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from deskgrid.host.system.steady import steady_seconds

Clock = Callable[[], datetime]
SET_SECONDS = 2.0
"""A clock that is this far off was set; less is a time server's doing."""


class OwnTime:
    """A clock; see the module."""

    def __init__(self, wall: Clock, steady: Callable[[], float] = steady_seconds) -> None:
        """Begin with what the wall clock says."""
        self._wall, self._steady = wall, steady
        self._start, self._zero = wall(), steady()

    def __call__(self) -> datetime:
        """Now, aware UTC."""
        return self._start + timedelta(seconds=self._steady() - self._zero)

    def set_right(self) -> timedelta:
        """Say from now on what the wall clock says. Returns: by how much that changed; zero when it was not set."""
        by = self._wall() - self()
        if abs(by) < timedelta(seconds=SET_SECONDS):
            return timedelta(0)
        self._start += by
        return by
