"""Reads the days of an iCalendar file and prints them as JSON: a short child process of the agent's.

Rules:
- The libraries that understand calendars are large; the agent, which rests most of the time, never imports them.
- A file may be hostile: its size, the child's computing time and its memory are bounded. What is over is an error,
  which costs its layer alone (`days_file.py`).

Usage: python -m deskgrid.agent.policy.calendar_days FILE off|closed FIRST-DAY DAYS [ZONE]
"""

import json
import os
import signal
import sys
import warnings
from contextlib import suppress
from datetime import date
from pathlib import Path

from deskgrid.agent.clock import calendar
from deskgrid.agent.policy.calendar_events import days_of

DAYS = 400
MAX_BYTES = 4 << 20
MAX_CPU_SECONDS = 40
MAX_MEMORY_BYTES = 1 << 30


class OutOfTime(Exception):
    """It takes too long. Not a ValueError: some of those are caught within the libraries."""


def main(arguments: list[str]) -> int:
    """Print the days, or one sentence on stderr."""
    path, kind, begin, count, *zone = arguments
    _bound()
    warnings.simplefilter("ignore")  # stderr is for the one sentence
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        wall = calendar(zone[0] if zone else "")().tzinfo
        assert wall is not None
        days = days_of(content, date.fromisoformat(begin), int(count), touching=kind == "closed", zone=wall)
    except Exception as error:  # the libraries raise many kinds; the agent is told of all of them
        sys.stderr.write(" ".join(str(error).split())[:300] or type(error).__name__)
        return 1
    sys.stdout.write(json.dumps([day.isoformat() for day in days]))
    return 0


def _bound() -> None:
    """Take little, and no more than there is to take. Windows has none of this: there the agent's patience counts."""
    with suppress(AttributeError, OSError):
        os.nice(19)
    try:
        import resource
    except ImportError:
        return
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_SECONDS + 5, MAX_CPU_SECONDS + 5))
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)


def _too_long(*_: object) -> None:
    raise OutOfTime(f"not understood within {MAX_CPU_SECONDS} s of computing")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
