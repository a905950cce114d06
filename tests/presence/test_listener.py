"""The thread that waits for signs: it lives, it rests, it ends."""

import itertools
import os
import threading
import time

import pytest

from deskgrid.presence.listener import Listener
from tests.waiting import SOON_SECONDS, eventually


def test_a_source_that_fails_counts_as_a_sign_and_does_not_end_the_watch(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[float] = []
    told = threading.Semaphore(0)

    def notice() -> bool:
        looks.append(time.monotonic())
        if len(looks) == 1:
            raise OSError(24, "Too many open files")
        return len(looks) == 2

    listener = Listener([], notice, lambda: None, told.release)
    assert told.acquire(timeout=SOON_SECONDS)
    assert told.acquire(timeout=SOON_SECONDS)
    assert looks[1] - looks[0] >= 0.9  # it doesn't spin
    assert "Too many open files" in caplog.text
    listener.close()


def test_it_looks_only_when_woken_or_when_its_time_has_come() -> None:
    looks: list[float] = []
    ready, tell = os.pipe()
    listener = Listener([ready], lambda: bool(looks.append(time.monotonic())), lambda: None, lambda: None)
    eventually(lambda: looks)
    time.sleep(0.3)
    assert len(looks) == 1
    listener.wake()
    eventually(lambda: len(looks) >= 2)
    time.sleep(0.1)
    assert len(looks) <= 3
    listener.close()
    looks.clear()
    listener = Listener([], lambda: bool(looks.append(time.monotonic())), lambda: 0.05, lambda: None)
    eventually(lambda: len(looks) >= 10)
    listener.close()
    assert min(later - earlier for earlier, later in itertools.pairwise(looks)) > 0.045
    os.close(ready)
    os.close(tell)


def test_a_descriptor_that_is_always_ready_does_not_make_it_spin() -> None:
    looks: list[float] = []
    ready, tell = os.pipe()
    os.write(tell, b"x")
    listener = Listener([ready], lambda: bool(looks.append(time.monotonic())), lambda: None, lambda: None)
    eventually(lambda: len(looks) >= 20)
    listener.close()
    assert looks[19] - looks[0] > 0.08  # every second look follows a breath of 10 ms
    os.close(ready)
    os.close(tell)


def test_closing_does_not_wait_out_the_rest_and_waking_afterwards_does_no_harm() -> None:
    told = threading.Event()
    listener = Listener([], lambda: True, lambda: None, told.set, lambda: 1000.0)
    assert told.wait(SOON_SECONDS)
    listener.close()
    listener.wake()
    listener.close()
