"""What logind says over D-Bus: sessions and their locks, inhibitors, the lid, and that the computer is about to end.

Rules:
- What a signal says of sessions and inhibitors is not taken from it: it only makes us ask anew for all (at most ten
  times a second), so that a lost, late or forged signal does no harm. Only that the computer is about to sleep or to
  shut down is believed at once.
- Sessions are those of `sessions.session_of`. A program that keeps the computer awake (an inhibitor on "idle") counts
  as watching, unless it is the grid's own. Gone, logind can take no new inhibitor: what it said last of them stays.
- A delay lock lets VMs be stopped before the computer sleeps or shuts down. It is held only while somebody has asked
  for it (`hold`), and given back by `release`; logind waits 5 s at most (InhibitDelayMaxSec).

Source: org.freedesktop.login1(5), and "Inhibitor Locks" at systemd.io.
"""

import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec
from jeepney.fds import FileDescriptor

from deskgrid.model.presence import Ending
from deskgrid.model.values.text import printable
from deskgrid.presence.linux.bus import LOST, Bus, BusService, CallFailed, Signal
from deskgrid.presence.linux.sessions import Session, session_of

NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER, SESSION = f"{NAME}.Manager", f"{NAME}.Session"
PROPERTIES = "org.freedesktop.DBus.Properties"
_AGAIN_SECONDS = 0.1
_NET_SECONDS = 60.0
_ENDINGS = {"PrepareForSleep": Ending.SLEEP, "PrepareForShutdown": Ending.SHUTDOWN}
_OF_SESSIONS = frozenset({"Active", "State", "Remote", "Class", "Type", "Seat", "TTY", "LockedHint"})
_MATTER = _OF_SESSIONS | {"BlockInhibited", "DelayInhibited", "LidClosed"}
"""Properties whose change makes us ask anew: others (such as IdleHint) change often, and say nothing to us."""


class LogindState(msgspec.Struct, frozen=True):
    """What logind has said. sessions: None: unknown. watching: None: never known."""

    sessions: tuple[Session, ...] | None = None
    watching: tuple[str, ...] | None = None
    lid_closed: bool = False
    ending: Ending | None = None


