"""The contract of a presence driver; `tests/contracts/test_presence.py` holds the fake and the real ones to it."""

from collections.abc import Callable
from typing import Protocol

from deskgrid.model.policy import Machine
from deskgrid.model.presence import Reading, SessionReading
from deskgrid.model.reason import Reason


def unreadable(error: Exception) -> Reading:
    """Return the reading of a driver that failed: it never raises, and unknown is busy."""
    return Reading(None, None, faults=(f"presence: got {_said(error)}, expected to be read",))


UNREAD = Machine(1, 0, 0, 0, on_battery=None, metered=None, wireless=None)
"""The resources of a computer that could not be read: unknown is none."""


def unread(error: Exception) -> Reason:
    """Return the refusal for resources that could not be read."""
    return Reason("machine-unknown", "It is not known what this computer has to spare.", f"got {_said(error)}")


def _said(error: Exception) -> str:
    """An error's kind and text, which may tell of names that are none."""
    return f"{type(error).__name__}: {error}"[:200].encode(errors="replace").decode()


class Presence(Protocol):
    """Tells whether the owner is here.

    A driver MUST
    - return from `read` within 100 ms and never raise: what cannot be read is a fault in the reading, and makes
      `logged_in` or `idle_seconds` None when nothing else says busy (unknown is busy);
    - say busy if any source says busy, idle only for as long as all known sources agree;
    - once `watch` was called, call back within 200 ms of a sign of the owner, and of a session that comes, goes, locks
      or unlocks, of what keeps the computer awake, and of its being about to end, from any thread, until `close`;
    - name in `ending` that the computer is about to sleep or to shut down from that moment until it is over;
    - not count what the grid itself does as the owner.
    """

    def read(self) -> Reading:
        """What is known now."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each sign of the owner (at most ten times a second)."""

    def close(self) -> None:
        """Stop watching."""


class SystemPresence(Presence, Protocol):
    """What a driver does besides where the system lets it.

    It MUST
    - let no word of a helper make the desktop count as less used than it does without, except that an account may
      vouch for its own session (`presence/helpers.py` says for what);
    - keep the computer from sleeping and shutting down, for as long as the system allows, while virtual machines may
      run, until `ready_to_end`.
    """

    def told(self, uid: int, reading: SessionReading | None) -> None:
        """Take what a helper in a session of this account says; None: it has gone. From any thread."""

    def pace(self, running: bool) -> None:
        """Say whether virtual machines run, or may soon. While none does, signs may be told within 5 s."""

    def ready_to_end(self) -> None:
        """All virtual machines are stopped: the computer may sleep or shut down now, as it has announced."""

    def metered(self) -> bool | None:
        """Whether the network connection is metered; None: unknown."""
