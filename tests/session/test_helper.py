"""The helper tells what goes on in a session, at once, and does no harm when anything around it goes away."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deskgrid.model.presence import SessionReading
from deskgrid.session.eyes import Eye, Say
from deskgrid.session.helper import Helper, menu
from deskgrid.session.session_bus import BusEye
from deskgrid.wire.local import AskFinish, AskPause, AskResume
from tests.waiting import eventually

from .desktop import Ear, ear
from .desktop_bus import POWER, POWER_PATH, Gnome, Peer, SessionBus, needs_bus

pytestmark = needs_bus


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Ear]:
    with ear(tmp_path) as made:
        yield made


@pytest.fixture
def gnome(bus: SessionBus) -> Iterator[Gnome]:
    made = Gnome(bus)
    yield made
    made.close()


class Running:
    """A helper at work, and what the agent last heard from each of its eyes."""

    def __init__(self, path: Path, agent: Ear, eyes: Callable[[Say], list[Eye]], beat_seconds: float = 20.0) -> None:
        self.agent = agent
        self.heard: list[SessionReading | None] = []
        self.helper = Helper((path,), eyes, beat_seconds)
        self.thread = threading.Thread(target=self.helper.run, daemon=True)
        self.thread.start()

    def last(self, source: str) -> SessionReading | None:
        while not self.agent.told.empty():
            self.heard.append(self.agent.told.get()[1])
        return next((one for one in reversed(self.heard) if one and one.source == source), None)

    def idle(self, source: str = "mutter") -> float | None:
        said = self.last(source)
        return said.idle_seconds if said else None


@pytest.fixture
def helps(agent: Ear) -> Iterator[Callable[..., Running]]:
    made: list[Running] = []

    def make(eyes: Callable[[Say], list[Eye]], beat_seconds: float = 20.0) -> Running:
        made.append(Running(agent.path, agent, eyes, beat_seconds))
        return made[-1]

    yield make
    for one in made:
        one.helper.stop()
    for one in made:
        one.thread.join(30)
        one.helper.close()


def on_bus(bus: SessionBus) -> Callable[[Say], list[Eye]]:
    return lambda say: [BusEye(bus.path, say)]


def test_how_long_there_was_no_input_is_told(helps: Callable[..., Running], bus: SessionBus, gnome: Gnome) -> None:
    gnome.away(300)
    running = helps(on_bus(bus), 1.0)
    eventually(lambda: (running.idle() or 0) >= 300)


def test_the_first_key_after_a_quiet_time_is_told_at_once(
    helps: Callable[..., Running], bus: SessionBus, gnome: Gnome
) -> None:
    gnome.away(300)
    running = helps(on_bus(bus), 600.0)  # no beat helps
    eventually(lambda: (running.idle() or 0) >= 300)
    eventually(lambda: len(gnome.active_watches) >= 1)
    for _ in range(2):
        gnome.input()
        eventually(lambda: running.idle() is not None and (running.idle() or 0) < 10)  # a question may be under way
        gnome.away(11)
        eventually(lambda: (running.idle() or 0) >= 10)
        eventually(lambda: len(gnome.active_watches) >= 1)


def test_while_there_is_input_the_beat_is_quicker(helps: Callable[..., Running], bus: SessionBus, gnome: Gnome) -> None:
    running = helps(on_bus(bus), 600.0)
    eventually(lambda: running.idle() is not None)
    eventually(lambda: running.helper._beat_at - time.monotonic() <= 5.5)  # of 600: it is set after what it told


def test_a_film_is_told_when_it_begins_and_when_it_ends(
    helps: Callable[..., Running], bus: SessionBus, gnome: Gnome
) -> None:
    early = gnome.inhibit("org.gnome.Totem", "Playing a film")
    running = helps(on_bus(bus), 600.0)
    eventually(
        lambda: (
            running.last("inhibitors") == SessionReading("inhibitors", watching=("org.gnome.Totem: Playing a film",))
        )
    )
    gnome.inhibit("backup", "no logout please", flags=1)
    talk = gnome.inhibit("Impress", "A talk", flags=12)
    eventually(lambda: _watching(running) == ("org.gnome.Totem: Playing a film", "Impress: A talk"))
    gnome.uninhibit(early)
    eventually(lambda: _watching(running) == ("Impress: A talk",))
    gnome.uninhibit(talk)
    eventually(lambda: _watching(running) == ())


def _watching(running: Running) -> tuple[str, ...] | None:
    said = running.last("inhibitors")
    return said.watching if said else None


def test_where_there_is_no_gnome_the_power_service_tells_of_films(
    helps: Callable[..., Running], bus: SessionBus
) -> None:
    plasma = Peer(bus, POWER)
    plasma.answers["HasInhibit"] = lambda: ("b", (True,))
    try:
        running = helps(on_bus(bus), 1.0)
        eventually(lambda: _watching(running) == ("a program keeps the screen awake",))
        plasma.signal(POWER_PATH, POWER, "HasInhibitChanged", "b", False)
        eventually(lambda: _watching(running) == ())
    finally:
        plasma.close()


def test_a_desktop_that_ends_is_no_longer_known(helps: Callable[..., Running], bus: SessionBus, gnome: Gnome) -> None:
    gnome.away(300)
    gnome.inhibit("Totem", "A film")
    running = helps(on_bus(bus), 600.0)
    eventually(lambda: (running.idle() or 0) >= 300 and _watching(running))
    gnome.close()
    eventually(lambda: running.last("mutter") == SessionReading("mutter"))
    eventually(lambda: _watching(running) == ())


def test_a_desktop_that_comes_later_is_heard(helps: Callable[..., Running], bus: SessionBus) -> None:
    running = helps(on_bus(bus), 600.0)
    time.sleep(0.2)
    gnome = Gnome(bus)
    try:
        eventually(lambda: running.idle() is not None)
    finally:
        gnome.close()


def test_a_bus_that_restarts_is_found_again(helps: Callable[..., Running], bus: SessionBus, tmp_path: Path) -> None:
    gnome = Gnome(bus)
    running = helps(on_bus(bus), 0.2)
    eventually(lambda: running.idle() is not None)
    bus.close()
    gnome.close()
    eventually(lambda: running.last("mutter") == SessionReading("mutter"))
    again = SessionBus(tmp_path)
    gnome = Gnome(again)
    try:
        eventually(lambda: running.idle() is not None)
    finally:
        gnome.close()
        again.close()


def test_a_service_that_answers_nonsense_makes_idle_time_unknown(
    helps: Callable[..., Running], bus: SessionBus, gnome: Gnome
) -> None:
    gnome.answers["GetIdletime"] = lambda: ("s", ("soon",))
    running = helps(on_bus(bus), 1.0)
    eventually(lambda: running.last("mutter") == SessionReading("mutter"))
    gnome.answers.pop("GetIdletime")
    heard = len(running.heard)
    eventually(lambda: running.idle() is None and len(running.heard) > heard + 2)


def test_an_agent_that_restarts_is_told_again(
    helps: Callable[..., Running], bus: SessionBus, gnome: Gnome, agent: Ear, tmp_path: Path
) -> None:
    running = helps(on_bus(bus), 0.3)
    eventually(lambda: running.idle() is not None)
    agent.server.close()
    with ear(tmp_path) as second:
        running.agent, running.heard = second, []
        eventually(lambda: running.idle() is not None)


def test_a_helper_that_is_killed_leaves_no_word_behind(
    helps: Callable[..., Running], bus: SessionBus, gnome: Gnome
) -> None:
    running = helps(on_bus(bus))
    eventually(lambda: running.idle() is not None)
    running.helper.stop()
    running.helper._lose()
    eventually(lambda: (running.last("none"), running.heard[-1])[1] is None)


def test_a_helper_without_anything_to_see_ends(helps: Callable[..., Running]) -> None:
    running = helps(lambda say: [])
    running.thread.join(30)
    assert not running.thread.is_alive()


def test_each_line_of_the_menu_asks_what_it_says() -> None:
    now = datetime(2026, 3, 2, 12, tzinfo=UTC)
    said: list[object] = []
    for text, act in menu(said.append, lambda: now, lambda: said.append("page")):
        said.append(text)
        act()
    assert said == [
        "What runs here, and why",
        "page",
        "Pause for 1 hour",
        AskPause(now + timedelta(hours=1)),
        "Pause until I resume",
        AskPause(),
        "Let it finish, start nothing new",
        AskFinish(),
        "Resume",
        AskResume(),
    ]
