"""What desktops do while no job waits: one image of the operator's choice, which makes way for jobs.

Rules:
- A backfill VM starts only when HTCondor could be asked and nothing at all waits for an image; so many of them at most.
- It makes way: what a desktop could start is advertised as if its backfill VMs were not there, and a job that
  finds no desktop has as many of them ended as it needs. Its own machine starts in a later cycle, with the room back.
- A backfill VM that a job has (one that names no image) is a machine like others.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from deskgrid.core.fleet.fitness import fits
from deskgrid.model.desktop import Desktop
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease, PlanSettings, Shortage, Snapshot, Want


def wants(snapshot: Snapshot, settings: PlanSettings) -> tuple[Want, ...] | None:
    """The demand, or the backfill's when there is none."""
    image = next((one for one in snapshot.images if one.ref.name == settings.backfill), None)
    if snapshot.wants != () or image is None:
        return snapshot.wants
    fitting = [size for size in settings.sizes if size.memory_bytes >= image.memory_bytes]
    living = sum(1 for live in snapshot.leases if live.lease.image.name == settings.backfill)
    missing = settings.backfill_vms - living
    return (Want(settings.backfill, min(fitting), missing, 0),) if fitting and missing > 0 else ()


def idle(leases: Iterable[LiveLease], settings: PlanSettings) -> dict[str, list[Lease]]:
    """The backfill VMs that no job has, by desktop."""
    found: dict[str, list[Lease]] = {}
    for live in leases:
        if settings.backfill and live.lease.image.name == settings.backfill and not live.busy:
            found.setdefault(live.lease.desktop, []).append(live.lease)
    return found


def without(desktops: Iterable[Desktop], leases: Mapping[str, Sequence[Lease]]) -> tuple[Desktop, ...]:
    """The desktops with the room that they had without these machines."""
    return tuple(_more(desktop, leases.get(desktop.name, ())) for desktop in desktops)


def make_way(
    shortages: Iterable[Shortage], free: Iterable[Desktop], leases: Mapping[str, Sequence[Lease]]
) -> tuple[str, ...]:
    """The ids of the backfill VMs that are to end, so that what is short finds a desktop.

    Args:
        free: the desktops that may start something, with the room that is left. leases: the idle backfill VMs.
    """
    ended: list[str] = []
    left = {desktop.name: desktop for desktop in free if desktop.name in leases}
    for short in shortages:
        missing = short.vms if short.room else 0
        for name, desktop in sorted(left.items()):
            if missing > 0 and fits(_more(desktop, leases[name]), short.size):
                ended += [lease.vm_id for lease in leases[name]]
                del left[name]
                missing -= 1
    return tuple(ended)


def _more(desktop: Desktop, leases: Sequence[Lease]) -> Desktop:
    room = desktop.room
    rest = msgspec.structs.replace(
        room,
        cpus=room.cpus + sum(lease.size.cpus for lease in leases),
        memory_bytes=room.memory_bytes + sum(lease.size.memory_bytes for lease in leases),
        vms=room.vms + len(leases),
    )
    return msgspec.structs.replace(desktop, room=rest)
