"""The agent's clocks: a steady one for leases and deadlines, and the owner's calendar for the policy."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

from deskgrid.host.system.steady import steady_seconds

LOCALTIME = Path("/etc/localtime")
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


def steady_clock(wall: Clock = utc_now) -> Clock:
    """A clock that starts at the wall clock and then never jumps, but counts the time that the computer slept."""
    start, zero = wall(), steady_seconds()
    return lambda: start + timedelta(seconds=steady_seconds() - zero)


def calendar(zone: str) -> Clock:
    """The wall clock in the owner's time zone; with an empty name, in the computer's own."""
    if zone:
        info = ZoneInfo(zone)
        return lambda: datetime.now(info)
    return local_now


def local_now() -> datetime:
    """Now, in this computer's time zone, which knows when daylight saving changes (localtime(5))."""
    try:
        if "TZ" in os.environ:
            return datetime.now(ZoneInfo(os.environ["TZ"].lstrip(":")))
        return datetime.now(_zone(LOCALTIME.stat().st_mtime_ns, os.path.realpath(LOCALTIME)))
    except (OSError, ValueError, KeyError):
        return datetime.now(UTC).astimezone()


@lru_cache(maxsize=1)
def _zone(changed_ns: int, path: str) -> ZoneInfo:
    with LOCALTIME.open("rb") as file:
        return ZoneInfo.from_file(file, key=path)
