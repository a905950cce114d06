"""Which desktop could start which machine, and which machines are on their way: what plan, offers and `why` share.

Rules:
- Asked once, answered the same: no caller decides for itself whether a desktop is silent, fit, or short of room.
- A desktop's word is counted up to what it is made of (`giving.py`), and only while it is fresh.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from deskgrid.core.fleet.health import Health
from deskgrid.core.policy.refusals import BY_NAME, UNREAD
from deskgrid.model.desktop import Desktop
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Size
from deskgrid.model.plan import LiveLease, PlanSettings
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted


class Planned(StrEnum):
    """What the planner itself says of desktops and of demand."""

    DESKTOP_SILENT = "desktop-silent"
    UNAVAILABLE = "unavailable"
    MACHINE_OVERDUE = "machine-overdue"
    DESKTOP_BACKOFF = "desktop-backoff"
    DEMAND = "demand"
    BACKFILL = "backfill"
    DEMAND_UNKNOWN = "demand-unknown"
    NO_DEMAND = "no-demand"
    RAMP = "ramp"
    NOT_NEEDED = "not-needed"
    IMAGE_UNKNOWN = "image-unknown"
    NO_DESKTOP = "no-desktop"
    NO_DESKTOP_FREE = "no-desktop-free"


_KNOWN = frozenset(Planned) | UNREAD | BY_NAME.keys()


def silent(desktop: Desktop, settings: PlanSettings, now: datetime) -> Reason | None:
    """Why a desktop is not counted on, if it has not reported lately."""
    seconds = (now - desktop.reported_at).total_seconds()
    if seconds <= settings.stale_seconds:
        return None
    return Reason(
        Planned.DESKTOP_SILENT,
        f"{desktop.name} has not reported for {seconds:.0f} s, so it is not counted on.",
        f"last report {desktop.reported_at:%F %T} UTC, limit {settings.stale_seconds:.0f} s",
    )


def unfit(desktop: Desktop, settings: PlanSettings, health: Health, now: datetime) -> Reason | None:
    """Why a desktop may not be asked to start anything now, or None."""
    if (reason := silent(desktop, settings, now)) is not None:
        return reason
    if not desktop.availability.available:
        nothing = Reason(Planned.UNAVAILABLE, f"{desktop.name} offers nothing.")
        return next(iter(desktop.availability.refusals), nothing)
    standing = health.desktop(desktop.name, now)
    return None if standing.allowed else standing.reason


def could_start(
    desktop: Desktop, image: ImageFacts, size: Size, settings: PlanSettings, health: Health, now: datetime
) -> bool:
    """Whether this desktop could start such a VM now, as far as its last report tells."""
    if unfit(desktop, settings, health, now) is not None or not fits(desktop, size):
        return False
    return health.image_on(image.ref.name, desktop.name, now).allowed


def fits(desktop: Desktop, size: Size) -> bool:
    """Whether the desktop has the room for one more VM of this size."""
    room = desktop.room
    return room.vms > 0 and room.cpus >= size.cpus and room.memory_bytes >= size.memory_bytes and room.disk_bytes > 0


def on_its_way(live: LiveLease, settings: PlanSettings, now: datetime) -> bool:
    """Whether jobs may still be waiting for this VM: not joined yet, or joined and not claimed yet."""
    if live.joined_at is None:
        return now - live.lease.granted_at < timedelta(seconds=settings.join_seconds)
    return not live.claimed and now - live.joined_at < timedelta(seconds=settings.settle_seconds)


def nobody_free(image: str, desktops: int, reasons: Mapping[str, Reason], no_room: int = 0) -> Reason:
    """Why no desktop can start a machine of an image: there is none, or what each of them says.

    Args: desktops: how many there are. reasons: of each, by name. no_room: so many are free but too small.
    """
    if not desktops:
        return Reason(Planned.NO_DESKTOP, "No desktop has reported to the coordinator yet.")
    said = tally(reason for reason in reasons.values() if reason.name != Planned.DEMAND)
    said += [f"{no_room} without room"] if no_room else []
    return Reason(
        Planned.NO_DESKTOP_FREE,
        f"No desktop can start another virtual machine of {image} now.",
        f"{counted(desktops, 'desktop')}: {', '.join(said) or 'all in use by the grid'}",
    )


def tally(reasons: Iterable[Reason]) -> list[str]:
    """How many desktops have each reason, for everybody to read: a name that only its desktop knows is "other"."""
    count = Counter(reason.name if reason.name in _KNOWN else "other" for reason in reasons)
    return [f"{n} {name}" for name, n in count.most_common()]
