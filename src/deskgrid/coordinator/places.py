"""Places that are bounded: connections, and long answers. One address has only a share, and some are kept.

Rules:
- An address has `each` places, and `each_desktop` more for every desktop that reports from there: many may sit behind
  one address, but they have proved that they do.
- The last quarter is kept for addresses from which a desktop reports that holds a lease: who runs a job gets through.
- Being full is said, once a minute at most.
"""

import logging
from collections import Counter
from collections.abc import Callable

log = logging.getLogger(__name__)

_SAID_SECONDS = 60.0


class Whereabouts:
    """From where desktops report. holds_lease: whether a desktop holds one."""

    def __init__(self, holds_lease: Callable[[str], bool] = lambda _: False) -> None:
        self._holds_lease = holds_lease
        self._address: dict[str, str] = {}
        self._names: dict[str, set[str]] = {}

    def note(self, desktop: str, address: str) -> None:
        """A desktop that has proved itself reports from there."""
        if self._address.get(desktop) != address:
            self.drop(desktop)
            self._address[desktop] = address
            self._names.setdefault(address, set()).add(desktop)

    def drop(self, desktop: str) -> None:
        """It reports no more."""
        address = self._address.pop(desktop, "")
        names = self._names.get(address, set())
        names.discard(desktop)
        if not names:
            self._names.pop(address, None)

    def desktops(self, address: str) -> int:
        """How many report from there."""
        return len(self._names.get(address, ()))

    def holds_lease(self, address: str) -> bool:
        """Whether a machine runs, or is to run, at a desktop that reports from there."""
        return any(self._holds_lease(name) for name in self._names.get(address, ()))


class Places:
    """most: places in all. what: their name in the log. full: what was logged when one was refused last."""

    def __init__(self, what: str, most: int, each: int, each_desktop: int, where: Whereabouts) -> None:
        self._what, self.most, self._each, self._each_desktop, self._where = what, most, each, each_desktop, where
        self._kept = most // 4
        self._taken: Counter[str] = Counter()
        self._said_at = -_SAID_SECONDS
        self.taken = self.refused = 0
        self.full = ""

    def take(self, address: str, clock_seconds: float) -> bool:
        """Take a place; False when there is none for this address. clock_seconds: a steady clock."""
        share = self._each + self._each_desktop * self._where.desktops(address)
        free = self.most - self.taken
        if self._taken[address] >= share:
            return self._full(f"{address} has {share}, its share", clock_seconds)
        if free <= self._kept and (free <= 0 or not self._where.holds_lease(address)):
            return self._full(f"{self.taken} of {self.most} are taken, the others are kept", clock_seconds)
        self._taken[address] += 1
        self.taken += 1
        return True

    def leave(self, address: str) -> None:
        """Give a place back."""
        self.taken -= 1
        self._taken[address] -= 1
        if not self._taken[address]:
            del self._taken[address]

    def _full(self, why: str, clock_seconds: float) -> bool:
        self.refused += 1
        self.full = f"{self._what}: {why}; {self.refused} were refused since the start"
        if clock_seconds - self._said_at >= _SAID_SECONDS:
            self._said_at = clock_seconds
            log.warning("%s", self.full)
        return False
