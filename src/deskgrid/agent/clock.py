"""The agent's clocks: a steady one for leases and deadlines, and the owner's calendar for the policy."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def steady_clock(wall: Clock = utc_now) -> Clock:
    """A clock that starts at the wall clock and then never jumps, but counts the time that the computer slept.

    Source: clock_gettime(2), CLOCK_BOOTTIME; where it is missing, the monotonic clock.
    """
    source = getattr(time, "CLOCK_BOOTTIME", None)

    def elapsed() -> float:
        return time.clock_gettime(source) if source is not None else time.monotonic()

    start, zero = wall(), elapsed()
    return lambda: start + timedelta(seconds=elapsed() - zero)


def calendar(zone: str) -> Clock:
    """The wall clock in the owner's time zone; with an empty name, in the computer's own."""
    if zone:
        info = ZoneInfo(zone)
        return lambda: datetime.now(info)
    return lambda: datetime.now(UTC).astimezone()
