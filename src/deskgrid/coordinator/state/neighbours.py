"""Who gives parts of images to whom: kept by subnet, from reports. Soft state, in memory.

Rules:
- A report that says nothing new costs a look-up. Who says that it gives no more is forgotten at once.
- A desktop's address is the one that its report came from, never one that it claims. Behind an address translation all
  desktops have one address, and so no neighbours.
- Which ones are named is decided by `core/fleet/neighbours.py`.
"""

from datetime import datetime, timedelta

import msgspec

from deskgrid.core.fleet.neighbours import Giver, neighbours_of, subnet
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.model.lease import Lease
from deskgrid.wire.messages import Report


class Neighbours:
    """The desktops that give parts of images."""

    def __init__(self, fresh_seconds: float) -> None:
        """Nobody is known. fresh_seconds: who has been silent for longer is not named."""
        self._fresh_seconds = fresh_seconds
        self._by_subnet: dict[str, dict[str, Giver]] = {}
        self._where: dict[str, str] = {}

    def hear(self, desktop: str, address: str, report: Report, now: datetime) -> None:
        """Take in a report that is newer than those before. address: where it came from."""
        here = subnet(address) if report.neighbour_port else ""
        if self._where.get(desktop, "") != here:
            self.drop(desktop)
        if here:
            self._where[desktop] = here
            giver = Giver(desktop, address, report.neighbour_port, now, report.images)
            self._by_subnet.setdefault(here, {})[desktop] = giver

    def shift(self, by: timedelta) -> None:
        """Our clock was set by so much."""
        for beside in self._by_subnet.values():
            for name, giver in beside.items():
                beside[name] = msgspec.structs.replace(giver, heard_at=giver.heard_at + by)

    def drop(self, desktop: str) -> None:
        """Forget a desktop."""
        before = self._where.pop(desktop, "")
        if before:
            beside = self._by_subnet[before]
            del beside[desktop]
            if not beside:
                del self._by_subnet[before]

    def enclose(self, grant: ImageGrant, lease: Lease, now: datetime) -> ImageGrant:
        """Put the neighbours of a lease's desktop in front of the grant's other sources."""
        found = self.of(lease.desktop, lease.image, lease.vm_id, now)
        return msgspec.structs.replace(grant, sources=(*found, *grant.sources)) if found else grant

    def of(self, desktop: str, image: ImageRef, vm_id: str, now: datetime) -> tuple[str, ...]:
        """Whom a desktop may ask for an image, as base addresses of packs; in front of all other sources."""
        beside = self._by_subnet.get(self._where.get(desktop, ""), {})
        return neighbours_of(beside.get(desktop), image, beside.values(), vm_id, now, self._fresh_seconds)
