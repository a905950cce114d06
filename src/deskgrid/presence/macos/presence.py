"""The owner of a Mac: hardware idle time, the own session's, logins, terminals. Never run on a Mac.

Rules:
- Written against Apple's documentation; its pure parts (`macos_values`) are tested, its calls (`macos_calls`) are not.
- macOS tells an account without special permission of no input. So idle time is asked for: every second while
  somebody is busy anyway, every 150 ms once nobody was for 10 s (only then may something run), every 5 s while no
  virtual machine runs or may soon.
- A daemon sees the hardware and all logins; an agent in a session sees, besides, remote control of that session.
- Sleep and shutdown are not heard of, and nothing delays them: see docs/platforms.md.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from deskgrid.model.presence import Reading, SessionReading
from deskgrid.presence.contract import unreadable
from deskgrid.presence.helpers import HelperWords
from deskgrid.presence.macos import calls
from deskgrid.presence.macos.values import Login, MacFacts, combine, hid_seconds_of, quartz_seconds_of, watching_of
from deskgrid.presence.notifier import Notifier

FAST_SECONDS, SLOW_SECONDS, LAZY_SECONDS = 0.15, 1.0, 5.0
BUSY_SECONDS = 10.0
LOGINS_SECONDS = 5.0
_JITTER_SECONDS = 0.5
_Answer = TypeVar("_Answer")


class MacPresence:
    """Presence on macOS.

    Args: dev: where terminals are.
    """

    def __init__(self, dev: Path = Path("/dev")) -> None:
        self._dev = dev
        self._lock = threading.Lock()
        self._helpers = HelperWords()
        self._asked: dict[str, str] = {}
        self._logins: tuple[Login, ...] | None = None
        self._logins_at: float | None = None
        self._seen: tuple[float | None, float, object] | None = None
        self._running = True
        self._teller: Notifier | None = None

    def read(self) -> Reading:
        """What is known now."""
        try:
            with self._lock:
                return combine(self._facts())
        except Exception as error:
            return unreadable(error)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each sign of the owner, and when somebody comes, goes, locks or watches."""
        self.close()
        self._seen = None
        self._look()
        self._teller = Notifier(changed, self._look, self._tick_seconds)

    def close(self) -> None:
        """Stop watching; may be called twice."""
        teller, self._teller = self._teller, None
        if teller is not None:
            teller.close()

    def told(self, uid: int, reading: SessionReading | None) -> None:
        """Take what a helper in a session of this account says; None: it has gone. From any thread."""
        with self._lock:
            self._helpers.take(uid, reading)
        if self._teller is not None:
            self._teller.ring()

    def pace(self, running: bool) -> None:
        """Say whether virtual machines run, or may soon."""
        self._running = running

    def ready_to_end(self) -> None:
        """Nothing waits for it here."""

    def metered(self) -> bool | None:
        """Not known: only Network.framework tells, which has no C interface without blocks."""
        return None

    def _look(self) -> bool:
        """For the teller: whether there was a sign since the last look."""
        reading, now = self.read(), time.monotonic()
        state = (reading.logged_in, reading.locked, reading.watching, reading.lid_closed, reading.full_screen)
        before, self._seen = self._seen, (reading.idle_seconds, now, state)
        if before is None:
            return False
        idle_before, then, state_before = before
        if reading.idle_seconds is None or idle_before is None:
            return reading.idle_seconds is not idle_before or state != state_before
        touched = reading.idle_seconds < idle_before + (now - then) - min(_JITTER_SECONDS, (now - then) / 2)
        return touched or state != state_before

    def _tick_seconds(self) -> float:
        if not self._running:
            return LAZY_SECONDS
        idle = self._seen[0] if self._seen is not None else None
        return SLOW_SECONDS if idle is not None and idle < BUSY_SECONDS else FAST_SECONDS

    def _facts(self) -> MacFacts:
        hid = self._ask("HIDIdleTime", lambda: calls.registry("IOHIDSystem", "HIDIdleTime"))
        quartz = self._ask("Quartz", calls.quartz_seconds)
        logins = self._list_logins()
        levels = self._ask("assertions", calls.assertions)
        lid = self._ask("lid", lambda: calls.registry("IOPMrootDomain", "AppleClamshellState"))
        return MacFacts(
            hid_seconds_of(hid if isinstance(hid, int | bytes) else None),
            None if quartz is None else quartz_seconds_of(quartz),
            logins,
            {one.line: idle for one in logins or () if (idle := self._terminal_seconds(one.line)) is not None},
            self._ask("session", calls.session_locked),
            watching_of(levels or {}),
            lid if isinstance(lid, bool) else None,
            self._helpers.readings(),
            tuple(self._asked.values()),
        )

    def _list_logins(self) -> tuple[Login, ...] | None:
        now = time.monotonic()
        if self._logins_at is None or now - self._logins_at >= LOGINS_SECONDS:
            self._logins, self._logins_at = self._ask("logins", calls.logins), now
        return self._logins

    def _terminal_seconds(self, line: str) -> float | None:
        if line == "console" or "/" in line:
            return None
        try:
            return max(0.0, time.time() - (self._dev / line).stat().st_atime)
        except OSError:
            return None

    def _ask(self, name: str, call: Callable[[], _Answer]) -> _Answer | None:
        """Ask macOS; what it refuses is a fault until it answers."""
        try:
            answer = call()
        except OSError as error:
            self._asked[name] = f"{name}: got {error}, expected to be read"
            return None
        self._asked.pop(name, None)
        return answer
