"""Does the owner's calendar keep the desktop closed now, and until when?

Rules:
- It is the wall clock that counts: a window holds whenever the clock on the wall shows a time in it. An hour that the
  clocks skip is in no window; an hour that comes twice is in its window twice.
- Windows that touch are one: what is said to be the end is when the desktop is really open.
- A clock that is set is believed: nothing is remembered here.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec

from deskgrid.model.hours import Window, window

_FAR_DAYS = 15
"""An end that is further away is not named: it might as well be closed for ever."""
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)


class Closed(msgspec.Struct, frozen=True):
    """Closed now: by which window (its text), and until when (aware UTC; None: no end in sight)."""

    by: str
    until: datetime | None


def closed(windows: Sequence[str], local: datetime, without: Collection[date] = ()) -> Closed | None:
    """Decide whether one of the windows holds.

    Args:
        windows: as in a policy. local: now, in the calendar's zone (aware).
        without: days of which no window holds.
    """
    parsed = [window(text) for text in windows]
    at = local.replace(tzinfo=None, fold=0)
    found = _holding(parsed, at, without)
    if found is None:
        return None
    by, end = found
    return Closed(by, _instant(_merged(parsed, end, without, at), local))


def day_closed(days: Collection[date], local: datetime) -> Closed | None:
    """Decide whether today is one of the days; days that follow each other are one."""
    day = local.date()
    if day not in days:
        return None
    end = day
    while end in days:
        end += _DAY
    return Closed(day.isoformat(), _instant(datetime.combine(end, datetime.min.time()), local))


def _merged(windows: Sequence[Window], end: datetime, without: Collection[date], at: datetime) -> datetime | None:
    while end - at < timedelta(days=_FAR_DAYS):
        following = _holding(windows, end, without)
        if following is None:
            return end
        end = following[1]
    return None


def _holding(windows: Sequence[Window], at: datetime, without: Collection[date]) -> tuple[str, datetime] | None:
    """The window that holds at a time on the wall, and ends last."""
    found: list[tuple[datetime, str]] = []
    for day in (at.date() - _DAY, at.date()):
        weekday, midnight = day.weekday(), datetime.combine(day, datetime.min.time())
        for each in () if day in without else windows:
            if weekday in each.days and midnight + each.start * _MINUTE <= at < (end := midnight + each.end * _MINUTE):
                found.append((end, each.text))
    if not found:
        return None
    end, by = max(found)
    return by, end


def _instant(wall: datetime | None, local: datetime) -> datetime | None:
    """When the wall clock will first show this time or a later one: in the pass of `local`, if it comes twice."""
    if wall is None:
        return None
    aware = wall.replace(tzinfo=local.tzinfo, fold=local.fold).astimezone(UTC)
    if aware.astimezone(local.tzinfo).replace(tzinfo=None, fold=0) == wall:
        return aware
    at = wall.replace(tzinfo=local.tzinfo, fold=1).astimezone(UTC)  # the clocks skip it: before the skip
    while at.astimezone(local.tzinfo).replace(tzinfo=None) < wall:
        at += _MINUTE
    return at