class Logind:
    """Follows logind.

    Args:
        grid_uids: accounts whose inhibitors are the grid's own.
    """

    def __init__(self, grid_uids: frozenset[int]) -> None:
        self._grid_uids = grid_uids
        self._bus: Bus | None = None
        self._here = self._wanted = False
        self._asked_at: float | None = None
        self._stale = False
        self._found: _Found = {}
        self._open = 0
        self._lock: int | None = None
        self._lock_asked = False
        self.lock_fault = ""
        self.changes = 0
        """Grows with each change of `said`."""
        self.said = LogindState()
        self.service = BusService(
            NAME,
            (
                f"path='{PATH}',interface='{MANAGER}'",
                f"path='{PATH}',interface='{PROPERTIES}'",
                f"path_namespace='{PATH}/session'",
            ),
            self._come_or_gone,
            self._heard,
        )

    def follow(self, bus: Bus) -> None:
        """Ask over this connection from now on."""
        self._bus = bus

    @property
    def here(self) -> bool:
        """Whether logind is on the bus."""
        return self._here

    @property
    def holding(self) -> bool:
        """Whether the computer waits for us before it sleeps or shuts down."""
        return self._lock is not None

    def tend(self) -> None:
        """Ask for what has become stale, when it is time."""
        if self._here and (due := self.due_seconds()) is not None and due <= 0:
            self._ask_all()

    def due_seconds(self) -> float | None:
        """When `tend` has something to do again, None: not by itself soon."""
        if not self._here or self._open or self._asked_at is None:
            return None
        wait_seconds = _AGAIN_SECONDS if self._stale else _NET_SECONDS
        return max(0.0, self._asked_at + wait_seconds - time.monotonic())

    def hold(self) -> None:
        """Have the computer wait for `release` before it sleeps or shuts down (once it is about to, it is too late)."""
        self._wanted = True
        if self._bus is None or not self._here or self.holding or self._lock_asked or self.said.ending is not None:
            return
        self._lock_asked = True
        body = ("sleep:shutdown", "deskgrid", "Virtual machines are being stopped", "delay")
        self._bus.call(NAME, PATH, MANAGER, "Inhibit", "ssss", body, self._locked)

    def release(self, keep_wanting: bool = False) -> None:
        """Let the computer sleep or shut down. keep_wanting: hold anew once it is awake again."""
        self._wanted = self._wanted and keep_wanting
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- asking ---------------------------------------------------------------------------------------------------

    def _come_or_gone(self, here: bool) -> None:
        self._here, self._open, self._stale, self._lock_asked, self._found = here, 0, False, False, {}
        self.lock_fault = ""
        self.release(keep_wanting=True)
        if here:
            self._ask_all()
            return
        self._asked_at = None
        self._say(msgspec.structs.replace(self.said, sessions=None))

    def _ask_all(self) -> None:
        assert self._bus is not None
        self._stale, self._asked_at, self._found = False, time.monotonic(), {}
        self._open, found = 3, self._found
        self._bus.call(NAME, PATH, PROPERTIES, "GetAll", "s", (MANAGER,), partial(self._manager, found))
        self._bus.call(NAME, PATH, MANAGER, "ListInhibitors", then=partial(self._inhibitors, found))
        self._bus.call(NAME, PATH, MANAGER, "ListSessions", then=partial(self._sessions, found))

    def _manager(self, found: "_Found", answer: tuple[Any, ...] | CallFailed) -> None:
        if not isinstance(answer, CallFailed):
            facts = _plain(answer[0])
            ending = next((end for name, end in _PREPARING.items() if facts.get(name)), None)
            self._say(msgspec.structs.replace(self.said, lid_closed=facts.get("LidClosed") is True, ending=ending))
        self._close_one(found)

    def _inhibitors(self, found: "_Found", answer: tuple[Any, ...] | CallFailed) -> None:
        if not isinstance(answer, CallFailed):
            watching = {
                printable(f"{who}: {why}", 80)
                for what, who, why, mode, uid, _ in answer[0]
                if "idle" in what.split(":") and mode.startswith("block") and uid not in self._grid_uids
            }
            self._say(msgspec.structs.replace(self.said, watching=tuple(sorted(watching))))
        self._close_one(found)

    def _sessions(self, found: "_Found", answer: tuple[Any, ...] | CallFailed) -> None:
        assert self._bus is not None
        if found is not self._found:
            return
        if isinstance(answer, CallFailed):
            found[""] = None  # not known at all
        else:
            for name, uid, _, seat, path in answer[0]:
                self._open += 1
                then = partial(self._session, found, name, {"UID": str(uid), "SEAT": seat})
                self._bus.call(NAME, path, PROPERTIES, "GetAll", "s", (SESSION,), then)
        self._close_one(found)

    def _session(
        self, found: "_Found", name: str, fallback: dict[str, str], answer: tuple[Any, ...] | CallFailed
    ) -> None:
        if not isinstance(answer, CallFailed):
            found[name] = session_of(name, _facts(_plain(answer[0])))
        elif not answer.name.endswith((".UnknownObject", ".NoSuchSession", ".UnknownMethod")):
            found[name] = session_of(name, fallback)  # it is there, of unknown kind; else it ended while we asked
        self._close_one(found)

    def _close_one(self, found: "_Found") -> None:
        """One answer less to wait for; at the last, say what was found. Answers to an earlier question are too late."""
        if found is not self._found:
            return
        self._open -= 1
        if not self._open:
            known = tuple(one for _, one in sorted(found.items()) if one is not None)
            self._say(msgspec.structs.replace(self.said, sessions=None if "" in found else known))
            if self._wanted:
                self.hold()

    def _locked(self, answer: tuple[Any, ...] | CallFailed) -> None:
        self._lock_asked = False
        if isinstance(answer, CallFailed):
            if answer.name == LOST or not self._here:
                return  # that is no refusal, and it is asked anew once logind is heard again
            self.lock_fault = (
                f"logind: got {answer.name.rpartition('.')[2]} for a delay lock, expected to hold one: virtual "
                "machines may not be ended before the computer sleeps or shuts down; install polkit (package polkitd)"
            )
            return
        self.lock_fault = ""
        given: FileDescriptor = answer[0]
        if self._wanted and not self.holding:
            self._lock = given.to_raw_fd()
        else:
            given.close()

    # -- hearing --------------------------------------------------------------------------------------------------

    def _heard(self, signal: Signal) -> None:
        if signal.path == PATH and signal.interface == MANAGER and signal.member in _ENDINGS:
            self._ending(_ENDINGS[signal.member], bool(signal.body[0]))
        elif signal.interface == PROPERTIES:
            _, changed, invalidated = signal.body
            if not _MATTER.isdisjoint(changed) or not _MATTER.isdisjoint(invalidated):
                self._stale = True
        elif signal.member in ("SessionNew", "SessionRemoved", "Lock", "Unlock"):
            self._stale = True

    def _ending(self, ending: Ending, begins: bool) -> None:
        if begins:
            self._say(msgspec.structs.replace(self.said, ending=ending))
        elif self.said.ending is ending:
            self._say(msgspec.structs.replace(self.said, ending=None))
            self._stale = True
            if self._wanted:
                self.hold()

    def _say(self, said: LogindState) -> None:
        if said != self.said:
            self.said = said
            self.changes += 1


_Found = dict[str, Session | None]
_PREPARING = {"PreparingForShutdown": Ending.SHUTDOWN, "PreparingForSleep": Ending.SLEEP}


def _plain(properties: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Properties without their signatures."""
    return {name: value for name, (_, value) in properties.items()}


def _facts(of: Mapping[str, Any]) -> dict[str, str]:
    """A session's properties under the names that logind's state files give them."""
    facts = {name.upper(): str(of.get(name, "")) for name in ("Class", "State", "Type", "TTY")}
    facts["REMOTE"], facts["ACTIVE"] = ("1" if of.get(name) else "0" for name in ("Remote", "Active"))
    facts["UID"] = str(of.get("User", ("",))[0])
    facts["SEAT"] = str(of.get("Seat", ("",))[0])
    if "LockedHint" in of:
        facts["LOCKED"] = "1" if of["LockedHint"] else "0"
    return facts
