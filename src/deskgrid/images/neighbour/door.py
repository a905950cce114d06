"""Who may ask this desktop for something over the network.

Rules:
- Private addresses of our own subnets, as our network cards have them now. For IPv6: none that means something on one
  link only.
- So many at a time in all, so many from one address. Who it was is forgotten when they go.
"""

import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import psutil

from deskgrid.core.fleet.neighbours import plain_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
MOST_INSIDE, MOST_FOR_ONE = 8, 4
_LOOK_AGAIN_SECONDS = 5.0


class NeighbourLimiter:
    """Who may come in: private addresses of our own subnets, so many in all, so many from one address."""

    def __init__(self, networks: Callable[[], list[Network]]) -> None:
        """networks: our own subnets; asked again when somebody comes who is on none of those known."""
        self._look = networks
        self._networks, self._looked_at = networks(), time.monotonic()
        self._mutex = threading.Lock()
        self._inside: list[Address] = []

    @property
    def inside(self) -> int:
        """How many are in."""
        return len(self._inside)

    def enter(self, address: str) -> Address | None:
        """Let somebody in, or not (None)."""
        who = plain_address(address.partition("%")[0])
        if who is None or not who.is_private or not self._near(who):
            return None
        with self._mutex:
            if len(self._inside) >= MOST_INSIDE or self._inside.count(who) >= MOST_FOR_ONE:
                return None
            self._inside.append(who)
        return who

    def leave(self, who: Address) -> None:
        """Somebody goes."""
        with self._mutex:
            self._inside.remove(who)

    def _near(self, who: Address) -> bool:
        if any(who in network for network in self._networks):
            return True
        if time.monotonic() - self._looked_at < _LOOK_AGAIN_SECONDS:
            return False
        self._networks, self._looked_at = self._look(), time.monotonic()  # we may have moved
        return any(who in network for network in self._networks)


def own_networks() -> list[Network]:
    """The subnets of this computer's network cards now."""
    found: list[Network] = []
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.netmask:
                prefix = int(ip_address(one.netmask)).bit_count()
                found.append(ip_network(f"{one.address.partition('%')[0]}/{prefix}", strict=False))
    return found
