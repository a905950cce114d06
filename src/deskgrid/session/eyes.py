"""What a helper looks with: each eye knows one source of what goes on in a session, and says what it sees."""

from collections.abc import Callable
from typing import Protocol

from deskgrid.model.presence import SessionReading

Say = Callable[[SessionReading], None]
QUIET_SECONDS = 10.0
"""Time without input after which an eye waits to be woken by the next input, and says so at once."""


class Eye(Protocol):
    """One source. It never waits; what it sees goes to the `Say` that it was made with, from within its methods."""

    @property
    def over(self) -> bool:
        """It will see nothing any more: its session has ended."""

    def fileno(self) -> int:
        """A descriptor that is readable when `tend` has something to do."""

    def tend(self) -> None:
        """Take what has arrived."""

    def look(self) -> None:
        """Say how things stand, now or as soon as it is known."""

    def close(self) -> None:
        """See no more."""
