"""The Windows driver, told by SendInput and by the messages that Windows would send."""

import ctypes
import threading
import time
from collections.abc import Iterator
from ctypes import c_int, c_void_p

import pytest

from deskgrid.model.presence import Ending, SessionReading
from deskgrid.presence.windows import calls
from deskgrid.presence.windows.calls import function
from deskgrid.presence.windows.events import LOCK, LOGON, PBT_APMSUSPEND, UNLOCK, WM_POWERBROADCAST, What
from deskgrid.presence.windows.presence import WindowsPresence
from tests.waiting import Calls
from tests.windows.inside.hands import move_mouse, press_key, send, session, setting

QUERY_END, END, CLOSE = 0x11, 0x16, 0x10


@pytest.fixture
def driver() -> Iterator[WindowsPresence]:
    made = WindowsPresence()
    yield made
    made.close()


@pytest.fixture
def service() -> Iterator[WindowsPresence]:
    made = WindowsPresence(own_session=0)
    yield made
    made.close()


def idle(driver: WindowsPresence) -> float:
    seconds = driver.read().idle_seconds
    assert seconds is not None
    return seconds


def test_idle_time_of_its_own_session_grows_until_a_key_or_the_mouse_moves(driver: WindowsPresence) -> None:
    for hand in (press_key, move_mouse):
        hand()
        before = idle(driver)
        time.sleep(1.2)
        assert idle(driver) >= before + 1.0
        hand()
        assert idle(driver) < 1.2


def test_raw_input_wakes_it_sooner_than_looking_would(driver: WindowsPresence) -> None:
    told = Calls()
    driver.watch(told)
    waits = []
    for turn in range(1, 9):
        time.sleep(0.3)
        before, at = len(told.times), time.monotonic()
        (press_key if turn % 2 else move_mouse)()
        assert told.wait(before + 1)
        waits.append(told.times[-1] - at)
    print("from SendInput to the call, ms:", sorted(round(1000 * wait, 1) for wait in waits))
    assert sorted(waits)[3] < 0.1, "half of them sooner than any look could be"


def test_it_names_its_sources_and_has_no_faults(driver: WindowsPresence) -> None:
    reading = driver.read()
    assert reading.logged_in is True
    assert reading.remote is False
    assert reading.faults == ()
    assert any("last input" in source for source in reading.sources)
    assert "sessions: 1" in reading.sources


def test_a_lock_and_an_unlock_are_told_and_seen(driver: WindowsPresence) -> None:
    own = calls.own_session()
    told = Calls()
    driver.watch(told)
    assert driver.read().locked is None, "Wine does not say whether a session is locked"
    session(driver, LOCK, own)
    assert told.wait(1)
    assert driver.read().locked is True
    session(driver, UNLOCK, own)
    assert told.wait(2)
    assert driver.read().locked is False
    assert idle(driver) < 5


def test_sleep_the_end_of_the_session_and_that_being_taken_back_are_told(driver: WindowsPresence) -> None:
    told = Calls()
    driver.watch(told)
    assert driver.read().ending is None
    assert send(driver, WM_POWERBROADCAST, PBT_APMSUSPEND) == 1
    assert told.wait(1)
    assert driver.read().ending is Ending.SLEEP
    send(driver, WM_POWERBROADCAST, 0x12)
    assert driver.read().ending is None
    assert send(driver, QUERY_END) == 1, "it does not hinder the shutdown"
    assert driver.read().ending is Ending.SHUTDOWN
    send(driver, END, 0)
    assert driver.read().ending is None
    driver.pace(running=False)  # else it would keep us waiting
    send(driver, QUERY_END)
    send(driver, END, 1)
    assert driver.read().ending is Ending.SHUTDOWN


def test_the_lid_and_the_plug_are_told_when_they_change_not_when_first_heard_of(driver: WindowsPresence) -> None:
    told = Calls()
    driver.watch(told)
    setting(driver, What.LID, 1)
    setting(driver, What.POWER_SOURCE, 0)
    setting(driver, What.BATTERY, 80)
    time.sleep(0.3)
    assert told.times == []
    setting(driver, What.LID, 0)
    assert told.wait(1)
    assert driver.read().lid_closed
    setting(driver, What.POWER_SOURCE, 1)
    assert told.wait(2)


