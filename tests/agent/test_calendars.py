"""A calendar never loses a day in which nothing may run: it says it, or says which event it does not understand."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deskgrid.agent.policy.calendar_events import days_of

BERLIN, YORK, AUCKLAND = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Pacific/Auckland")
HEAD = "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//test//EN\n"


def event(body: str, uid: str = "a", summary: str = "exam") -> str:
    return f"BEGIN:VEVENT\nUID:{uid}\nDTSTAMP:20260101T000000Z\nSUMMARY:{summary}\n{body}\nEND:VEVENT\n"


def calendar(*events: str) -> bytes:
    return f"{HEAD}{''.join(events)}END:VCALENDAR\n".replace("\n", "\r\n").encode()


def closed(content: bytes | str, zone: ZoneInfo = BERLIN, off: bool = False) -> list[str]:
    whole = calendar(event(content)) if isinstance(content, str) else content
    return [f"{day:%m-%d}" for day in days_of(whole, date(2026, 3, 1), 60, touching=not off, zone=zone)]


# -- what was lost ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "days"),
    [
        # the last start, in UTC
        (
            "DTSTART;TZID=Europe/Berlin:20260302T090000\nDURATION:PT3H\nRRULE:FREQ=DAILY;UNTIL=20260304T080000Z",
            ["03-02", "03-03", "03-04"],
        ),
        (
            "DTSTART;TZID=America/Los_Angeles:20260302T180000\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL=20260305T020000Z",
            ["03-03", "03-04", "03-05"],
        ),
        # a day as the end of hours: all of it
        (
            "DTSTART;TZID=Europe/Oslo:20260302T180000\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL=20260304",
            ["03-02", "03-03", "03-04"],
        ),
        ("DTSTART:20260302T180000\nDURATION:PT1H\nRRULE:FREQ=DAILY;UNTIL=20260304", ["03-02", "03-03", "03-04"]),
        # UTC as the end of floating hours
        ("DTSTART:20260302T090000\nRRULE:FREQ=DAILY;UNTIL=20260304T080000Z", ["03-02", "03-03", "03-04"]),
        # whole days until an instant that is the day before in UTC
        ("DTSTART;VALUE=DATE:20260302\nRRULE:FREQ=DAILY;UNTIL=20260303T230000Z", ["03-02", "03-03", "03-04"]),
        # periods
        (
            "DTSTART;TZID=Europe/Berlin:20260302T093000\nDURATION:PT1H\n"
            "RDATE;VALUE=PERIOD:20260309T083000Z/20260309T093000Z,20260316T083000Z/PT1H,20260323T220000Z/PT5H",
            ["03-02", "03-09", "03-16", "03-23", "03-24"],
        ),
        ("DTSTART;VALUE=DATE:20260302\nDTEND;VALUE=DATE:20260302\nRRULE:", ["03-02"]),
        # a short day: 24 hours end on the next one (the clocks of Berlin go forward on 29 March)
        ("DTSTART;TZID=Europe/Berlin:20260329T000000\nDURATION:PT24H", ["03-29", "03-30"]),
        # begins long before, ends with the world
        ("DTSTART;VALUE=DATE:20260428\nDTEND;VALUE=DATE:99991231", ["04-28", "04-29"]),
        ("DTSTART:20260428T100000\nDTEND:99991231T235959", ["04-28", "04-29"]),
        ("DTSTART;VALUE=DATE:19990302\nRRULE:FREQ=YEARLY", ["03-02"]),
        # what programs write for nothing, or break where it tells nothing of days
        ("DTSTART;VALUE=DATE:20260302\nEXDATE:\nRDATE:", ["03-02"]),
        ("DTSTART;VALUE=DATE:20260302\nX-APPLE-RADIUS=49.9\nPRIORITY:high", ["03-02"]),
        ('DTSTART;TZID="W. Europe Standard Time":20260302T233000\nDURATION:PT1H', ["03-02", "03-03"]),
    ],
)
def test_no_day_is_lost(body: str, days: list[str]) -> None:
    assert closed(body) == days


def test_this_and_all_that_follow_are_moved() -> None:
    weekly = "DTSTART;TZID=Europe/Berlin:20260302T090000\nDURATION:PT1H\nRRULE:FREQ=WEEKLY;COUNT=4"
    moved = (
        "RECURRENCE-ID;RANGE=THISANDFUTURE;TZID=Europe/Berlin:20260316T090000\n"
        "DTSTART;TZID=Europe/Berlin:20260317T090000\nDURATION:PT1H"
    )
    assert closed(calendar(event(weekly), event(moved))) == ["03-02", "03-09", "03-17", "03-24"]


def test_a_day_is_one_of_the_policys_zone() -> None:
    exam = "DTSTART:20260310T003000Z\nDTEND:20260310T023000Z"
    assert closed(exam, zone=YORK) == ["03-09"]
    assert closed(exam, zone=BERLIN) == ["03-10"]
    assert closed("DTSTART;TZID=Europe/Berlin:20260310T130000\nDURATION:PT1H", zone=AUCKLAND) == ["03-11"]
    assert closed("DTSTART:20260310T233000\nDURATION:PT1H", zone=AUCKLAND) == ["03-10", "03-11"]


def test_several_calendars_in_one_file_all_count() -> None:
    first, second = calendar(event("DTSTART;VALUE=DATE:20260302")), calendar(event("DTSTART;VALUE=DATE:20260304"))
    assert closed(first + second) == ["03-02", "03-04"]
    assert closed(b"\xef\xbb\xbf" + first) == ["03-02"]


def test_several_events_of_one_uid_all_close_and_of_revisions_the_newest_is_off() -> None:
    days = [event(f"DTSTART;VALUE=DATE:2026030{day}") for day in (2, 4)]
    assert closed(calendar(*days)) == closed(calendar(*days), off=True) == ["03-02", "03-04"]
    revised = calendar(days[0], event("SEQUENCE:1\nDTSTART;VALUE=DATE:20260304"))
    assert closed(revised) == ["03-02", "03-04"]
    assert closed(revised, off=True) == ["03-04"]
    without = calendar(*(one.replace("UID:a\n", "") for one in days))
    assert closed(without) == ["03-02", "03-04"]


def test_what_is_cancelled_does_not_count() -> None:
    weekly = event("DTSTART;VALUE=DATE:20260302\nRRULE:FREQ=WEEKLY;COUNT=3")
    one = event("RECURRENCE-ID;VALUE=DATE:20260309\nDTSTART;VALUE=DATE:20260309\nSTATUS:CANCELLED")
    assert closed(calendar(weekly, one)) == ["03-02", "03-16"]
    assert closed("DTSTART;VALUE=DATE:20260302\nSTATUS:CANCELLED") == []


# -- what is not understood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("DTSTART:garbage", "DTSTART"),
        ("DTSTART:20260302T999999", "DTSTART"),
        ("LOCATION:hall", "no DTSTART"),
        ("DTSTART:20260302\nRRULE:FREQ=SOMETIMES", "RRULE"),
        ("DTSTART:20260302\nRRULE:FREQ=DAILY;UNTIL=tomorrow", "RRULE"),
        ("DTSTART:20260302\nRRULE:RSCALE=CHINESE;FREQ=YEARLY", "RSCALE"),
        ("DTSTART:20260302\nEXDATE:often", "EXDATE"),
        ("DTSTART:20260302\nDURATION:long", "DURATION"),
        ("DTSTART:20260302\nsomething that is no line", "a line"),
        ("DTSTART:20260302\nDTSTART:20260303", "several DTSTART"),
        ("DTSTART;TZID=Nowhere/Atall:20260302T090000", "TZID Nowhere/Atall"),
        ("DTSTART:20260302\nRDATE:20260309T090000", "RDATE with hours"),
        # bombs
        ("DTSTART:20260302T090000\nRRULE:FREQ=DAILY;INTERVAL=0", "INTERVAL"),
        ("DTSTART:20260302T090000\nRRULE:FREQ=SECONDLY", "86400 times a day"),
        ("DTSTART:20260302T090000\nRRULE:FREQ=MINUTELY;INTERVAL=2", "720 times a day"),
        (
            f"DTSTART:20260302T090000\nRRULE:FREQ=DAILY;BYHOUR={','.join(map(str, range(24)))};BYMINUTE=1,2,3,4,5",
            "120 times a day",
        ),
        ("DTSTART:00010101T000000Z\nDTEND:20270101T000000Z", "out of range"),
    ],
)
def test_an_event_that_is_not_understood_is_named(body: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf'event "exam" \(UID a, DTSTART .*{said}'):
        closed(body)


def test_hours_that_are_not_understood_give_no_day_off_and_cost_none() -> None:
    holiday = event("DTSTART;VALUE=DATE:20260302", "b")
    assert closed(calendar(holiday, event("DTSTART:20260302T090000\nRRULE:FREQ=SECONDLY;INTERVAL=1000")), off=True) == [
        "03-02"
    ]
    with pytest.raises(ValueError, match="EXRULE"):
        closed("DTSTART;VALUE=DATE:20260302\nRRULE:FREQ=DAILY\nEXRULE:FREQ=WEEKLY", off=True)


@pytest.mark.parametrize("cut", [30, 75])
def test_a_file_that_is_cut_off_is_no_shorter_calendar(cut: int) -> None:
    whole = calendar(event("DTSTART;VALUE=DATE:20260302")) + calendar(event("DTSTART;VALUE=DATE:20260304"))
    with pytest.raises(ValueError, match=r"cut off|could not be parsed"):
        closed(whole[:-cut])


def test_another_calendar_than_ours_is_refused() -> None:
    with pytest.raises(ValueError, match="CALSCALE: got HEBREW"):
        closed(calendar("CALSCALE:HEBREW\n"))


# -- the process ------------------------------------------------------------------------------------------------------


def test_an_event_that_would_be_computed_for_ever_is_named(tmp_path: Path) -> None:
    """A rule that never comes true: dateutil would go through each second until the year 9999."""
    file = tmp_path / "bomb.ics"
    rule = "RRULE:FREQ=SECONDLY;INTERVAL=900;BYMONTH=2;BYMONTHDAY=30"
    file.write_bytes(calendar(event("DTSTART;VALUE=DATE:20260302", "b"), event(f"DTSTART:20260302T090000\n{rule}")))
    program = (
        "import sys; from deskgrid.agent.policy import calendar_days; calendar_days.MAX_CPU_SECONDS = 2;"
        "sys.exit(calendar_days.main(sys.argv[1:]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file), "closed", "2026-03-01", "60", "UTC"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 1
    assert 'event "exam"' in ended.stderr and "not understood within 2 s of computing" in ended.stderr


def test_the_process_says_days_in_the_zone_that_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "exam.ics"
    file.write_bytes(calendar(event("DTSTART:20260310T003000Z\nDURATION:PT1H")))
    argv = [sys.executable, "-m", "deskgrid.agent.policy.calendar_days", str(file), "closed", "2026-03-01", "60"]
    said = subprocess.run([*argv, "America/New_York"], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(said.stdout) == ["2026-03-09"]


# -- beside another reader --------------------------------------------------------------------------------------------

BEGIN = date(2026, 9, 1)
JULY, LATE = datetime.fromisoformat("2026-07-01"), datetime.fromisoformat("2027-01-15")
ZONES = (UTC, BERLIN, YORK, AUCKLAND, None)


@st.composite
def rules(draw: st.DrawFn) -> str:
    freq = draw(st.sampled_from(["DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.integers(1, 3))}"]
    if freq == "WEEKLY" and draw(st.booleans()):
        parts.append(f"BYDAY={','.join(draw(st.lists(st.sampled_from(['MO', 'WE', 'SA']), min_size=1, unique=True)))}")
    if freq == "MONTHLY" and draw(st.booleans()):
        parts.append(f"BYDAY={draw(st.sampled_from(['1MO', '-1FR', '2TU']))}")
    if draw(st.booleans()):
        parts.append(f"COUNT={draw(st.integers(1, 40))}")
    return ";".join(parts)


@st.composite
def events(draw: st.DrawFn) -> tuple[str, list[tuple[datetime, datetime]]]:
    """An event's text, and its occurrences as dateutil says them."""
    zone = draw(st.sampled_from(ZONES))
    start = JULY + timedelta(hours=draw(st.integers(0, 24 * 150)))
    length = timedelta(minutes=draw(st.sampled_from([0, 30, 90, 600, 1440, 4000])))
    rule, without = draw(rules()), draw(st.integers(0, 3))
    name = f"{start:%Y%m%dT%H%M%S}"
    told = f";TZID={zone}:{name}" if isinstance(zone, ZoneInfo) else f":{name}{'Z' if zone else ''}"
    starts = sorted({start, *_until(rrulestr(rule, dtstart=start))})  # RFC 5545, 3.8.5.3: DTSTART counts always
    gone = starts[without : without + 1] if without else []
    text = f"DTSTART{told}\nDURATION:PT{int(length.total_seconds() // 60)}M\nRRULE:{rule}"
    text += "".join(f"\nEXDATE{told.replace(name, f'{one:%Y%m%dT%H%M%S}')}" for one in gone)
    spans = [(one, one + length) for one in starts if one not in gone]
    return text, [(one.replace(tzinfo=zone), end.replace(tzinfo=zone)) for one, end in spans]


def _until(starts: Iterator[datetime]) -> Iterator[datetime]:
    for start in starts:
        if start > LATE:
            return
        yield start


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events(), min_size=1, max_size=4), st.sampled_from([BERLIN, YORK, AUCKLAND]))
def test_the_days_are_those_that_dateutil_says(
    made: list[tuple[str, list[tuple[datetime, datetime]]]], zone: ZoneInfo
) -> None:
    expected: set[date] = set()
    for _, spans in made:
        for start, end in spans:
            first, last = (at if at.tzinfo is None else at.astimezone(zone).replace(tzinfo=None) for at in (start, end))
            day = first.date()
            while datetime.combine(day, time()) < last or day == first.date():
                expected.add(day)
                day += timedelta(days=1)
    whole = calendar(*(event(text, f"u{number}") for number, (text, _) in enumerate(made)))
    found = set(days_of(whole, BEGIN, 100, touching=True, zone=zone))
    missing = {day for day in expected if BEGIN <= day < BEGIN + timedelta(days=100)} - found
    assert not missing
    # more than dateutil says: only where an event lasts over a change of clocks, and hours may be meant
    assert all(day.month in (9, 10, 11) and day - timedelta(days=1) in expected for day in found - expected)
