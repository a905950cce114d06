"""What macOS' values mean: pure, so it is tried everywhere. The calls themselves have never been run."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.model.presence import SessionReading
from deskgrid.presence.macos.values import (
    UTMPX_BYTES,
    Login,
    MacFacts,
    PowerSource,
    battery_of,
    combine,
    hid_seconds_of,
    login_of,
    pressure_of,
    quartz_seconds_of,
    watching_of,
)

ADA = Login("ada", "console", "")
BOB = Login("bob", "ttys003", "lab-7.example.edu")


def entry(user: bytes, line: bytes, kind: int, host: bytes = b"") -> bytes:
    """A struct utmpx of 64-bit macOS (utmpx.h), field by field at its offset."""
    content = bytearray(640)
    content[0 : len(user)] = user
    content[260 : 260 + len(line)] = line
    struct.pack_into("<ih", content, 292, 77, kind)
    content[320 : 320 + len(host)] = host
    return bytes(content)


def facts(**given_: object) -> MacFacts:
    return MacFacts(**({"hid_seconds": 40.0, "quartz_seconds": None, "logins": (ADA,)} | given_))  # type: ignore[arg-type]


def test_idle_time_of_the_hardware_is_a_number_or_eight_bytes() -> None:
    assert hid_seconds_of(12_500_000_000) == 12.5
    assert hid_seconds_of((3 * 10**9).to_bytes(8, "little")) == 3.0
    assert [hid_seconds_of(odd) for odd in (None, -1, b"", b"1234")] == [None] * 4


def test_quartz_says_a_time_or_nothing() -> None:
    assert quartz_seconds_of(7.5) == 7.5
    assert quartz_seconds_of(-1.0) is None
    assert quartz_seconds_of(1e300) is None


def test_a_login_is_read_from_its_bytes() -> None:
    assert UTMPX_BYTES == 640
    assert login_of(entry(b"bob", b"ttys003", 7, b"lab-7.example.edu")) == BOB
    assert login_of(entry(b"ada", b"console", 7)) == ADA
    assert login_of(entry(b"bob", b"ttys003", 8)) is None, "a session that has ended"


def test_somebody_at_the_console_is_known_by_the_hardware() -> None:
    reading = combine(facts())
    assert (reading.logged_in, reading.idle_seconds, reading.remote, reading.faults) == (True, 40.0, False, ())
    assert reading.sources == ("HIDIdleTime 40 s", "utmpx: 1 session")
    assert reading.full_screen is None, "macOS does not tell a daemon"


def test_the_least_of_all_sources_counts() -> None:
    both = facts(quartz_seconds=9.0, logins=(ADA, BOB), terminals={"ttys003": 5.0})
    reading = combine(both)
    assert (reading.idle_seconds, reading.remote) == (5.0, True)
    assert "terminal ttys003 5 s" in reading.sources
    assert "utmpx: 2 sessions, 1 remote" in reading.sources


def test_what_cannot_be_seen_makes_idle_time_unknown_unless_somebody_is_busy_now() -> None:
    reading = combine(facts(logins=(ADA, BOB)))
    assert reading.idle_seconds is None
    assert "got no terminal ttys003" in reading.faults[0]
    assert combine(facts(hid_seconds=None, quartz_seconds=20.0)).idle_seconds is None
    assert combine(facts(hid_seconds=None, quartz_seconds=0.5)).idle_seconds == 0.5
    nothing = combine(facts(logins=None))
    assert (nothing.logged_in, nothing.idle_seconds, nothing.remote) == (None, None, None)


def test_nobody_logged_in_leaves_the_hardware_to_tell_and_no_screen_to_fill() -> None:
    reading = combine(facts(logins=()))
    assert (reading.logged_in, reading.idle_seconds, reading.full_screen, reading.locked) == (False, 40.0, False, None)


def test_a_lock_is_the_consoles_and_a_terminal_or_a_helper_denies_it() -> None:
    assert combine(facts(locked=True)).locked is True
    assert combine(facts(locked=None)).locked is None
    assert combine(facts(locked=True, logins=(ADA, BOB), terminals={"ttys003": 9.0})).locked is False
    assert combine(facts(locked=True, helpers=(SessionReading("x", locked=False),))).locked is False


def test_helpers_films_and_the_lid_are_passed_on() -> None:
    helper = SessionReading("x", idle_seconds=3.0, full_screen=True, watching=("a talk",))
    reading = combine(facts(helpers=(helper,), watching=("a film",), lid_closed=True))
    assert (reading.idle_seconds, reading.full_screen, reading.watching, reading.lid_closed) == (
        3.0, True, ("a film", "a talk"), True,
    )  # fmt: skip


def test_assertions_that_keep_the_screen_on_count_and_others_do_not() -> None:
    assert watching_of({"PreventUserIdleDisplaySleep": 1, "NoDisplaySleepAssertion": 1}) == (
        "a program that keeps the screen on",
    )
    assert watching_of({"PreventUserIdleDisplaySleep": 0, "PreventUserIdleSystemSleep": 1}) == ()


@pytest.mark.parametrize(
    ("providing", "sources", "meant"),
    [
        ("AC Power", (), (False, None)),
        ("Battery Power", (PowerSource(40, 80),), (True, 50.0)),
        ("UPS Power", (PowerSource(90, 100), PowerSource(10, 100)), (True, 50.0)),
        (None, (PowerSource(5, 0),), (None, None)),
    ],
)
def test_batteries_count_together(providing: str | None, sources: tuple[PowerSource, ...], meant: object) -> None:
    assert battery_of(providing, sources) == meant


def test_memory_pressure_has_three_levels_and_unknown() -> None:
    assert [pressure_of(level) for level in (1, 2, 4, 3, None)] == [0.0, 50.0, 100.0, None, None]


@given(
    hid=st.none() | st.floats(0, 1e6),
    quartz=st.none() | st.floats(0, 1e6),
    helper=st.none() | st.floats(0, 1e6),
    logins=st.none() | st.lists(st.sampled_from([ADA, BOB]), unique=True).map(tuple),
)
def test_idle_time_never_exceeds_any_source(
    hid: float | None, quartz: float | None, helper: float | None, logins: tuple[Login, ...] | None
) -> None:
    helpers = (SessionReading("x", idle_seconds=helper),)
    idle = combine(MacFacts(hid, quartz, logins, helpers=helpers)).idle_seconds
    assert idle is None or all(source is None or idle <= source for source in (hid, quartz, helper))
