"""On a real X server: time without input, the first input after a quiet time, windows that fill the screen."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deskgrid.model.presence import SessionReading
from deskgrid.session import eyes
from tests.waiting import eventually

from .desktop import ear

Xlib = pytest.importorskip("Xlib", reason="no python-xlib here (pip install deskgrid[x11])")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("Xvfb") is None, reason="no X server here (package xvfb)"),
]


class Screen:
    """An X server without a screen, its eye, and a hand that types."""

    def __init__(self) -> None:
        from Xlib import display

        from deskgrid.session.x11 import X11Eye

        read, write = os.pipe()
        self.server = subprocess.Popen(
            ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"], pass_fds=(write,)
        )
        os.close(write)
        with os.fdopen(read) as file:
            self.name = f":{file.readline().strip()}"
        self.said: list[SessionReading] = []
        self.eye = X11Eye(self.name, self.said.append)
        self.hand = display.Display(self.name)
        self.programs: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        environment = {**os.environ, "DISPLAY": self.name}
        self.programs.append(subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL))
        return self.programs[-1]

    def key(self) -> None:
        from Xlib import X
        from Xlib.ext import xtest

        for kind in (X.KeyPress, X.KeyRelease):
            xtest.fake_input(self.hand, kind, 38)
        self.hand.sync()

    def look(self) -> SessionReading:
        self.eye.look()
        return self.said[-1]

    def close(self) -> None:
        self.eye.close()
        for one in (*self.programs, self.server):
            one.kill()
            one.wait()


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def test_idle_time_grows_and_a_key_ends_it(screen: Screen) -> None:
    screen.key()
    time.sleep(1.2)
    idle = screen.look().idle_seconds
    assert idle is not None and idle >= 1.0
    screen.key()
    later = screen.look().idle_seconds
    assert later is not None and later < idle


def test_the_first_input_after_a_quiet_time_is_told_by_itself_and_then_no_more(screen: Screen) -> None:
    screen.key()
    time.sleep(eyes.QUIET_SECONDS + 0.5)
    said = screen.look()
    assert said.idle_seconds is not None and said.idle_seconds >= eyes.QUIET_SECONDS
    before = len(screen.said)
    screen.key()
    eventually(lambda: (screen.eye.tend(), len(screen.said))[1] > before)
    assert screen.said[-1].idle_seconds == 0.0
    count = len(screen.said)
    for _ in range(20):
        screen.key()
    time.sleep(0.3)
    screen.eye.tend()
    assert len(screen.said) <= count + 1  # while there is input, input does not wake us


@pytest.mark.skipif(
    not (shutil.which("openbox") and shutil.which("xterm")), reason="no window manager here (openbox, xterm)"
)
def test_a_window_that_fills_the_screen_is_told_when_it_comes_and_when_it_goes(screen: Screen) -> None:
    assert screen.look().full_screen is None  # nobody who would know
    screen.start("openbox")
    eventually(lambda: screen.look().full_screen is False)
    screen.start("xterm")
    _told(screen, lambda: len(_windows(screen)) == 1)
    assert screen.look().full_screen is False
    film = screen.start("xterm", "-fullscreen")
    _told(screen, lambda: bool(screen.said) and screen.said[-1].full_screen is True)
    film.kill()
    _told(screen, lambda: screen.said[-1].full_screen is False)


def _told(screen: Screen, what: Callable[[], object]) -> None:
    """It comes true by what the eye is told, without looking."""
    eventually(lambda: (screen.eye.tend(), what())[1])


def _windows(screen: Screen) -> list[int]:
    from Xlib import X

    root = screen.hand.screen().root
    found = root.get_full_property(screen.hand.intern_atom("_NET_CLIENT_LIST"), X.AnyPropertyType)
    return list(found.value) if found else []


def test_a_server_that_ends_ends_the_eye(screen: Screen) -> None:
    screen.server.kill()
    screen.server.wait()
    eventually(lambda: (screen.eye.tend(), screen.eye.look(), screen.eye.over)[2])


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    from deskgrid.session.x11 import X11Eye

    with pytest.raises(OSError, match="X server :4711: "):
        X11Eye(":4711", lambda said: None)


def test_the_command_tells_the_agent_what_the_screen_knows(screen: Screen, tmp_path: Path) -> None:
    with ear(tmp_path) as agent:
        environment = {"PATH": "/usr/bin:/bin", "DISPLAY": screen.name}
        words = [sys.executable, "-m", "deskgrid.session", str(agent.path)]
        with subprocess.Popen(words, env=environment) as helper:
            try:
                said = agent.told.get(timeout=60)[1]
                assert said is not None and said.source == "x11"
                screen.server.kill()
                assert helper.wait(60) == 0  # its session has ended
            finally:
                helper.kill()
        assert agent.told.get(timeout=60)[1] is None


def test_a_session_without_bus_and_screen_has_no_eyes(tmp_path: Path) -> None:
    words = "from deskgrid.session.helper import eyes_of_this_session as e; print(len(e(print)))"
    ended = subprocess.run([sys.executable, "-c", words], env={"PATH": "/usr/bin"}, capture_output=True, text=True)
    assert ended.stdout == "0\n", ended.stderr
