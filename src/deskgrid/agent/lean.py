"""Keeps the agent's process small; imported before everything else.

- msgspec imports typing_extensions where it is installed, and with it inspect, ast and dis: 1.4 MB for what
  Python 3.11's own typing has. So here it counts as not installed.
- The C library keeps an arena of memory for each thread, and what was needed only at the start: one arena is enough
  (mallopt(3), M_ARENA_MAX), and what is free goes back to the system (malloc_trim(3)).
"""

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8

if "msgspec" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
with suppress(AttributeError, OSError, TypeError):  # another C library
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Give the memory back that is free."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
