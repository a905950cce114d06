"""Reads the days of an iCalendar file and prints them as JSON: a short child process of the agent's.

Rules, told first:
- The library that understands calendars is large; the agent, which rests most of the time, never imports it.
- `off`: only events of whole days count. `closed`: every day counts that an event touches, even for a minute. Each is
  the reading that allows less.
- Events that recur (RRULE, RDATE, EXDATE, single changed ones) are expanded for the days asked for; cancelled ones do
  not count. What cannot be understood is an error, not a day less.

Usage: python -m deskgrid.agent.calendar_days FILE off|closed FIRST-DAY DAYS
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

DAYS = 400
MAX_BYTES = 4 << 20
_MAX_STEPS = 200_000
_DAY = timedelta(days=1)


def days_of(content: bytes, begin: date, count: int, *, touching: bool) -> list[date]:
    """The days of a calendar that lie in `count` days from `begin`, in order.

    Args: touching: an event of hours counts for the days that it touches.
    Raises: ValueError: it is no calendar, or has an event that cannot be understood.
    """
    from icalendar import Calendar

    events = list(Calendar.from_ical(content).walk("VEVENT"))
    changed = {(str(event.get("UID")), _day(event.decoded("RECURRENCE-ID"))) for event in events if _changes(event)}
    end = begin + count * _DAY
    days: set[date] = set()
    for event in events:
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            continue
        whole, length = _length(event)
        if not (whole or touching):
            continue
        for first in _starts(event, end):
            if _changes(event) or (str(event.get("UID")), first) not in changed:
                days |= {first + number * _DAY for number in range(length)}
    return sorted(day for day in days if begin <= day < end)


def _changes(event: Any) -> bool:
    """Whether it stands for one changed instance of an event that recurs."""
    return "RECURRENCE-ID" in event


def _length(event: Any) -> tuple[bool, int]:
    """Whether an event is of whole days, and how many days it touches."""
    start = event.decoded("DTSTART")
    whole = not isinstance(start, datetime)
    if "DTEND" in event:
        end = event.decoded("DTEND")
    elif "DURATION" in event:
        end = start + event.decoded("DURATION")
    else:
        end = start + (_DAY if whole else timedelta(0))
    if whole:
        return True, max(1, (_day(end) - start).days)
    last = _local(end) - timedelta(microseconds=1) if end > start else _local(end)
    return False, max(1, (last.date() - _local(start).date()).days + 1)


def _starts(event: Any, end: date) -> Iterator[date]:
    """The first days of an event and of its repetitions, until `end`."""
    from dateutil.rrule import rrulestr  # type: ignore[import-untyped]

    start = event.decoded("DTSTART")
    without = {_day(at.dt) for dates in _list(event, "EXDATE") for at in dates.dts}
    further = {_day(at.dt) for dates in _list(event, "RDATE") for at in dates.dts if not isinstance(at.dt, tuple)}
    first = _local(start) if isinstance(start, datetime) else datetime.combine(start, time())
    found = {first.date(), *further}
    for rule in _list(event, "RRULE"):
        text = re.sub(r"(UNTIL=\d{8}(?:T\d{6})?)Z", r"\1", rule.to_ical().decode())
        for step, at in enumerate(rrulestr(text, dtstart=first)):
            if at.date() >= end:
                break
            if step > _MAX_STEPS:
                raise ValueError(f"event {event.get('SUMMARY', '')}: repeats more than {_MAX_STEPS} times")
            found.add(at.date())
    yield from sorted(found - without)


def _list(event: Any, key: str) -> list[Any]:
    value = event.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _local(at: datetime) -> datetime:
    """On the wall where the event is; what is in UTC, on this computer's wall."""
    return (at.astimezone() if at.tzname() == "UTC" else at).replace(tzinfo=None)


def _day(at: date | datetime) -> date:
    return _local(at).date() if isinstance(at, datetime) else at


def main(arguments: list[str]) -> int:
    """Print the days, or one sentence on stderr."""
    path, kind, begin, count = arguments
    with suppress(AttributeError, OSError):
        os.nice(19)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES >> 20} MiB")
        days = days_of(content, date.fromisoformat(begin), int(count), touching=kind == "closed")
    except Exception as error:  # the library raises many kinds; the agent is told of all of them
        sys.stderr.write(" ".join(str(error).split())[:300] or type(error).__name__)
        return 1
    sys.stdout.write(json.dumps([day.isoformat() for day in days]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
