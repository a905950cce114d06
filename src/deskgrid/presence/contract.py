"""The contract of a presence driver; `tests/contracts/test_presence.py` holds the fake and the real ones to it."""

from collections.abc import Callable
from typing import Protocol

from deskgrid.model.presence import Reading


class Presence(Protocol):
    """Tells whether the owner is here.

    A driver MUST
    - return from `read` within 100 ms and never raise: what cannot be read is a fault in the reading, and makes
      `logged_in` or `idle_seconds` None when nothing else says busy (unknown is busy);
    - say busy if any source says busy, idle only for as long as all known sources agree;
    - once `watch` was called, call back within 200 ms of a sign of the owner, from any thread, until `close`;
    - not count what the grid itself does as the owner.
    """

    def read(self) -> Reading:
        """What is known now."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each sign of the owner (at most ten times a second)."""

    def close(self) -> None:
        """Stop watching."""
