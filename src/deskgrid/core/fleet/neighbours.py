"""Which desktops give each other parts of images, instead of each fetching all of them from the server.

Rules:
- Switched off unless the policy says otherwise; and only while virtual machines may run here, whether there is room for
  another one or not: whoever uses the computer has its network and its disk to himself.
- Who gives learns of others, who does not give learns of none. Nobody learns of itself, nor of another at its
  own address.
- Neighbours are on one subnet: the same /24, or /64 of IPv6, and of private addresses only.
- At most three, which hold the image and were heard of lately. A VM's id chooses them: the same ones each time it is
  asked, others for another VM, so that the work is spread evenly.
- Nobody believes a neighbour: what it gives is checked (`images/format/packs.py`).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from deskgrid.core.policy.refusals import REFUSALS, Whose
from deskgrid.model.desktop import Availability
from deskgrid.model.image import ImageRef
from deskgrid.model.policy import Policy

MOST = 3
_V4_PREFIX, _V6_PREFIX = 24, 64
_FULL = frozenset(row.name.value for row in REFUSALS if row.whose in (Whose.CAPACITY, Whose.PACE))


class Giver(msgspec.Struct, frozen=True):
    """A desktop that gives parts of images. address: where its report came from. images: that it holds."""

    desktop: str
    address: str
    port: int
    heard_at: datetime
    images: tuple[ImageRef, ...]


def gives(policy: Policy, availability: Availability) -> bool:
    """Whether this desktop gives to neighbours now."""
    return policy.neighbours and {refusal.name for refusal in availability.refusals} <= _FULL


@lru_cache(4096)
def subnet(address: str) -> str:
    """Return a name of the subnet that an address is on; "" when it is no private address."""
    found = plain_address(address)
    if found is None or not found.is_private or found.is_unspecified:
        return ""
    prefix = _V4_PREFIX if found.version == 4 else _V6_PREFIX
    kept = int(found) >> (found.max_prefixlen - prefix)
    return f"{found.version}/{kept:x}"


def neighbours_of(
    me: Giver | None, image: ImageRef, others: Iterable[Giver], vm_id: str, now: datetime, fresh_seconds: float
) -> tuple[str, ...]:
    """Whom a desktop may ask for parts of an image, before all other sources.

    Args:
        me: who asks; None: it does not give. others: who gives, on any subnet. fresh_seconds: silent for longer: left
        out.

    Returns:
        Base addresses, such as "http://10.0.7.12:4711", in the order in which to ask.
    """
    if me is None or not (here := subnet(me.address)):
        return ()
    since = now - timedelta(seconds=fresh_seconds)
    fit = [
        other
        for other in others
        if other.desktop != me.desktop
        and subnet(other.address) == here
        and plain_address(other.address) != plain_address(me.address)
        and other.heard_at > since
        and image in other.images
    ]
    chosen = sorted(fit, key=lambda other: _draw(vm_id, other.desktop))[:MOST]
    return tuple(f"http://{_host(other.address)}:{other.port}" for other in chosen)


def _draw(vm_id: str, desktop: str) -> bytes:
    """The lowest ones are drawn: who comes or goes changes nothing about the others."""
    return blake2b(f"{vm_id} {desktop}".encode(), digest_size=8).digest()


@lru_cache(4096)
def plain_address(address: str) -> IPv4Address | IPv6Address | None:
    """An address without what IPv6 puts around one of IPv4; None: it is none, or of one link only."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found.is_link_local:
            return None  # means something with the name of a network card only
    return found


def _host(address: str) -> str:
    found = plain_address(address)
    return f"[{found}]" if isinstance(found, IPv6Address) else str(found)
