"""The thread that tells of signs."""

import threading
import time

import pytest

from deskgrid.presence.notifier import Notifier
from tests.waiting import SOON_SECONDS, Calls


def test_rings_are_told_at_most_ten_times_a_second_and_the_last_is_not_lost() -> None:
    calls = Calls()
    teller = Notifier(calls)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        teller.ring()
        time.sleep(0.002)
    last = time.monotonic()
    teller.ring()
    while calls.times[-1] < last - 0.01 and time.monotonic() < last + SOON_SECONDS:
        time.sleep(0.01)
    teller.close()
    assert calls.times[-1] >= last - 0.01
    assert min(later - earlier for earlier, later in zip(calls.times, calls.times[1:], strict=False)) > 0.09


def test_it_looks_by_itself_when_it_is_time_and_tells_only_signs() -> None:
    calls, looks = Calls(), iter([False, False, True, *[False] * 10_000])
    teller = Notifier(calls, lambda: next(looks), lambda: 0.01)
    assert calls.wait(1)
    time.sleep(0.2)
    teller.close()
    assert len(calls.times) == 1


def test_a_look_that_fails_counts_as_a_sign_and_neither_it_nor_the_callback_ends_the_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = Calls()

    def changed() -> None:
        calls()
        raise RuntimeError("the agent has a bug")

    def look() -> bool:
        raise OSError("blind")

    teller = Notifier(changed, look, lambda: 0.01)
    assert calls.wait(2)
    teller.close()
    assert "blind" in caplog.text and "the agent has a bug" in caplog.text


def test_it_may_be_closed_from_its_own_callback() -> None:
    closed, made = threading.Event(), threading.Event()

    def changed() -> None:
        made.wait()
        teller.close()
        closed.set()

    teller = Notifier(changed)
    made.set()
    teller.ring()
    assert closed.wait(SOON_SECONDS)
