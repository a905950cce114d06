"""What an owner says is understood, and what they are told is one plain sentence."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest

from deskgrid.model.desktop import VmState
from deskgrid.model.wish import Ask, Wish
from deskgrid.session.sentences import (
    BadDuration,
    clock,
    done_sentence,
    gift_sentence,
    headline,
    span,
    until_of,
    wall,
    why_ends,
    wish_sentence,
    zone_sentence,
)
from deskgrid.wire.local import Granted, Usage

from .desktop import OWNER, status, vm

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 14, 20, tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("30m", NOW + timedelta(minutes=30)),
        ("45min", NOW + timedelta(minutes=45)),
        ("1h", NOW + timedelta(hours=1)),
        ("2h30m", NOW + timedelta(hours=2.5)),
        ("2h 30m", NOW + timedelta(hours=2.5)),
        ("1D", NOW + timedelta(days=1)),
        ("18:00", datetime(2026, 11, 22, 18, 0, tzinfo=BERLIN)),
        ("8:00", datetime(2026, 11, 23, 8, 0, tzinfo=BERLIN)),
        ("today", datetime(2026, 11, 23, 0, 0, tzinfo=BERLIN)),
        ("forever", None),
        ("until I say", None),
    ],
)
def test_how_long_is_understood(text: str, until: datetime | None) -> None:
    assert until_of(text, NOW) == until


def test_today_ends_at_midnight_on_the_wall_when_the_clocks_change() -> None:
    morning = datetime(2026, 10, 25, 1, 0, tzinfo=BERLIN)
    end = until_of("today", morning)
    assert end is not None
    assert (end.timestamp() - morning.timestamp()) / 3600 == 24  # 23 on the wall, and the hour that comes twice


def test_an_hour_is_an_hour_when_the_clocks_change() -> None:
    before = datetime(2026, 3, 29, 1, 30, tzinfo=BERLIN)
    end = until_of("1h", before)
    assert end is not None
    assert f"{end:%H:%M}" == "03:30"


@pytest.mark.parametrize("text", ["", "soon", "5", "h", "-1h", "0m", "367d", "9999d", "1h1h", "25:00", "8:61", "1.5h"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(BadDuration, match=r"how long: got .* expected .*30m, 1h, 2h30m"):
        until_of(text, NOW)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (NOW.replace(hour=18, minute=0), "18:00"),
        (NOW + timedelta(days=1), "tomorrow 14:20"),
        (datetime(2026, 11, 23, 0, 0, tzinfo=BERLIN), "midnight"),
        (NOW - timedelta(days=1), "yesterday 14:20"),
        (datetime(2026, 12, 1, 8, 0, tzinfo=BERLIN), "Tue 1 Dec 08:00"),
        (datetime(2027, 2, 3, 8, 0, tzinfo=BERLIN), "3 Feb 2027 08:00"),
    ],
)
def test_times_are_said_as_people_say_them(at: datetime, said: str) -> None:
    assert clock(at.astimezone(ZoneInfo("UTC")), NOW) == said


SIX = NOW.replace(hour=18, minute=0)


@pytest.mark.parametrize(
    ("done", "said"),
    [
        (Granted(Ask.PAUSE, Wish(Ask.PAUSE, "anna", NOW, SIX), 1), "Paused until 18:00; 1 virtual machine leaves now."),
        (
            Granted(Ask.PAUSE, Wish(Ask.PAUSE, "anna", NOW), 3),
            "Paused until you say `deskgrid resume`; 3 virtual machines leave now.",
        ),
        (
            Granted(Ask.PAUSE, Wish(Ask.PAUSE, "anna", NOW), 0),
            "Paused until you say `deskgrid resume`; no virtual machine is here.",
        ),
        (
            Granted(Ask.FINISH, Wish(Ask.FINISH, "anna", NOW, SIX), 2),
            "Nothing new starts until 18:00; 2 virtual machines may end their work.",
        ),
        (
            Granted(Ask.FINISH, Wish(Ask.PAUSE, "bob", NOW, SIX), 0),
            "It was so already. Paused until 18:00, as bob asked.",
        ),
        (
            Granted(Ask.RESUME, None, 0),
            "Resumed: virtual machines may run here again when the computer is not in use.",
        ),
        (
            Granted(Ask.RESUME, Wish(Ask.PAUSE, "bob", NOW), 0),
            "What anna asked is taken back, but somebody else's wish holds. "
            "Paused until it is taken back with `deskgrid resume`, as bob asked.",
        ),
    ],
)
def test_what_comes_of_a_wish_is_one_sentence(done: Granted, said: str) -> None:
    assert done_sentence(done, "anna", NOW) == said


def test_what_the_computer_does_and_why() -> None:
    pause = Wish(Ask.PAUSE, "anna", NOW, SIX)
    nothing = "Nothing runs here now."
    assert headline(status(), NOW) == (nothing, OWNER.sentence)
    assert headline(status(refusals=()), NOW)[1].startswith("This computer would help")
    assert headline(status(wish=pause), NOW) == (nothing, wish_sentence(pause, NOW))
    assert headline(status(vm()), NOW) == ("1 virtual machine runs here for other people's research.", "")
    assert headline(status(vm(), vm(vm_id="b")), NOW)[0].startswith("2 virtual machines run here")
    assert headline(status(vm(VmState.PAUSED), go_on=OWNER), NOW) == (
        "1 virtual machine is here and stands still.",
        OWNER.sentence,
    )
    assert headline(status(vm(VmState.LEAVING)), NOW)[0] == "1 virtual machine is here, leaving."
    assert (
        headline(status(vm(VmState.PAUSED), vm(VmState.LEAVING, "b")), NOW)[0] == "2 virtual machines come or go here."
    )


def test_when_it_should_end_is_said_if_it_is_known() -> None:
    assert why_ends(status()) == OWNER.until
    assert why_ends(status(wish=Wish(Ask.PAUSE, "anna", NOW, SIX))) is None  # it is in its sentence
    assert why_ends(status(refusals=())) is None
    assert why_ends(status(refusals=(msgspec.structs.replace(OWNER, until=None),))) is None


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (89, "89 s"), (600, "10 min"), (3600 * 2.5, "2.5 hours"), (3600 * 1234, "1,234 hours")],
)
def test_spans_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert span(seconds) == said


def test_what_was_given_is_one_sentence() -> None:
    assert gift_sentence(Usage()) == "This month it has given nothing yet."
    assert gift_sentence(Usage(7200, 14400, 0, 1, 2, 1)) == (
        "This month it gave 2.0 hours to 1 virtual machine (4.0 hours of processor cores); "
        "1 made way for you before its work was done."
    )


def test_times_of_day_are_those_of_the_clock_that_the_policy_goes_by() -> None:
    here = datetime(2026, 12, 1, 23, 30, tzinfo=ZoneInfo("UTC"))
    there = wall(here, "America/New_York")
    assert until_of("today", there) == datetime(2026, 12, 2, 5, 0, tzinfo=UTC)
    assert until_of("18:45", there) == datetime(2026, 12, 1, 23, 45, tzinfo=UTC)
    assert wall(here, "") == here and wall(here, "Never/Heard").utcoffset() == here.utcoffset()
    assert zone_sentence(here, "America/New_York") == "Times are those of America/New_York, by which this grid goes."
    assert zone_sentence(here, "Atlantic/Reykjavik") == zone_sentence(here, "") == ""
