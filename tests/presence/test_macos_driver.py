"""The macOS driver where there is no macOS: all is unknown, says why, and nothing breaks."""

import sys
import threading
import time

import pytest

from deskgrid.model.presence import SessionReading
from deskgrid.presence.macos.presence import LAZY_SECONDS, MacPresence
from tests.waiting import SOON_SECONDS

pytestmark = pytest.mark.skipif(sys.platform == "darwin", reason="here its calls would be answered")


def test_where_nothing_answers_all_is_unknown_and_each_source_says_why() -> None:
    reading = MacPresence().read()
    assert (reading.logged_in, reading.idle_seconds, reading.full_screen) == (None, None, None)
    assert len([fault for fault in reading.faults if "expected to be read" in fault]) >= 5


def test_a_helpers_word_is_told_and_counts_and_grows_with_time() -> None:
    driver, told = MacPresence(), threading.Event()
    driver.watch(told.set)
    driver.told(501, SessionReading("helper", idle_seconds=0.0, full_screen=True))
    assert told.wait(SOON_SECONDS)
    reading = driver.read()
    assert reading.full_screen is True
    assert any(source.startswith("helper") for source in reading.sources)
    driver.told(501, None)
    assert driver.read().full_screen is None
    driver.close()
    driver.close()


def test_while_nothing_runs_it_looks_seldom() -> None:
    driver = MacPresence()
    driver.pace(running=False)
    assert driver._tick_seconds() == LAZY_SECONDS
    driver.pace(running=True)
    assert driver._tick_seconds() < 1.0
    driver.ready_to_end()
    assert driver.metered() is None


def test_closing_ends_its_thread() -> None:
    driver = MacPresence()
    driver.watch(lambda: None)
    driver.close()
    time.sleep(0.01)
    assert not [thread for thread in threading.enumerate() if thread.name == "presence-teller"]
