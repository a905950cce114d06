"""What the session's D-Bus tells: Mutter's idle monitor (GNOME), and who keeps the screen awake (GNOME, KDE, Xfce …).

Sources: Mutter, data/dbus-interfaces/org.gnome.Mutter.IdleMonitor.xml; gnome-session,
org.gnome.SessionManager.xml (flag 8: inhibit idle); org.freedesktop.PowerManagement.Inhibit (KDE, Xfce).
"""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from deskgrid.model.presence import SessionReading
from deskgrid.presence.linux.bus import Bus, BusService, CallFailed, Signal
from deskgrid.session.eyes import QUIET_SECONDS, Say

MUTTER = "org.gnome.Mutter.IdleMonitor"
_MUTTER_PATH = "/org/gnome/Mutter/IdleMonitor/Core"
GNOME = "org.gnome.SessionManager"
_GNOME_PATH = "/org/gnome/SessionManager"
POWER = "org.freedesktop.PowerManagement.Inhibit"
_POWER_PATH = "/org/freedesktop/PowerManagement/Inhibit"
_KEEPS_AWAKE = 8
_FORGET_SECONDS = 60.0
Answer = tuple[Any, ...] | CallFailed


def bus_path() -> Path | None:
    """The socket of this session's bus, or None."""
    for address in os.environ.get("DBUS_SESSION_BUS_ADDRESS", "").split(";"):
        kind, _, rest = address.partition(":")
        named = dict(part.split("=", 1) for part in rest.split(",") if "=" in part)
        if kind == "unix" and "path" in named:
            return Path(named["path"])
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / "bus" if runtime else None


class BusEye:
    """Listens to the session's bus."""

    def __init__(self, path: Path, say: Say) -> None:
        self._say = say
        self._mutter_here = False
        self._wakes = {"idle": -1, "active": -1}
        self._inhibitors: dict[str, str] = {}
        self._held = False
        self._useful_at = time.monotonic()
        self._bus = Bus(
            path,
            (
                BusService(MUTTER, (f"interface='{MUTTER}',member='WatchFired'",), self._mutter, self._heard),
                BusService(GNOME, (f"interface='{GNOME}'",), self._gnome, self._heard),
                BusService(POWER, (f"interface='{POWER}',member='HasInhibitChanged'",), self._power, self._heard),
            ),
        )
        self._gnome_here = self._power_here = False

    @property
    def over(self) -> bool:
        """Nobody whom we listen to has been there for a while: the session has ended, or has none of them."""
        return time.monotonic() - self._useful_at > _FORGET_SECONDS

    def fileno(self) -> int:
        """See Eye."""
        return self._bus.fileno()

    def tend(self) -> None:
        """See Eye."""
        self._bus.tend()
        if self._mutter_here or self._gnome_here or self._power_here:
            self._useful_at = time.monotonic()

    def look(self) -> None:
        """See Eye."""
        self.tend()
        if self._mutter_here:
            self._arm()
            self._ask_mutter("GetIdletime", then=self._idle)
        if self._gnome_here or self._power_here:
            self._tell_watching()

    def close(self) -> None:
        """See Eye."""
        self._bus.close()

    def _heard(self, signal: Signal) -> None:
        """By interface: one program may own several of the names."""
        if signal.interface == MUTTER:
            self._fired(signal)
        elif signal.interface == GNOME:
            self._gnome_heard(signal)
        elif signal.interface == POWER:
            self._holds(signal.body)

    # -- idle time ------------------------------------------------------------------------------------------------

    def _ask_mutter(self, member: str, signature: str = "", *body: object, then: Any = lambda answer: None) -> None:
        self._bus.call(MUTTER, _MUTTER_PATH, MUTTER, member, signature, body, then)

    def _mutter(self, here: bool) -> None:
        self._mutter_here = here
        self._wakes = {"idle": -1, "active": -1}
        if here:
            self._arm()
            self._ask_mutter("GetIdletime", then=self._idle)
        else:
            self._say(SessionReading("mutter"))

    def _arm(self) -> None:
        """Ask to be told when it has been quiet, and when there is input again."""
        if self._wakes["idle"] < 0:
            self._ask_mutter("AddIdleWatch", "t", int(QUIET_SECONDS * 1000), then=partial(self._watching_for, "idle"))
        if self._wakes["active"] < 0:
            self._ask_mutter("AddUserActiveWatch", then=partial(self._watching_for, "active"))

    def _watching_for(self, what: str, answer: Answer) -> None:
        if not isinstance(answer, CallFailed):
            self._wakes[what] = answer[0]

    def _fired(self, signal: Signal) -> None:
        if signal.body == (self._wakes["idle"],):  # from now on the next input wakes us
            self._arm()
            self._ask_mutter("GetIdletime", then=self._idle)
        elif signal.body == (self._wakes["active"],):
            self._wakes["active"] = -1  # it tells once
            self._say(SessionReading("mutter", 0.0))

    def _idle(self, answer: Answer) -> None:
        if isinstance(answer, CallFailed) or not isinstance(answer[0], int):
            self._say(SessionReading("mutter"))
        else:
            self._say(SessionReading("mutter", answer[0] / 1000))

    # -- who keeps the screen awake -------------------------------------------------------------------------------

    def _gnome(self, here: bool) -> None:
        self._gnome_here = here
        self._inhibitors.clear()
        if here:
            self._bus.call(GNOME, _GNOME_PATH, GNOME, "GetInhibitors", then=self._all_inhibitors)
        else:
            self._tell_watching()

    def _gnome_heard(self, signal: Signal) -> None:
        if len(signal.body) != 1:
            return
        if signal.member == "InhibitorAdded":
            self._read_inhibitor(str(signal.body[0]))
        elif signal.member == "InhibitorRemoved" and self._inhibitors.pop(str(signal.body[0]), None) is not None:
            self._tell_watching()

    def _all_inhibitors(self, answer: Answer) -> None:
        if isinstance(answer, CallFailed):
            return
        for path in answer[0]:
            self._read_inhibitor(str(path))
        self._tell_watching()

    def _read_inhibitor(self, path: str) -> None:
        """Ask what it is; the answers come in order, so the last one has all."""
        said: list[Any] = []

        def take(answer: Answer) -> None:
            said.append(None if isinstance(answer, CallFailed) else answer[0])
            if len(said) == 3 and isinstance(said[0], int) and said[0] & _KEEPS_AWAKE:
                self._inhibitors[path] = ": ".join(str(one) for one in said[1:] if one)
                self._tell_watching()

        for member in ("GetFlags", "GetAppId", "GetReason"):
            self._bus.call(GNOME, path, "org.gnome.SessionManager.Inhibitor", member, then=take)

    def _power(self, here: bool) -> None:
        self._power_here, self._held = here, False
        if here:
            self._bus.call(POWER, _POWER_PATH, POWER, "HasInhibit", then=self._holds)
        else:
            self._tell_watching()

    def _holds(self, answer: Answer) -> None:
        held = not isinstance(answer, CallFailed) and answer[:1] == (True,)
        if held is not self._held:
            self._held = held
            self._tell_watching()

    def _tell_watching(self) -> None:
        watching = tuple(self._inhibitors.values())
        if self._held and not watching:
            watching = ("a program keeps the screen awake",)
        self._say(SessionReading("inhibitors", watching=watching))
