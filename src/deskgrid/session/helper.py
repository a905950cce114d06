"""The helper in a session: tells the agent what its eyes see, at each change and every 20 seconds; every 5 while there
is input, because the agent takes it that time without a word is time without input.

Rules:
- It has no right beyond those of its account, and the agent believes it only what makes the computer count as used.
- A helper that dies is no harm: what it said is forgotten with its connection. Without an agent it waits for one.
- It ends when its session does: when no eye sees anything any more.
"""

import logging
import os
import selectors
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from deskgrid.model.presence import SessionReading
from deskgrid.model.values.text import plain
from deskgrid.session.client import AgentClient, NoAgent, ask
from deskgrid.session.eyes import QUIET_SECONDS, Eye, Say
from deskgrid.session.sentences import headline, wall
from deskgrid.session.session_bus import BusEye, bus_path
from deskgrid.session.wayland import WaylandEye, wayland_path
from deskgrid.wire.local import AskFinish, AskPause, AskResume, AskStatus, Now, Question, Tell

log = logging.getLogger("deskgrid.session")
BEAT_SECONDS, BUSY_BEAT_SECONDS = 20.0, 5.0
_SAME_SECONDS = 1.0


def eyes_of_this_session(say: Say) -> list[Eye]:
    """All that can be looked with here."""
    found: list[Eye] = []
    if (bus := bus_path()) is not None:
        found.append(BusEye(bus, say))
    makers: list[Callable[[], Eye]] = []
    if (compositor := wayland_path()) is not None:
        makers.append(lambda: WaylandEye(compositor, say))
    elif screen := os.environ.get("DISPLAY", ""):
        makers.append(lambda: _x11(screen, say))
    for make in makers:
        try:
            found.append(make())
        except (OSError, ImportError) as error:
            log.warning("%s", error)
    return found


def _x11(screen: str, say: Say) -> Eye:
    from deskgrid.session.x11 import X11Eye

    return X11Eye(screen, say)


def sign_of_this_session(
    tried: Sequence[Path], now: Callable[[], datetime], open_page: Callable[[], None]
) -> list[Eye]:
    """The sign in the tray, if this session has a bus."""
    from deskgrid.session.tray import Sign, Tray

    def sign() -> Sign:
        try:
            answer = ask(tried, AskStatus())
        except NoAgent:
            return Sign("No agent runs here.", "", "computer", False)
        if not isinstance(answer, Now):
            return Sign("The agent does not answer.", "", "computer", False)
        what, because = headline(answer.status, wall(now(), answer.status.zone))
        icon = "media-playback-pause" if answer.status.wish else "system-run" if answer.status.vms else "computer"
        return Sign(plain(what), plain(because), icon, bool(answer.status.vms))

    def say(question: Question) -> None:
        with suppress(NoAgent):
            ask(tried, question)

    if (path := bus_path()) is None:
        return []
    try:
        return [Tray(path, sign, menu(say, now, open_page))]
    except OSError as error:
        log.info("%s", error)
        return []


def menu(
    say: Callable[[Question], None], now: Callable[[], datetime], open_page: Callable[[], None]
) -> tuple[tuple[str, Callable[[], None]], ...]:
    """Return the lines of the sign's menu and what each does: the same as the page's buttons."""
    return (
        ("What runs here, and why", open_page),
        ("Pause for 1 hour", lambda: say(AskPause(now() + timedelta(hours=1)))),
        ("Pause until I resume", lambda: say(AskPause())),
        ("Let it finish, start nothing new", lambda: say(AskFinish())),
        ("Resume", lambda: say(AskResume())),
    )


class Helper:
    """Looks and tells until its session ends.

    Args:
        tried: where the agent may listen. eyes: makes the eyes, given whom to tell.
        beside: what is tended beside them while they see something, such as a sign in the tray.
    """

    def __init__(
        self,
        tried: Sequence[Path],
        eyes: Callable[[Say], list[Eye]] = eyes_of_this_session,
        beat_seconds: float = BEAT_SECONDS,
        beside: Sequence[Eye] = (),
    ) -> None:
        self._tried, self._beat = tried, beat_seconds
        self._selector = selectors.DefaultSelector()
        self._agent: AgentClient | None = None
        self._told: dict[str, tuple[SessionReading, float]] = {}
        self._stopping = False
        self._beat_at = 0.0
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._eyes = eyes(self._say)
        self._beside = list(beside)
        for eye in (*self._eyes, *self._beside):
            self._selector.register(eye.fileno(), selectors.EVENT_READ, eye)

    def run(self) -> None:
        """Until no eye sees anything any more."""
        while self._eyes and not self._stopping:
            now = time.monotonic()
            if now >= self._beat_at:
                self._connect()
                for eye in (*self._eyes, *self._beside):
                    eye.look()
                self._beat_at = now + (min(self._beat, BUSY_BEAT_SECONDS) if self._in_use() else self._beat)
            for ready, _ in self._selector.select(max(0.0, self._beat_at - time.monotonic())):
                if isinstance(ready.data, AgentClient):
                    self._lose()  # it says nothing unasked: it has ended
            used = self._in_use()
            for eye in (*self._eyes, *self._beside):
                eye.tend()
                if eye.over:
                    self._shut(eye)
            if self._in_use() and not used:
                self._beat_at = min(self._beat_at, time.monotonic() + BUSY_BEAT_SECONDS)

    def stop(self) -> None:
        """End `run`; for another thread."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Let all go."""
        self._lose()
        for eye in (*self._eyes, *self._beside):
            self._shut(eye)
        self._selector.close()
        os.close(self._bell)

    def _say(self, reading: SessionReading) -> None:
        before, at = self._told.get(reading.source, (None, 0.0))
        now = time.monotonic()
        if self._agent is None or (before == reading and now - at < _SAME_SECONDS):
            return
        try:
            self._agent.say(Tell(reading))
        except NoAgent:
            self._lose()
            return
        self._told[reading.source] = (reading, now)

    def _in_use(self) -> bool:
        idle = [reading.idle_seconds for reading, _ in self._told.values() if reading.idle_seconds is not None]
        return bool(idle) and min(idle) < QUIET_SECONDS

    def _connect(self) -> None:
        if self._agent is not None:
            return
        try:
            self._agent = AgentClient(self._tried)
        except NoAgent as error:
            log.info("%s", error)
            return
        self._told.clear()
        self._selector.register(self._agent.link, selectors.EVENT_READ, self._agent)

    def _lose(self) -> None:
        if self._agent is not None:
            self._selector.unregister(self._agent.link)
            self._agent.link.close()
            self._agent = None

    def _shut(self, eye: Eye) -> None:
        for some in (self._eyes, self._beside):
            if eye in some:
                some.remove(eye)
        with suppress(KeyError, ValueError):
            self._selector.unregister(eye.fileno())
        eye.close()
