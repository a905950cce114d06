"""The owner of a Windows desktop: sessions, last input, user presence, power and the end, as Windows tells them.

Rules:
- Sources, each a module: `windows/window` (what Windows tells by messages), `windows/calls` (what it answers when
  asked). `windows/events` and `windows/values` say what these mean, `windows/combine` what they mean together.
- Run as a service, or as a task whether somebody is logged on or not, it hears of every session, but sees no screen
  (a helper in the session can tell). Run in a session, it sees that one exactly, and others only as existing.
- Two threads, both asleep: the window's and the one that tells. Once watched, the window wakes once a second as a net,
  every 5 s while no virtual machine runs.
- Sleep and the end of the session are kept waiting until the virtual machines are stopped, as long as Windows waits.
- No privileges: what this account may not read is a fault in the reading.
"""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from deskgrid.model.presence import Reading, SessionReading
from deskgrid.presence.contract import unreadable
from deskgrid.presence.helpers import HelperWords
from deskgrid.presence.notifier import Notifier
from deskgrid.presence.windows import calls, network
from deskgrid.presence.windows.combine import SERVICES, WindowsFacts, combine
from deskgrid.presence.windows.events import Noticed, What, WindowsState, follow
from deskgrid.presence.windows.values import WindowsSession, full_screen_of, idle_seconds_of, people, watching_of
from deskgrid.presence.windows.window import MessageWindow

_Answer = TypeVar("_Answer")
_HOLD_SECONDS = {What.SUSPEND: 1.5, What.END: 4.0}
"""How long sleep and the end of the session are kept waiting for VMs; Windows itself waits for 2 s and 5 s."""
COST_SECONDS = 30.0
SESSIONS_SECONDS = 5.0
"""Sessions are listed anew when Windows tells of a change, and so often."""


class WindowsPresence:
    """Presence on Windows.

    Args:
        own_session: the session that we run in; None: found out. Tests say 0 to hear as a service does.
    """

    def __init__(self, own_session: int | None = None) -> None:
        self._helpers = HelperWords()
        self._lock = threading.Lock()
        self._running = True
        self._ready = threading.Event()
        self._cost: tuple[bool | None, float] | None = None
        self._watching: tuple[str, ...] = ()
        self._state = WindowsState()
        self._teller: Notifier | None = None
        self._asked: dict[str, str] = {}
        self._sessions: tuple[WindowsSession, ...] | None = None
        self._sessions_at: float | None = None
        self._own = self._ask("own session", calls.own_session) if own_session is None else own_session
        self._told_input = self._last_input()
        self._window = MessageWindow(self._noticed, self._stirred)

    @property
    def window(self) -> int | None:
        """The handle of the window that Windows tells."""
        return self._window.handle

    def read(self) -> Reading:
        """What is known now."""
        try:
            with self._lock:
                return combine(self._facts())
        except Exception as error:
            return unreadable(error)

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each sign of the owner, and when sessions, power or the lid change."""
        if self._teller is not None:
            self._teller.close()
        self._told_input = self._last_input()
        self._teller = Notifier(changed)
        self._window.listen(self._running)

    def told(self, uid: int, reading: SessionReading | None) -> None:
        """Take what a helper in a session of this account says; None: it has gone. From any thread.

        Args: uid: any number that stands for the account, such as that of its session.
        """
        with self._lock:
            self._helpers.take(uid, reading)
        self._ring()

    def pace(self, running: bool) -> None:
        """Say whether virtual machines run, or may soon. While none does, input is looked for every 5 s."""
        if running != self._running:
            self._running = running
            if self._teller is not None:
                self._window.listen(running)

    def ready_to_end(self) -> None:
        """All virtual machines are stopped: the computer may sleep or shut down now, as it has announced."""
        self._ready.set()

    def metered(self) -> bool | None:
        """Whether the network connection is metered; None: unknown. Asked of Windows every 30 s."""
        now = time.monotonic()
        if self._cost is None or now - self._cost[1] >= COST_SECONDS:
            self._cost = (network.metered(), now)
        return self._cost[0]

    def close(self) -> None:
        """Stop watching and take the window down; may be called twice."""
        teller, self._teller = self._teller, None
        if teller is not None:
            teller.close()
        self._window.close()

    def _noticed(self, noticed: Noticed) -> None:
        """From the window's thread: Windows told something."""
        with self._lock:
            self._state, news = follow(self._state, noticed, time.monotonic())
            if noticed.what is What.SESSION:
                self._sessions_at = None
        ending = _HOLD_SECONDS.get(noticed.what) if noticed.value or noticed.what is What.SUSPEND else None
        if ending is not None:
            self._ready.clear()
        if news:
            self._ring()
        if ending is not None and self._running and self._teller is not None:
            self._ready.wait(ending)  # Windows goes on when its message is answered, or when it has waited enough

    def _stirred(self, heard: bool) -> None:
        """From the window's thread: input was heard, or it is time to look whether there was some."""
        latest = self._last_input()
        watching = self._awake()
        if heard or latest != self._told_input or watching != self._watching:
            self._told_input, self._watching = latest, watching
            self._ring()

    def _ring(self) -> None:
        if (teller := self._teller) is not None:
            teller.ring()

    def _last_input(self) -> int | None:
        return None if self._own == SERVICES else self._ask("last input", calls.last_input_ms)

    def _facts(self) -> WindowsFacts:
        last = self._last_input()
        services = self._own == SERVICES
        showing = None if services else self._ask("screen", calls.notification_state)
        sessions = self._list_sessions()
        return WindowsFacts(
            self._own,
            None if last is None else idle_seconds_of(calls.tick_ms(), last),
            sessions,
            self._state,
            time.monotonic(),
            None if showing is None else full_screen_of(showing),
            self._awake(),
            self._helpers.readings(),
            (*self._window.faults, *list(self._asked.values())),
        )

    def _awake(self) -> tuple[str, ...]:
        execution = self._ask("execution state", calls.execution_state)
        return () if execution is None else watching_of(execution)

    def _list_sessions(self) -> tuple[WindowsSession, ...] | None:
        now = time.monotonic()
        if self._sessions_at is None or now - self._sessions_at >= SESSIONS_SECONDS:
            rows = self._ask("sessions", calls.sessions)
            self._sessions, self._sessions_at = None if rows is None else people(rows), now
        return self._sessions

    def _ask(self, name: str, call: Callable[[], _Answer]) -> _Answer | None:
        """Ask Windows; what it refuses is a fault until it answers."""
        try:
            answer = call()
        except OSError as error:
            self._asked[name] = f"{name}: got {error}, expected to be read"
            return None
        self._asked.pop(name, None)
        return answer
