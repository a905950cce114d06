"""Points in time: always with a zone and of our days, checked where they come in, so that no sum can fail later."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""An aware datetime, for use as a msgspec field type: a message that names a time without its zone is refused.

msgspec knows no bounds of times: a struct that has a Moment calls `check_moments` in its `__post_init__`.
"""

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2900, 1, 1, tzinfo=UTC)
"""Far from both ends of the calendar, where another zone or a second more is an OverflowError. A computer whose clock
has lost its battery begins in 1970, and may still be of use."""


def check_moments(*moments: datetime | None) -> None:
    """Raises: ValueError for a time before FIRST or after LAST (for msgspec: the message is refused)."""
    for moment in moments:
        if moment is not None and not FIRST <= moment <= LAST:
            raise ValueError(f"time: got the year {moment.year}, expected {FIRST.year} to {LAST.year}")


def moment_of(seconds: int | None) -> datetime | None:
    """The time so many seconds after 1970 (UTC); None for what is no time of our days."""
    if seconds is None or not 0 <= seconds <= LAST.timestamp():
        return None
    return datetime.fromtimestamp(seconds, UTC)
