"""The thread that waits for signs: it lives, it rests, it ends."""

import os
import threading
import time

import pytest

from deskgrid.presence.listener import REST_SECONDS, Listener


def test_a_source_that_fails_counts_as_a_sign_and_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[float] = []
    told = threading.Semaphore(0)

    def notice() -> bool:
        looks.append(time.monotonic())
        if len(looks) == 1:
            raise OSError(24, "Too many open files")
        return len(looks) == 2

    listener = Listener([], notice, lambda: None, told.release)
    assert told.acquire(timeout=3)
    assert told.acquire(timeout=5)
    assert looks[1] - looks[0] >= 0.9  # it doesn't spin
    assert "Too many open files" in caplog.text
    listener.close()


def test_it_looks_only_when_woken_or_when_its_time_has_come() -> None:
    looks: list[float] = []
    ready, tell = os.pipe()
    listener = Listener([ready], lambda: bool(looks.append(time.monotonic())), lambda: None, lambda: None)
    time.sleep(0.3)
    assert len(looks) == 1
    listener.wake()
    time.sleep(0.1)
    assert 2 <= len(looks) <= 3
    listener.close()
    looks.clear()
    listener = Listener([], lambda: bool(looks.append(time.monotonic())), lambda: 0.05, lambda: None)
    time.sleep(0.5)
    assert 3 <= len(looks) <= 11
    listener.close()
    os.close(ready)
    os.close(tell)


def test_a_descriptor_that_is_always_ready_does_not_make_it_spin() -> None:
    looks = 0
    ready, tell = os.pipe()
    os.write(tell, b"x")

    def notice() -> bool:
        nonlocal looks
        looks += 1
        return False

    listener = Listener([ready], notice, lambda: None, lambda: None)
    time.sleep(0.5)
    assert looks <= 110
    listener.close()
    os.close(ready)
    os.close(tell)


def test_closing_does_not_wait_out_the_rest_and_waking_afterwards_does_no_harm() -> None:
    told = threading.Event()
    listener = Listener([], lambda: True, lambda: None, told.set)
    assert told.wait(3)
    started = time.monotonic()
    listener.close()
    assert time.monotonic() - started < REST_SECONDS
    listener.wake()
    listener.close()
