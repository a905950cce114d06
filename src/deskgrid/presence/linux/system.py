"""The services of the system that we listen to over D-Bus, together: logind and NetworkManager.

Rules:
- A computer without D-Bus, or with a bus but no logind, has nothing to say here, and that is no fault.
- Where logind should be (its files are there, and a bus is) and says nothing, its files tell of sessions meanwhile, and
  what only it can tell counts as busy: somebody may be watching a film.
"""

import time
from pathlib import Path

from deskgrid.presence.linux.bus import Bus
from deskgrid.presence.linux.logind import Logind, LogindState
from deskgrid.presence.linux.network import NetworkManager

_NOT_KNOWN = "logind gives no answer, so what keeps the computer awake is not known"


class System:
    """What logind and NetworkManager say. All calls from one thread at a time.

    Args:
        run: /run. grid_uids: accounts whose inhibitors are the grid's own.
    """

    def __init__(self, run: Path, grid_uids: frozenset[int]) -> None:
        self._sessions = run / "systemd/sessions"
        self._logind, self._network = Logind(grid_uids), NetworkManager()
        self._bus = Bus(run / "dbus/system_bus_socket", (self._logind.service, self._network.service))
        self._logind.follow(self._bus)
        self._network.follow(self._bus)

    def fileno(self) -> int:
        """A descriptor that is readable when `tend` has something to hear."""
        return self._bus.fileno()

    def tend(self) -> None:
        """Hear what has been said, and ask for what has become stale."""
        self._bus.tend()
        self._logind.tend()

    def due_seconds(self) -> float | None:
        """When `tend` has something to do again, None: not by itself soon."""
        return self._logind.due_seconds()

    def first_answers(self, seconds: float) -> None:
        """Wait for them, at most `seconds`, so that the first reading knows what logind says."""
        until = time.monotonic() + seconds
        self.tend()
        while not self._bus.settled and (left := until - time.monotonic()) > 0:
            self._bus.wait(left)
            self.tend()

    @property
    def changes(self) -> int:
        """Grows with each change of what is said."""
        return self._logind.changes + self._network.changes

    @property
    def said(self) -> LogindState:
        """What logind has said."""
        return self._logind.said

    @property
    def watching(self) -> tuple[str, ...]:
        """What keeps the computer awake."""
        watching = self.said.watching
        if watching is None:
            return (_NOT_KNOWN,) if self._silent else ()
        return watching

    @property
    def faults(self) -> tuple[str, ...]:
        """What should have been said and was not."""
        faults = [self._bus.fault] if self._bus.fault else []
        if self._silent and not faults:
            faults.append("logind: got no answer over D-Bus, expected its sessions; its files are read instead")
        return (*faults, *((self._logind.lock_fault,) if self._logind.lock_fault else ()))

    def metered(self) -> bool | None:
        """Whether the network connection is metered; None: unknown."""
        return self._network.metered()

    def hold(self, wanted: bool) -> None:
        """Have the computer wait for `ready_to_end` before it sleeps or shuts down, or not any more."""
        if wanted:
            self._logind.hold()
        else:
            self._logind.release()

    def ready_to_end(self) -> None:
        """Let the computer sleep or shut down; if it only slept, it is held again afterwards."""
        self._logind.release(keep_wanting=True)

    def close(self) -> None:
        """End the connection; may be called twice."""
        self._logind.release()
        self._bus.close()

    @property
    def _silent(self) -> bool:
        there = self._bus.connected or bool(self._bus.fault)
        return self.said.sessions is None and there and self._sessions.is_dir()
