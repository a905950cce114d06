"""A D-Bus of its own, with logind and NetworkManager spoken by python-dbusmock: a real daemon, peers and calls."""

import os
import pwd
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jeepney import DBusAddress, FileDescriptor, new_method_call
from jeepney.io.blocking import DBusConnection, prep_socket
from jeepney.wrappers import unwrap_msg

from tests.waiting import SOON_SECONDS, eventually

LOGIN, MANAGER = "org.freedesktop.login1", "org.freedesktop.login1.Manager"
SESSION = "org.freedesktop.login1.Session"
NETWORK = "org.freedesktop.NetworkManager"
MOCK = "org.freedesktop.DBus.Mock"
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow eavesdrop="true"/>
<allow receive_sender="*"/></policy></busconfig>
"""


def missing() -> str:
    """Why there can be no such bus here; empty: there can."""
    if not Path("/usr/bin/dbus-daemon").exists():
        return "no dbus-daemon here (package dbus)"
    if subprocess.run(["/usr/bin/python3", "-c", "import dbusmock"], capture_output=True).returncode:
        return "no python-dbusmock here (package python3-dbusmock)"
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return f"uid {os.geteuid()} has no account, and dbus-daemon wants one"
    return ""


needs_bus = pytest.mark.skipif(bool(why := missing()), reason=why)


class BusWithServices:
    """The bus and what is on it. run: stands for /run."""

    def __init__(self, run: Path) -> None:
        self.path = run / "dbus/system_bus_socket"
        self._config = run / "bus.conf"
        self._environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={self.path}"}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._asking: DBusConnection | None = None
        self._held: list[FileDescriptor] = []

    def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._config.write_text(_CONFIG.format(path=self.path))
        argv = ["/usr/bin/dbus-daemon", f"--config-file={self._config}", "--nofork", "--nopidfile", "--nosyslog"]
        self._daemon = subprocess.Popen(argv)
        self._await(self.path.exists, "no dbus-daemon")

    def serve(self, template: str, name: str) -> None:
        argv = ["/usr/bin/python3", "-m", "dbusmock", "--system", "--template", template]
        self._services[template] = subprocess.Popen(argv, env=self._environment, stdout=subprocess.DEVNULL)
        self._await(lambda: self._has(name), f"no {name}")

    def _await(self, holds: Callable[[], object], what: str) -> None:
        try:
            eventually(holds, what)
        except BaseException:
            self.stop()
            raise

    def logind(self) -> None:
        self.serve("logind", LOGIN)
        for name, value in (("BlockInhibited", ("s", "")), ("LidClosed", ("b", False))):
            self.lacks(LOGIN, "/org/freedesktop/login1", MANAGER, name, value)

    def network_manager(self) -> None:
        self.serve("networkmanager", NETWORK)
        self.lacks(NETWORK, "/org/freedesktop/NetworkManager", NETWORK, "Metered", ("u", 0))

    def lacks(self, service: str, path: str, interface: str, name: str, value: tuple[str, Any]) -> None:
        """The template has no such property; the real service has."""
        self.ask(service, path, MOCK, "AddProperty", "ssv", interface, name, value)

    def end(self, template: str) -> None:
        """The service is gone."""
        process = self._services.pop(template)
        process.kill()
        process.wait()

    def freeze(self, template: str) -> None:
        """The service hangs until `thaw`."""
        self._services[template].send_signal(signal.SIGSTOP)

    def thaw(self, template: str) -> None:
        """The service goes on."""
        self._services[template].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """The bus is gone, and all that was on it."""
        if self._asking is not None:
            self._asking.close()
            self._asking = None
        for handle in self._held:
            handle.close()
        for template in list(self._services):
            self.end(template)
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def ask(self, service: str, path: str, interface: str, member: str, signature: str = "", *body: Any) -> Any:
        if self._asking is None:
            self._asking = DBusConnection(prep_socket(str(self.path), enable_fds=True, timeout=SOON_SECONDS), True)
        message = new_method_call(DBusAddress(path, service, interface), member, signature or None, body)
        return unwrap_msg(self._asking.send_and_get_reply(message, timeout=SOON_SECONDS))

    def _has(self, name: str) -> bool:
        try:
            return bool(self.ask("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "NameHasOwner", "s", name)[0])
        except OSError:
            return False

    # -- what logind's stand-in is told -------------------------------------------------------------------------------

    def manager(self, member: str, signature: str = "", *body: Any) -> Any:
        return self.ask(LOGIN, "/org/freedesktop/login1", MANAGER, member, signature, *body)

    def emit(self, member: str, signature: str, *body: tuple[str, Any]) -> None:
        """A signal of logind's manager."""
        arguments = ("", member, signature, list(body))
        self.ask(LOGIN, "/org/freedesktop/login1", MOCK, "EmitSignal", "sssav", MANAGER, *arguments[1:])

    def be(self, interface: str, path: str, service: str = LOGIN, **properties: tuple[str, Any]) -> None:
        """Properties are so from now on, and their change is told."""
        self.ask(service, path, MOCK, "UpdateProperties", "sa{sv}", interface, properties)

    def log_in(self, name: str, uid: int = 1000, **properties: tuple[str, Any]) -> str:
        body = (name, "seat0", uid, f"user{uid}", True)
        path: str = self.ask(LOGIN, "/org/freedesktop/login1", MOCK, "AddSession", "ssusb", *body)[0]
        self.be(SESSION, path, **{"Type": ("s", "wayland"), **properties})
        self.emit("SessionNew", "so", ("s", name), ("o", path))
        return path

    def log_out(self, name: str) -> None:
        path = f"/org/freedesktop/login1/session/{name}"
        self.ask(LOGIN, "/org/freedesktop/login1", MOCK, "RemoveObject", "s", path)
        self.emit("SessionRemoved", "so", ("s", name), ("o", path))

    def inhibit(self, what: str, who: str, why: str, mode: str = "block") -> FileDescriptor:
        """Somebody's inhibitor; ends when what is returned is closed."""
        handle: FileDescriptor
        (handle,) = self.manager("Inhibit", "ssss", what, who, why, mode)
        self.be(MANAGER, "/org/freedesktop/login1", BlockInhibited=("s", what))
        self._held.append(handle)
        return handle

    def inhibitors(self) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = self.manager("ListInhibitors")[0]
        return found
