"""What Windows' messages and values mean: pure, so it is tried everywhere."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.model.presence import Ending, SessionReading
from deskgrid.presence.machine.windows import Times, others_share, running_of
from deskgrid.presence.windows.combine import WindowsFacts, combine
from deskgrid.presence.windows.events import (
    CONSOLE_DISCONNECT,
    LOCK,
    LOGOFF,
    LOGON,
    PBT_APMRESUMEAUTOMATIC,
    PBT_APMRESUMESUSPEND,
    PBT_APMSUSPEND,
    PBT_POWERSETTINGCHANGE,
    REMOTE_CONNECT,
    UNLOCK,
    WM_ENDSESSION,
    WM_POWERBROADCAST,
    WM_QUERYENDSESSION,
    WM_WTSSESSION_CHANGE,
    Noticed,
    UserPresence,
    What,
    WindowsState,
    decode,
    encode_setting,
    follow,
)
from deskgrid.presence.windows.values import (
    RawSession,
    WindowsPower,
    WindowsSession,
    full_screen_of,
    idle_seconds_of,
    lock_flag_of,
    metered_of,
    people,
    power_of,
    watching_of,
    wireless_of,
)

DAY_MS = 86_400_000
OURS = WindowsSession(1, attended=True, remote=False, locked=False)
GUEST = WindowsSession(2, attended=True, remote=True, locked=False)
PARKED = WindowsSession(3, attended=False, remote=False, locked=True)


def told(state: WindowsState, *notices: Noticed, now: float = 100.0) -> tuple[WindowsState, list[bool]]:
    """Follow one notice each second; returns the state and which of them were news."""
    news = []
    for step, noticed in enumerate(notices):
        state, new = follow(state, noticed, now + step)
        news.append(new)
    return state, news


# -- ticks


@given(st.integers(0, (1 << 32) - 1), st.integers(0, 49 * DAY_MS))
def test_idle_time_is_right_across_the_wrap_of_the_tick(last: int, since_ms: int) -> None:
    assert idle_seconds_of((last + since_ms) % (1 << 32), last) == since_ms / 1000


@given(st.integers(0, (1 << 32) - 1), st.integers(1, 59_999))
def test_input_between_two_calls_is_input_now(tick: int, ahead_ms: int) -> None:
    assert idle_seconds_of(tick, (tick + ahead_ms) % (1 << 32)) == 0.0


def test_after_the_wrap_somebody_long_away_looks_as_if_just_here_never_the_other_way() -> None:
    assert idle_seconds_of((1000 + 50 * DAY_MS) % (1 << 32), 1000) < 86_400


# -- messages


@pytest.mark.parametrize("what", [one for one in What if one.value in ("global-presence", "lid", "battery")])
def test_a_power_setting_is_read_from_its_bytes(what: What) -> None:
    assert decode(WM_POWERBROADCAST, PBT_POWERSETTINGCHANGE, 1, encode_setting(what, 7)) == Noticed(what, 7)


@pytest.mark.parametrize(
    "setting",
    [b"", b"x" * 23, bytes(24), encode_setting(What.LID, 1)[:16] + struct.pack("<II", 2, 1)],
    ids=["nothing", "cut off", "a GUID that nobody asked for", "data too short"],
)
def test_a_power_setting_that_says_nothing_is_none(setting: bytes) -> None:
    assert decode(WM_POWERBROADCAST, PBT_POWERSETTINGCHANGE, 1, setting) is None


def test_other_messages_are_decoded_or_ignored() -> None:
    assert decode(WM_WTSSESSION_CHANGE, LOCK, 3) == Noticed(What.SESSION, LOCK, 3)
    assert decode(WM_POWERBROADCAST, PBT_APMSUSPEND, 0) == Noticed(What.SUSPEND)
    assert decode(WM_POWERBROADCAST, PBT_APMRESUMEAUTOMATIC, 0) == Noticed(What.RESUME, 0)
    assert decode(WM_POWERBROADCAST, PBT_APMRESUMESUSPEND, 0) == Noticed(What.RESUME, 1)
    assert decode(WM_POWERBROADCAST, 0xA, 0) is None
    assert decode(WM_QUERYENDSESSION, 0, 0) == Noticed(What.QUERY_END)
    assert decode(WM_ENDSESSION, 1, 0) == Noticed(What.END, 1)
    assert decode(0x0F, 0, 0) is None


# -- what follows


def test_the_first_value_of_a_setting_is_no_news_and_a_change_is() -> None:
    for what, values in {
        What.GLOBAL_PRESENCE: (2, 2, 0),
        What.SESSION_PRESENCE: (2, 2, 0),
        What.POWER_SOURCE: (0, 0, 1),
        What.BATTERY: (80, 80, 79),
        What.LID: (1, 1, 0),
    }.items():
        assert told(WindowsState(), *(Noticed(what, value) for value in values))[1] == [False, False, True], what


def test_somebody_present_again_and_a_lid_that_opens_are_signs_and_a_pulled_plug_is_not() -> None:
    state, _ = told(WindowsState(), Noticed(What.GLOBAL_PRESENCE, 2), Noticed(What.GLOBAL_PRESENCE, 0))
    assert (state.everywhere, state.touched_at) == (UserPresence(True, 101), 101)
    state, _ = told(WindowsState(), Noticed(What.SESSION_PRESENCE, 1), Noticed(What.SESSION_PRESENCE, 0))
    assert state.touched_at == 101
    state, news = told(WindowsState(), Noticed(What.LID, 1), Noticed(What.LID, 0))
    assert (state.lid_open, state.touched_at, news) == (False, None, [False, True])
    assert told(state, Noticed(What.LID, 1), now=200)[0].touched_at == 200
    assert told(WindowsState(), Noticed(What.POWER_SOURCE, 0), Noticed(What.POWER_SOURCE, 1))[0].touched_at is None


def test_a_word_said_again_keeps_its_time_and_one_that_says_nothing_takes_it_back() -> None:
    state, _ = told(WindowsState(), *[Noticed(What.GLOBAL_PRESENCE, 2)] * 3)
    assert state.everywhere == UserPresence(False, 100)
    assert told(state, Noticed(What.GLOBAL_PRESENCE, 3))[0].everywhere is None


def test_sessions_are_news_always_and_signs_only_by_a_hand() -> None:
    for event, touched in ((LOGON, 100), (LOGOFF, 100), (UNLOCK, 100), (REMOTE_CONNECT, 100), (LOCK, None),
                           (CONSOLE_DISCONNECT, None), (0xA, None)):  # fmt: skip
        state, news = told(WindowsState(), Noticed(What.SESSION, event, 4))
        assert (state.touched_at, news) == (touched, [True]), event


def test_locks_are_kept_for_each_session_until_it_ends() -> None:
    state, _ = told(WindowsState(), Noticed(What.SESSION, LOCK, 2), Noticed(What.SESSION, UNLOCK, 1))
    assert state.locks == ((1, False), (2, True))
    assert told(state, Noticed(What.SESSION, LOGOFF, 2))[0].locks == ((1, False),)


def test_sleep_and_the_end_come_and_are_over() -> None:
    state, news = told(WindowsState(), Noticed(What.SUSPEND))
    assert (state.ending, news) == (Ending.SLEEP, [True])
    woken, news = told(state, Noticed(What.RESUME, 0))
    assert (woken.ending, woken.touched_at, news) == (None, None, [True])
    assert told(state, Noticed(What.RESUME, 1))[0].touched_at == 100
    asked, _ = told(WindowsState(), Noticed(What.QUERY_END))
    assert asked.ending is Ending.SHUTDOWN
    assert told(asked, Noticed(What.END, 0))[0].ending is None
    assert told(asked, Noticed(What.END, 1))[0].ending is Ending.SHUTDOWN


# -- values


def test_sessions_of_people_are_those_with_a_name_or_one_we_may_not_know() -> None:
    rows = (
        RawSession(0, "Services", 4, ""),
        RawSession(1, "Console", 0, "ada", 1),
        RawSession(2, "RDP-Tcp#3", 0, "bob", 0),
        RawSession(3, "", 4, "eve", None),
        RawSession(4, "Console", 1, ""),
        RawSession(5, "Console", 1, None),
        RawSession(6, "RDP-Tcp", 6, ""),
        RawSession(7, "", 0, None),
    )
    assert people(rows) == (
        WindowsSession(1, True, False, False),
        WindowsSession(2, True, True, True),
        WindowsSession(3, False, False, True),
        WindowsSession(7, True, True, None),
    )


def test_a_lock_flag_is_read_from_level_1_only() -> None:
    for flag, meant in ((0, 0), (1, 1), (-1, None)):
        assert lock_flag_of(struct.pack("<IIIIi", 1, 0, 2, 0, flag)) == meant
    assert lock_flag_of(struct.pack("<IIIIi", 2, 0, 2, 0, 0)) is None
    assert lock_flag_of(b"short") is None


def test_a_filled_screen_a_free_one_and_one_that_does_not_tell() -> None:
    assert [full_screen_of(state) for state in range(1, 9)] == [False, True, True, True, False, False, None, None]


def test_who_keeps_the_screen_on_is_somebody() -> None:
    assert watching_of(0x1 | 0x4) == ()
    assert watching_of(0x2) == ("a program that keeps the screen on",)


@pytest.mark.parametrize(
    ("ac", "flag", "percent", "meant"),
    [
        (1, 128, 255, WindowsPower(False, None)),
        (255, 128, 255, WindowsPower(False, None)),
        (0, 1, 80, WindowsPower(True, 80.0)),
        (1, 8, 100, WindowsPower(False, 100.0)),
        (255, 255, 255, WindowsPower(None, None)),
        (0, 255, 40, WindowsPower(True, 40.0)),
    ],
)
def test_power_is_on_mains_on_battery_or_unknown(ac: int, flag: int, percent: int, meant: WindowsPower) -> None:
    assert power_of(ac, flag, percent) == meant


def test_costs_and_radios_of_the_network() -> None:
    assert [metered_of(cost) for cost in (0, 1, 2, 4, 1 | 0x40000, 1 | 0x80000)] == [None, False, *[True] * 4]
    assert wireless_of(71 << 48 | 5 << 24)
    assert not wireless_of(6 << 48 | 1 << 24)


def test_the_load_of_others_leaves_out_idle_time_and_ours() -> None:
    before = Times(100, 200, 10)
    assert others_share(before, Times(104, 210, 13)) == pytest.approx(0.3)
    assert others_share(before, Times(104, 210, 30)) == 0.0
    assert others_share(before, before) is None


def test_programs_are_known_by_name_whatever_the_case() -> None:
    assert running_of(("MATLAB", "vlc.exe", "x"), ("matlab.exe", "VLC.EXE")) == ("MATLAB", "vlc.exe")


# -- what they say together


def facts(**given_: object) -> WindowsFacts:
    base: dict[str, object] = {
        "own_session": 1, "last_input_seconds": 50.0, "sessions": (OURS,), "state": WindowsState(), "now": 1000.0,
        "full_screen": False,
    }  # fmt: skip
    return WindowsFacts(**(base | given_))  # type: ignore[arg-type]


def test_alone_in_its_own_session_last_input_tells() -> None:
    reading = combine(facts())
    assert (reading.logged_in, reading.idle_seconds, reading.locked, reading.remote) == (True, 50.0, False, False)
    assert reading.faults == ()
    assert reading.sources == ("last input in session 1 50 s", "sessions: 1")


def test_presence_that_windows_has_not_taken_back_does_not_overrule_last_input_but_counts_for_others() -> None:
    here = WindowsState(everywhere=UserPresence(True, 900.0))
    assert combine(facts(state=here)).idle_seconds == 50.0
    assert combine(facts(state=here, sessions=(OURS, GUEST))).idle_seconds == 0.0
    assert combine(facts(state=here, own_session=0, last_input_seconds=None)).idle_seconds == 0.0


def test_a_session_that_nobody_can_see_makes_idle_time_unknown_unless_somebody_is_busy_now() -> None:
    reading = combine(facts(sessions=(OURS, GUEST)))
    assert (reading.idle_seconds, reading.remote) == (None, True)
    assert "user presence: got nothing" in reading.faults[0]
    assert combine(facts(sessions=(OURS, GUEST), last_input_seconds=0.5)).idle_seconds == 0.5
    assert combine(facts(sessions=None)).idle_seconds is None
    assert combine(facts(sessions=None)).logged_in is None
    assert combine(facts(sessions=())).idle_seconds is None, "somebody may be at the login screen"


def test_a_service_is_idle_since_windows_said_so_and_by_no_other_word() -> None:
    quiet = WindowsState(everywhere=UserPresence(False, 700.0))
    service = facts(own_session=0, last_input_seconds=9999.0, state=quiet, full_screen=False)
    assert combine(service).idle_seconds == 300.0
    assert combine(service).full_screen is None
    assert combine(facts(own_session=0, sessions=(PARKED,), state=quiet)).full_screen is False
    touched = WindowsState(everywhere=UserPresence(False, 700.0), touched_at=995.0)
    assert combine(facts(own_session=0, state=touched)).idle_seconds == 5.0


def test_disconnected_sessions_are_logged_in_locked_and_watched_by_nobody() -> None:
    reading = combine(facts(sessions=(OURS, PARKED)))
    assert (reading.logged_in, reading.idle_seconds, reading.locked) == (True, 50.0, False)
    assert combine(facts(sessions=(PARKED,), state=WindowsState(everywhere=UserPresence(False, 0.0)))).locked is True
    assert "sessions: 2, 1 disconnected" in reading.sources


def test_locks_come_from_windows_and_a_helper_can_only_deny_them() -> None:
    unknown = WindowsSession(1, True, False, None)
    assert combine(facts(sessions=(unknown,))).locked is None
    locked = facts(sessions=(unknown,), state=WindowsState(locks=((1, True),)))
    assert combine(locked).locked is True
    liar, denier = SessionReading("x", locked=True), SessionReading("x", locked=False)
    assert combine(facts(sessions=(unknown,), helpers=(liar,))).locked is None
    assert (
        combine(facts(sessions=(unknown,), state=WindowsState(locks=((1, True),)), helpers=(denier,))).locked is False
    )
    assert combine(facts(sessions=())).locked is None


def test_the_screen_is_filled_if_anybody_says_so() -> None:
    assert combine(facts(full_screen=None)).full_screen is None
    assert combine(facts(helpers=(SessionReading("x", full_screen=True),))).full_screen is True
    assert combine(facts(helpers=(SessionReading("x"),))).full_screen is None


def test_the_lid_the_end_what_keeps_awake_and_faults_are_passed_on() -> None:
    state = WindowsState(lid_open=False, ending=Ending.SLEEP, own=UserPresence(False, 900.0))
    reading = combine(facts(state=state, watching=("a film",), faults=("x",)))
    assert (reading.lid_closed, reading.ending, reading.watching, reading.faults) == (
        True, Ending.SLEEP, ("a film",), ("x",),
    )  # fmt: skip
    assert "user presence in this session: inactive for 100 s" in reading.sources


@given(
    own=st.sampled_from([None, 0, 1]),
    last=st.none() | st.floats(0, 1e6),
    sessions=st.none() | st.lists(st.sampled_from([OURS, GUEST, PARKED]), unique=True).map(tuple),
    everywhere=st.none() | st.builds(UserPresence, st.booleans(), st.floats(0, 1000)),
    touched_at=st.none() | st.floats(0, 1000),
    idle=st.none() | st.floats(0, 1e6),
)
def test_idle_time_never_exceeds_any_source_and_a_helper_never_raises_it(
    own: int | None,
    last: float | None,
    sessions: tuple[WindowsSession, ...] | None,
    everywhere: UserPresence | None,
    touched_at: float | None,
    idle: float | None,
) -> None:
    known = facts(
        own_session=own,
        last_input_seconds=last,
        sessions=sessions,
        state=WindowsState(everywhere=everywhere, touched_at=touched_at),
    )
    without = combine(known).idle_seconds
    helped = combine(facts(**{**_fields(known), "helpers": (SessionReading("x", idle_seconds=idle),)})).idle_seconds
    if without is not None:
        assert touched_at is None or without <= 1000 - touched_at
        assert own == 0 or last is None or without <= last
        assert helped is not None and helped <= without
    else:
        assert helped is None or helped < 1.0


def _fields(known: WindowsFacts) -> dict[str, object]:
    return {name: getattr(known, name) for name in known.__struct_fields__}