def test_a_service_knows_nothing_until_windows_tells_it_and_then_follows(service: WindowsPresence) -> None:
    reading = service.read()
    assert reading.idle_seconds is None
    assert reading.full_screen is None
    assert "user presence: got nothing" in reading.faults[-1]
    setting(service, What.GLOBAL_PRESENCE, 0)
    assert service.read().idle_seconds == 0
    setting(service, What.GLOBAL_PRESENCE, 2)
    time.sleep(0.5)
    assert 0.4 < idle(service) < 5
    assert any("inactive" in source for source in service.read().sources)
    told = Calls()
    service.watch(told)
    setting(service, What.GLOBAL_PRESENCE, 0)
    assert told.wait(1)
    assert idle(service) == 0


def test_somebody_logging_on_is_told_to_a_service(service: WindowsPresence) -> None:
    setting(service, What.GLOBAL_PRESENCE, 2)
    told = Calls()
    service.watch(told)
    session(service, LOGON, 7)
    assert told.wait(1)
    assert idle(service) < 1


def test_the_screen_is_asked_in_a_session_and_told_by_a_helper_to_a_service() -> None:
    driver = WindowsPresence(own_session=0)
    try:
        driver.told(1, SessionReading("helper", idle_seconds=500.0, full_screen=True))
        assert driver.read().full_screen is True
        driver.told(1, None)
        assert driver.read().full_screen is None
    finally:
        driver.close()


def test_sleep_waits_until_the_virtual_machines_are_stopped_but_not_for_ever(driver: WindowsPresence) -> None:
    driver.watch(driver.ready_to_end)
    started = time.monotonic()
    send(driver, WM_POWERBROADCAST, PBT_APMSUSPEND)
    quick = time.monotonic() - started
    driver.watch(lambda: None)
    send(driver, WM_POWERBROADCAST, 0x12)
    started = time.monotonic()
    send(driver, WM_POWERBROADCAST, PBT_APMSUSPEND)
    slow = time.monotonic() - started
    assert quick < slow
    assert 1.4 < slow < 10
    driver.pace(running=False)
    send(driver, WM_POWERBROADCAST, 0x12)
    started = time.monotonic()
    send(driver, WM_POWERBROADCAST, PBT_APMSUSPEND)
    assert time.monotonic() - started < 1.4, "nothing runs, nothing to wait for"


def test_while_nothing_runs_input_does_not_wake_it_but_is_read_and_told_later(driver: WindowsPresence) -> None:
    told = Calls()
    driver.watch(told)
    driver.pace(running=False)
    time.sleep(0.5)
    told.times.clear()
    move_mouse()
    assert idle(driver) < 2
    assert told.wait(1)


def test_another_program_can_neither_close_its_window_nor_trip_it_with_a_wild_pointer(driver: WindowsPresence) -> None:
    told = Calls()
    driver.watch(told)
    send(driver, CLOSE)
    send(driver, WM_POWERBROADCAST, 0x8013, 16)
    send(driver, WM_POWERBROADCAST, 0x8013, 0)
    move_mouse()
    assert told.wait(1)
    assert driver.read().faults == ()


def test_closing_takes_the_window_and_its_threads_away() -> None:
    driver = WindowsPresence()
    driver.watch(lambda: None)
    window = driver.window
    is_window = function("user32", "IsWindow", c_int, c_void_p)
    assert is_window(window)
    driver.close()
    assert not is_window(window)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("presence")]


def test_many_drivers_may_come_and_go_in_one_process() -> None:
    for _ in range(5):
        driver = WindowsPresence()
        driver.read()
        driver.close()


def test_a_call_that_windows_lacks_is_an_error_with_its_name() -> None:
    with pytest.raises(OSError, match=r"NoSuchCall: not in this Windows' user32\.dll"):
        function("user32", "NoSuchCall", c_int)


def test_what_each_call_answers_here() -> None:
    """Kept for the table in docs/platforms.md: run with -s."""
    answers = {
        "own_session": calls.own_session(),
        "sessions": calls.sessions(),
        "notification_state": calls.notification_state(),
        "execution_state": calls.execution_state(),
        "power": calls.power(),
        "error": ctypes.FormatError(5),
    }
    print(answers)
    assert all(answer is not None for answer in answers.values())
