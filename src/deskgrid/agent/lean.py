"""Keeps the agent's process small and its turns short; imported before everything else.

- msgspec imports typing_extensions where it is installed, and with it inspect, ast and dis: 1.4 MB for what
  Python 3.11's own typing has. So here it counts as not installed.
- The C library keeps an arena of memory for each thread, and what was needed only at the start: one arena is enough
  (mallopt(3), M_ARENA_MAX), and what is free goes back to the system (malloc_trim(3)).
- As a real-time task (tests/logind_guest/agent.service) it comes before the owner's programs. To load itself it may
  use the processor for as long as its unit allows, which takes a slow computer several seconds; once it is up, the
  kernel kills it when it runs for SPIN_SECONDS without a pause (RLIMIT_RTTIME, setrlimit(2)).
"""

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8
SPIN_SECONDS = 2

if "msgspec" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
with suppress(AttributeError, OSError, TypeError):  # another C library
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """The agent is up: give free memory back; from now on a turn is short."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        limit = SPIN_SECONDS * 1_000_000
        if hard == resource.RLIM_INFINITY or hard > limit:
            resource.setrlimit(resource.RLIMIT_RTTIME, (limit, limit))
