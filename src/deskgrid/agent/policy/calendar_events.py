"""The days that the events of an iCalendar file lie on (RFC 5545), as icalendar and recurring-ical-events read it.

Rules:
- `off`: only events of whole days count. `closed`: every day counts that an event touches, even for a minute. Each is
  the reading that allows less; so it is wherever a file can be read in two ways.
- A time is known by its instant, and its day by the wall clock of `zone`; a time without zone is on that wall already.
- What cannot be understood is an error that names its event, never a day less. The libraries leave out what they cannot
  read, and take the newest of several events of one UID; so both is looked for here before they are asked.
- Cancelled events and instances do not count.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any

from deskgrid.model.values.text import counted

STARTS_A_DAY = 100
"""So often an event may begin on one day; more is no event that a person wrote."""
_DAY = timedelta(days=1)
_MARGIN = 3 * _DAY
"""Wider than any two zones are apart."""
_TELLING = ("DTSTART", "DTEND", "DURATION", "RRULE", "RDATE", "EXDATE", "EXRULE", "RECURRENCE-ID", "STATUS", "SEQUENCE")
_HARMLESS = re.compile(r"parts: '(?:X-|SUMMARY|DESCRIPTION|LOCATION|COMMENT|CATEGORIES|ORGANIZER|ATTENDEE|URL)", re.I)
"""A broken line that begins so tells nothing of days; any other might be the rest of one that does."""
_A_DAY = {"SECONDLY": 86400, "MINUTELY": 1440, "HOURLY": 24}


def days_of(content: bytes, begin: date, count: int, *, touching: bool, zone: tzinfo) -> list[date]:
    """The days of a calendar that lie in `count` days from `begin`, in order.

    Args: touching: an event of hours counts for the days that it touches. zone: of the wall clock that days go by.
    Raises: ValueError: it is no calendar, or has an event that cannot be understood.
    """
    end = begin + count * _DAY
    days: set[date] = set()
    for calendar in _calendars(content):
        for events in _series(calendar):
            try:
                for part in _readings(events, end, touching, zone):
                    days |= _days(part, begin, end, touching, zone)
            except Exception as error:  # the libraries raise many kinds, and each must name its event
                raise ValueError(f"{_named(events[0])}: {str(error) or type(error).__name__}") from error
    return sorted(days)


def _calendars(content: bytes) -> Sequence[Any]:
    from icalendar import Calendar

    content = content.removeprefix(codecs.BOM_UTF8)
    found = Calendar.from_ical(content, multiple=True)
    for what, seen in (("VCALENDAR", len(found)), ("VEVENT", sum(len(one.walk("VEVENT")) for one in found))):
        begun = len(re.findall(rf"(?im)^begin:{what}\s*$".encode(), content))
        if begun > seen:
            raise ValueError(f"got {seen} whole of {begun} {what}, expected all; is the file cut off?")
    if not found:
        raise ValueError("got no VCALENDAR, expected an iCalendar file")
    for one in found:
        if str(one.get("CALSCALE", "GREGORIAN")).upper() != "GREGORIAN":
            raise ValueError(f"CALSCALE: got {one.get('CALSCALE')}, expected GREGORIAN")
    return found


def _series(calendar: Any) -> list[list[Any]]:
    """Events that belong together: those of one UID."""
    series: dict[str, list[Any]] = {}
    for number, event in enumerate(calendar.walk("VEVENT")):
        series.setdefault(str(event.get("UID") or f"no UID {number}"), []).append(event)
    return list(series.values())


def _named(event: Any) -> str:
    summary, start = " ".join(str(event.get("SUMMARY", "")).split())[:60], event.get("DTSTART")
    at = start.to_ical().decode(errors="replace") if hasattr(start, "to_ical") else "nothing"
    return f'event "{summary}" (UID {str(event.get("UID", "none"))[:60]}, DTSTART {at[:40]})'


def _readings(events: list[Any], end: date, touching: bool, zone: tzinfo) -> Iterator[list[Any]]:
    """What the library is asked for, part by part; days of all parts count.

    Several events of one UID may be revisions of one (RFC 5545, 3.8.7.4), or events whose writer never heard of UIDs.
    """
    for event in events:
        _check(event, touching)
    if not touching and not any(_whole(event) for event in events):
        return
    for event in events:
        _mend(event, end, touching, zone)
    changes = [event for event in events if "RECURRENCE-ID" in event]
    masters = [event for event in events if "RECURRENCE-ID" not in event]
    if not touching:
        newest = max((_revision(event) for event in masters), default=0)
        masters = [event for event in masters if _revision(event) == newest]
    if len(masters) < 2:
        yield events if touching else [*masters, *changes]
    elif not changes:
        yield from ([event] for event in masters)
    elif touching:
        yield from ([event] for event in events)
    else:
        raise ValueError("got several events of one UID and changes of them, expected one event for each UID")
    if touching:
        yield from ([event] for event in _undecided(changes))


def _undecided(changes: list[Any]) -> list[Any]:
    """Changes of one instance in one revision: the library would take one of them."""
    seen: dict[Any, list[Any]] = {}
    for event in changes:
        seen.setdefault((event.decoded("RECURRENCE-ID"), _revision(event)), []).append(event)
    return [event for alike in seen.values() if len(alike) > 1 for event in alike]


def _revision(event: Any) -> int:
    return int(event.get("SEQUENCE", 0))


def _check(event: Any, touching: bool) -> None:
    """Raises: ValueError: something is in it that would be left out."""
    _check_parsed(event)
    for key in ("DTSTART", "DTEND", "DURATION", "RECURRENCE-ID", "STATUS"):
        if isinstance(event.get(key), list):
            raise ValueError(f"got several {key}, expected one")
    if "DTSTART" not in event:
        raise ValueError("got no DTSTART, expected when it begins")
    if not touching and "EXRULE" in event:
        raise ValueError("got EXRULE, which is not understood; expected EXDATE")
    for key in ("DTSTART", "DTEND", "RECURRENCE-ID", "RDATE", "EXDATE"):
        for value in _list(event, key):
            _check_times(event, key, value)
    for rule in _list(event, "RRULE"):
        _check_rule(rule)


def _check_parsed(event: Any) -> None:
    """Raises: ValueError: the library could not read what tells of days."""
    for key in ("RRULE", "RDATE", "EXDATE"):
        if key in event and not [one for one in _list(event, key) if str(one).strip()]:
            event.pop(key)  # "RRULE:", "EXDATE:": some programs write it for nothing
    for name, fault in event.errors:
        if (name in _TELLING and name in event) or (name is None and not _HARMLESS.search(str(fault))):
            raise ValueError(f"{name or 'a line'}: {fault}")


def _check_times(event: Any, key: str, value: Any) -> None:
    """Raises: ValueError: a time in a zone that is not known, or hours among days."""
    name = value.params.get("TZID")
    for at in value.dts if hasattr(value, "dts") else [value]:
        first = at.dt[0] if isinstance(at.dt, tuple) else at.dt
        if name and isinstance(first, datetime) and first.tzinfo is None:
            raise ValueError(f"{key}: got TZID {name}, expected a time zone that is known or told in the file")
        if key == "RDATE" and _whole(event) and isinstance(first, datetime):
            raise ValueError("got RDATE with hours in an event of whole days, expected days")


def _check_rule(rule: Any) -> None:
    """Raises: ValueError: it repeats for ever at once, or more often than anybody means."""
    if not rule:
        return
    every = int(_first(rule, "INTERVAL", 1))
    if every < 1:
        raise ValueError(f"RRULE INTERVAL: got {every}, expected 1 or more")
    often = _A_DAY.get(str(_first(rule, "FREQ", "")).upper(), 1) / every
    for key in ("BYHOUR", "BYMINUTE", "BYSECOND"):
        often *= len(rule.get(key, [0]))
    if often > STARTS_A_DAY:
        raise ValueError(f"RRULE: begins {counted(round(often), 'time')} a day, expected {STARTS_A_DAY} at most")


def _mend(event: Any, end: date, touching: bool, zone: tzinfo) -> None:
    """Say in the one way that the library knows what files say in several."""
    from icalendar import vRecur

    start = event.decoded("DTSTART")
    rules = [rule for rule in _list(event, "RRULE") if rule]
    event.pop("RRULE", None)
    for rule in rules:
        told = {key: values for key, values in rule.items() if key != "UNTIL"}
        if "UNTIL" in rule:
            told["UNTIL"] = [_until(_first(rule, "UNTIL", None), start, touching, zone)]
        event.add("RRULE", vRecur(told))
    if "DTEND" in event and _day(event.decoded("DTEND")) > end + _MARGIN:  # until the end of time, say
        params, far = event["DTEND"].params, event.decoded("DTEND")
        event.pop("DTEND")
        cut = end + _MARGIN
        if cut > _day(start):
            event.add("DTEND", datetime.combine(cut, time(), far.tzinfo) if isinstance(far, datetime) else cut)
        else:
            event.add("DTEND", start)
        if "TZID" in params:
            event["DTEND"].params["TZID"] = params["TZID"]


def _until(until: date, start: date, touching: bool, zone: tzinfo) -> date:
    """The last start, in the form that RFC 5545 asks for; a day means the whole day."""
    if not isinstance(start, datetime):
        day = _day(until)
        return max(day, _wall(until, zone).date()) if touching and isinstance(until, datetime) else day
    if not isinstance(until, datetime):
        until = datetime.combine(until, time(23, 59, 59))
    if start.tzinfo is None:
        return _wall(until, zone)
    return (until if until.tzinfo is not None else until.replace(tzinfo=start.tzinfo)).astimezone(UTC)


def _days(events: list[Any], begin: date, end: date, touching: bool, zone: tzinfo) -> set[date]:
    import recurring_ical_events
    from icalendar import Calendar

    calendar = Calendar()
    for event in events:
        calendar.add_component(event)
    days: set[date] = set()
    for event in recurring_ical_events.CalendarQuery(calendar).between(begin - _MARGIN, end + _MARGIN):
        if str(event.get("STATUS", "")).upper() == "CANCELLED" or not (touching or _whole(event)):
            continue
        first, last = _first_and_last(event.decoded("DTSTART"), event.decoded("DTEND"), zone)
        first, last = max(first, begin), min(last, end - _DAY)
        days |= {first + number * _DAY for number in range((last - first).days + 1)}
    return days


def _first_and_last(start: date, end: date, zone: tzinfo) -> tuple[date, date]:
    if not isinstance(start, datetime):
        last = _wall(end, zone).date() if isinstance(end, datetime) else end - _DAY
        return start, max(start, last)
    if not isinstance(end, datetime):
        end = datetime.combine(end, time(), start.tzinfo)
    last_moment = _wall(end, zone)
    if (
        start.tzinfo is not None and end.tzinfo is not None
    ):  # hours may be meant, or what the wall clock shows after them
        last_moment = max(last_moment, _wall(start.astimezone(UTC) + (end - start), zone))
    first = _wall(start, zone)
    return first.date(), max(first, last_moment - timedelta(microseconds=1)).date()


def _wall(at: datetime, zone: tzinfo) -> datetime:
    return at if at.tzinfo is None else at.astimezone(zone).replace(tzinfo=None)


def _whole(event: Any) -> bool:
    return not isinstance(event.decoded("DTSTART"), datetime)


def _day(at: date) -> date:
    return at.date() if isinstance(at, datetime) else at


def _list(event: Any, key: str) -> list[Any]:
    value = event.get(key)
    return value if isinstance(value, list) else [] if value is None else [value]


def _first(rule: Any, key: str, default: Any) -> Any:
    value = rule.get(key, default)
    return value[0] if isinstance(value, list) else value
