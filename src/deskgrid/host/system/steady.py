"""The clock that nobody sets."""

import time


def steady_seconds() -> float:
    """Seconds that pass by themselves, also while the computer sleeps; since it was started, where the system says so.

    Source: clock_gettime(2), CLOCK_BOOTTIME; where it is missing, the monotonic clock.
    """
    source = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if source is None else time.clock_gettime(source)
