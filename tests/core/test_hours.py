"""Hours: the text, the wall clock, and the end that is told."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.policy.hours import closed, day_closed
from deskgrid.model.hours import DAYS, Hours, window
from deskgrid.model.policy import Policy

from .facts import LOCALS, ZONES

CLOCK = st.builds(lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59))
DAY = st.sampled_from(DAYS)
DAY_LISTS = st.lists(DAY | st.builds("{}-{}".format, DAY, DAY), min_size=1, max_size=3).map(",".join)
TEXTS = st.builds(
    lambda days, start, end: f"{days} {start}-{end}" if days else f"{start}-{end}",
    st.none() | DAY_LISTS,
    CLOCK,
    CLOCK | st.just("24:00"),
).filter(lambda text: text[-11:-6] != text[-5:])


@pytest.mark.parametrize(
    ("text", "days", "start", "end"),
    [
        ("07:00-17:00", range(7), 420, 1020),
        ("Mon-Fri 07:00-17:00", range(5), 420, 1020),
        ("Sat,Sun 10:00-12:00", (5, 6), 600, 720),
        ("Fri-Mon 22:00-06:00", (4, 5, 6, 0), 1320, 1800),
        ("Wed 00:00-24:00", (2,), 0, 1440),
        ("18:00-00:00", range(7), 1080, 1440),
    ],
)
def test_a_window_says_days_begin_and_end(text: str, days: Sequence[int], start: int, end: int) -> None:
    read = window(text)
    assert (read.days, read.start, read.end, read.text) == (frozenset(days), start, end, text)


@pytest.mark.parametrize(
    "text", ["", "7-17", "25:00-26:00", "24:00-07:00", "07:60-08:00", "Mo 07:00-08:00", "Mon 07:00", "07:00-17:00\n"]
)
def test_what_is_no_window_is_refused_by_reading_and_in_a_policy(text: str) -> None:
    with pytest.raises(ValueError, match="expected hours such as"):
        window(text)
    with pytest.raises(msgspec.ValidationError, match="expected hours such as"):
        msgspec.convert({"closed": [text]}, Policy)


@pytest.mark.parametrize("text", ["07:00-07:00", "Mon 00:00-00:00"])
def test_a_window_of_no_length_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(ValueError, match='the whole day is "00:00-24:00"'):
        window(text)


@given(TEXTS)
def test_every_window_that_can_be_read_passes_the_type(text: str) -> None:
    assert msgspec.convert(text, Hours) == text and window(text).text == text


def shows(texts: Sequence[str], wall: datetime, without: Sequence[date]) -> bool:
    """The plain meaning: some window of today or yesterday holds this time on the wall."""
    for each in map(window, texts):
        for back in (0, 1):
            day = wall.date() - timedelta(days=back)
            minute = (wall - datetime.combine(day, datetime.min.time())).total_seconds() / 60
            if day.weekday() in each.days and day not in without and each.start <= minute < each.end:
                return True
    return False


@given(st.lists(TEXTS, max_size=3), LOCALS, st.lists(st.dates(date(2026, 2, 27), date(2026, 4, 3)), max_size=3))
def test_it_is_closed_when_the_wall_clock_says_so_and_open_at_the_end_that_is_told(
    texts: list[str], local: datetime, without: list[date]
) -> None:
    said = closed(texts, local, without)
    assert (said is not None) == shows(texts, local.replace(tzinfo=None), without)
    if said is None or said.until is None:
        return
    assert said.until > local.astimezone(UTC) and said.by in texts
    there = said.until.astimezone(local.tzinfo)
    assert closed(texts, there, without) is None
    just_before = (said.until - timedelta(seconds=1)).astimezone(local.tzinfo)
    assert just_before < local or closed(texts, just_before, without) is not None


@given(st.lists(st.dates(date(2026, 2, 27), date(2026, 4, 3)), max_size=6), LOCALS)
def test_a_closed_day_is_closed_until_the_first_open_one(dates: list[date], local: datetime) -> None:
    said = day_closed(dates, local)
    assert (said is not None) == (local.date() in dates)
    if said is not None:
        assert said.until is not None
        assert said.until.astimezone(local.tzinfo).date() not in dates
        assert (said.until - timedelta(seconds=1)).astimezone(local.tzinfo).date() in dates


@pytest.mark.parametrize("zone", ZONES)
def test_over_a_change_of_the_clocks_a_night_is_an_hour_shorter_or_longer_and_still_closed(zone: ZoneInfo) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    while at < datetime(2026, 4, 1, tzinfo=UTC):
        local = at.astimezone(zone)
        assert (closed(["22:00-06:00"], local) is not None) == (local.hour >= 22 or local.hour < 6)
        at += timedelta(minutes=30)


def test_a_clock_that_is_set_back_is_believed_at_once() -> None:
    at = datetime(2026, 3, 3, 17, 30, tzinfo=UTC)
    assert closed(["07:00-17:00"], at) is None
    assert closed(["07:00-17:00"], at - timedelta(hours=1)) is not None
