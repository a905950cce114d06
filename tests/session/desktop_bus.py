"""A session's D-Bus that really runs, and a small GNOME on it: Mutter's idle monitor and the session manager."""

import os
import pwd
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_error, new_method_return, new_signal
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from tests.waiting import eventually

MUTTER, MUTTER_PATH = "org.gnome.Mutter.IdleMonitor", "/org/gnome/Mutter/IdleMonitor/Core"
GNOME, GNOME_PATH = "org.gnome.SessionManager", "/org/gnome/SessionManager"
POWER, POWER_PATH = "org.freedesktop.PowerManagement.Inhibit", "/org/freedesktop/PowerManagement/Inhibit"
DAEMON = Path("/usr/bin/dbus-daemon")
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


def missing() -> str:
    """Why there can be no such bus here; empty: there can."""
    if not DAEMON.exists():
        return "no dbus-daemon here (package dbus)"
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"uid {os.geteuid()} has no name, and dbus-daemon wants one"
    return ""


needs_bus = pytest.mark.skipif(bool(why := missing()), reason=why)


class SessionBus:
    """A dbus-daemon of its own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bus"
        config = folder / "bus.conf"
        config.write_text(_CONFIG.format(path=self.path))
        self.process = subprocess.Popen([DAEMON, f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog"])
        eventually(self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            return link.connect_ex(str(self.path)) == 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.path.unlink(missing_ok=True)


class Peer:
    """A program on the bus that owns names and answers calls, in a thread of its own."""

    answers: dict[str, Callable[..., tuple[str, tuple[Any, ...]]]]

    def __init__(self, bus: SessionBus, *names: str) -> None:
        self.link: DBusConnection = open_dbus_connection(f"unix:path={bus.path}")
        for name in names:
            self.link.send(message_bus.RequestName(name))  # waiting for its answer would lose calls that come before
        self.lock = threading.RLock()  # as with the real ones: an answer and what it promises leave in this order
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        if not hasattr(self, "answers"):
            self.answers = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def signal(self, path: str, interface: str, member: str, signature: str, *body: object) -> None:
        with self.lock:
            self.link.send(new_signal(DBusAddress(path, interface=interface), member, signature, body))

    def close(self) -> None:
        self._closing = True
        self._thread.join(30)
        self.link.close()

    def tick(self) -> None:
        """What it does by itself."""

    def _run(self) -> None:
        while not self._closing:
            with self.lock:
                self.tick()
            try:
                message = self.link.receive(timeout=0.05)
            except TimeoutError:
                continue
            except (OSError, ConnectionError):
                return
            if message.header.message_type is MessageType.method_call:
                with self.lock, suppress(OSError):
                    self._answer(message)

    def _answer(self, message: Message) -> None:
        fields = message.header.fields
        member = fields[HeaderFields.member]
        self.calls.append((member, message.body))
        answer = self.answers.get(f"{fields[HeaderFields.path]}.{member}", self.answers.get(member))
        if answer is None:
            self.link.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod"))
        else:
            self.link.send(new_method_return(message, *answer(*message.body)))


class Gnome(Peer):
    """Mutter and gnome-session, as far as a helper asks them. Idle time is real."""

    def __init__(self, bus: SessionBus) -> None:
        self.input_at = time.monotonic()
        self.idle_watches: dict[int, float] = {}
        self.fired: set[int] = set()
        self.active_watches: list[int] = []
        self.inhibitors: dict[str, tuple[str, str, int]] = {}
        self.number = 0
        self.answers = {
            "GetIdletime": lambda: ("t", (int(self.idle * 1000),)),
            "AddIdleWatch": self._add_idle_watch,
            "AddUserActiveWatch": self._add_active_watch,
            "GetInhibitors": lambda: ("ao", (list(self.inhibitors),)),
        }
        super().__init__(bus, MUTTER, GNOME)

    @property
    def idle(self) -> float:
        return time.monotonic() - self.input_at

    def away(self, seconds: float) -> None:
        """Nobody has touched it for so long."""
        with self.lock:
            self.input_at = time.monotonic() - seconds

    def input(self) -> None:
        """A key."""
        with self.lock:
            self.input_at = time.monotonic()
            self.fired.clear()
            watches, self.active_watches = self.active_watches, []
            for watch in watches:
                self.signal(MUTTER_PATH, MUTTER, "WatchFired", "u", watch)

    def inhibit(self, app: str, reason: str, flags: int = 8) -> str:
        self.number += 1
        path = f"{GNOME_PATH}/Inhibitor{self.number}"
        self.inhibitors[path] = (app, reason, flags)
        self.answers |= {
            f"{path}.GetAppId": lambda: ("s", (app,)),
            f"{path}.GetReason": lambda: ("s", (reason,)),
            f"{path}.GetFlags": lambda: ("u", (flags,)),
        }
        self.signal(GNOME_PATH, GNOME, "InhibitorAdded", "o", path)
        return path

    def uninhibit(self, path: str) -> None:
        del self.inhibitors[path]
        self.signal(GNOME_PATH, GNOME, "InhibitorRemoved", "o", path)

    def tick(self) -> None:
        for watch, seconds in list(self.idle_watches.items()):
            if self.idle >= seconds and watch not in self.fired:
                self.fired.add(watch)
                self.signal(MUTTER_PATH, MUTTER, "WatchFired", "u", watch)

    def _add_idle_watch(self, milliseconds: int) -> tuple[str, tuple[Any, ...]]:
        self.number += 1
        self.idle_watches[self.number] = milliseconds / 1000
        return "u", (self.number,)

    def _add_active_watch(self) -> tuple[str, tuple[Any, ...]]:
        self.number += 1
        self.active_watches.append(self.number)
        return "u", (self.number,)
