"""Is the network paid for by the byte, and is it wireless?

Rules:
- NetworkManager says whether the connection is metered. Without it nothing is metered; there but silent is unknown.
- Wireless is what the default route goes through: Wi-Fi or mobile broadband. Where the route goes through something
  that isn't a device (a VPN, a bridge), it is wireless if only wireless devices are up.
- A user may name devices: the kernel looks for ASCII's blanks in a name only, so do we. A table that can't be read
  makes it unknown.

Source: NetworkManager's D-Bus API (NMMetered); Documentation/ABI/testing/sysfs-class-net.
"""

import os
import re
from pathlib import Path
from typing import Any

from deskgrid.presence.linux.bus import Bus, BusService, CallFailed, Signal

NAME, PATH = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
PROPERTIES = "org.freedesktop.DBus.Properties"
_METERED = {1: True, 3: True}  # NM_METERED_YES, NM_METERED_GUESS_YES
_UP_GATEWAY = 0x3  # RTF_UP, RTF_GATEWAY of route.h
_UP = 0x1
_COLUMNS = re.compile(r"[^ \t]+")


class NetworkManager:
    """Follows what NetworkManager says."""

    def __init__(self) -> None:
        self._bus: Bus | None = None
        self._here = self._seen = False
        self._metered: bool | None = None
        self.changes = 0
        """Grows with each change."""
        self.service = BusService(NAME, (f"path='{PATH}',interface='{PROPERTIES}'",), self._come_or_gone, self._heard)

    def follow(self, bus: Bus) -> None:
        """Ask over this connection from now on."""
        self._bus = bus

    def metered(self) -> bool | None:
        """Whether the connection is metered; None: unknown."""
        if self._here:
            return self._metered
        return None if self._seen and self._bus is not None and self._bus.fault else False

    def _come_or_gone(self, here: bool) -> None:
        self._here, self._seen, self._metered = here, True, None
        self.changes += 1
        if here:
            self._ask()

    def _heard(self, signal: Signal) -> None:
        if "Metered" in signal.body[1] or "Metered" in signal.body[2]:
            self._ask()

    def _ask(self) -> None:
        assert self._bus is not None
        self._bus.call(NAME, PATH, PROPERTIES, "Get", "ss", (NAME, "Metered"), self._told)

    def _told(self, answer: tuple[Any, ...] | CallFailed) -> None:
        metered = None if isinstance(answer, CallFailed) else _METERED.get(answer[0][1], False)
        self.changes += metered is not self._metered
        self._metered = metered


def wireless(proc: Path, sysfs: Path) -> bool | None:
    """Whether the network is wireless; None: unknown."""
    try:
        through = default_device(_read(proc / "net/route"), _read(proc / "net/ipv6_route"))
        if through is None:
            return False  # no way out at all
        nets = sysfs / "class/net"
        if _is_wireless(nets / through):
            return True
        if (nets / through / "device").exists():
            return False
        up = [path for path in nets.iterdir() if (path / "device").exists() and _read(path / "operstate") == "up\n"]
    except (OSError, ValueError):
        return None
    return bool(up) and all(_is_wireless(path) for path in up)


def default_device(routes: str, routes6: str) -> str | None:
    """Return the device of the default route that the kernel prefers, IPv4 before IPv6; None: there is none.

    Args: routes: /proc/net/route. routes6: /proc/net/ipv6_route.
    Raises: ValueError: a line is none of such a table.
    """
    found = []
    for line in routes.split("\n")[1:-1]:
        device, to, _, flags, _, _, metric, mask, *_ = _COLUMNS.findall(line)
        if int(to, 16) == 0 == int(mask, 16) and int(flags, 16) & _UP:
            found.append((0, int(metric), device))
    for line in routes6.split("\n")[:-1]:
        to, length, _, _, _, metric, _, _, flags, device = _COLUMNS.findall(line)
        if int(to, 16) == 0 == int(length, 16) and int(flags, 16) & _UP_GATEWAY == _UP_GATEWAY:
            found.append((1, int(metric, 16), device))
    return min(found)[2] if found else None


def _is_wireless(device: Path) -> bool:
    return (
        (device / "wireless").exists() or (device / "phy80211").exists() or "DEVTYPE=wwan\n" in _read(device / "uevent")
    )


def _read(path: Path) -> str:
    """A small file of the kernel's, with names as they are in paths; what isn't there is empty."""
    try:
        return os.fsdecode(path.read_bytes())
    except FileNotFoundError:
        return ""
