"""Which desktop starts which image: one pure function, from one snapshot and one `now`.

Rules:
- HTCondor decides: VMs are started for demand and for nothing else; what is on its way counts against the demand.
- Unknown demand is not zero demand: when HTCondor could not be read, nothing is granted and nothing taken away.
  The planner takes no lease away but that of a backfill VM for which a job waits; VMs without work leave by themselves.
- Prefer desktops that hold the image, then those likely to stay idle: nobody logged in, long idle. (Idle gaps have
  a falling hazard: the longer idle, the longer it lasts.) What a desktop says of itself moves nobody else: its idle
  time counts up to a bound, its room up to what it is made of, and one that gave nothing comes last (`giving.py`).
- Limit the ramp. Back off from images and desktops that fail; probe with exactly one VM.
- Every desktop gets a reason, every shortage too.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from deskgrid.core.fleet import backfill
from deskgrid.core.fleet.fitness import Planned, fits, nobody_free, on_its_way, unfit
from deskgrid.core.fleet.giving import Giving, bounded
from deskgrid.core.fleet.health import Health, StartHealth
from deskgrid.model.desktop import Desktop
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import Grant, LiveLease, Plan, PlanSettings, Shortage, Snapshot, Want
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted

_IDLE_SECONDS = 8 * 3600.0
"""Who has been idle for a working day is as good as who says it was for a year."""


def plan(snapshot: Snapshot, settings: PlanSettings, now: datetime) -> Plan:
    """Decide which VMs to start.

    Args:
        snapshot: what is known. settings: how boldly to act. now: one instant for all (aware UTC).

    Returns:
        The grants, the demand that stays unmet with its reason, and a reason per desktop.
    """
    snapshot = msgspec.structs.replace(
        snapshot, desktops=bounded(snapshot, settings), wants=backfill.wants(snapshot, settings)
    )
    return _Planner(snapshot, settings, now).run()


class _Planner:
    """The bookkeeping of one call of `plan`; lives no longer than that."""

    def __init__(self, snapshot: Snapshot, settings: PlanSettings, now: datetime) -> None:
        self.snapshot, self.settings, self.now = snapshot, settings, now
        self.health = Health(snapshot.outcomes, settings)
        self.giving = Giving(snapshot.spent, snapshot.leases, settings, now)
        self.images = {image.ref.name: image for image in snapshot.images}
        self.reasons = {d.name: r for d in snapshot.desktops if (r := self._unfit(d)) is not None}
        leases = _by_desktop(snapshot.leases)
        self.free = {
            d.name: _without_unseen(d, leases.get(d.name, ())) for d in snapshot.desktops if d.name not in self.reasons
        }
        self.starting = [live.lease for live in snapshot.leases if on_its_way(live, settings, now)]
        self.ramp = max(0, min(settings.ramp, settings.max_starting - len(self.starting)))
        self.grants: list[Grant] = []
        self.shortages: list[Shortage] = []

    def run(self) -> Plan:
        for want in self.snapshot.wants or ():
            self._serve(want)
        for desktop in self.free:
            self.reasons.setdefault(desktop, self._idle_reason())
        spare = backfill.idle(self.snapshot.leases, self.settings)
        ended = backfill.make_way(self.shortages, self.free.values(), spare)
        standings = {name: self.health.image(name, self.now) for name in self.images}
        resting = {name: one.reason for name, one in standings.items() if one.reason is not None and not one.allowed}
        return Plan(self.now, tuple(self.grants), tuple(self.shortages), self.reasons, ended, resting)

    def _serve(self, want: Want) -> None:
        coming = sum(1 for lease in self.starting if (lease.image.name, lease.size) == (want.image, want.size))
        missing = want.vms - (coming if want.jobs else 0)  # a backfill's want says what lacks
        if missing <= 0:
            return
        image = self.images.get(want.image)
        if image is None:
            self._short(want, missing, Reason(Planned.IMAGE_UNKNOWN, f"No image named {want.image} is on offer."))
            return
        standing = self.health.image(want.image, self.now)
        if standing.reason is not None and (not standing.allowed or self._on_the_way(want.image)):
            self._short(want, missing, standing.reason)
            return
        goal = 1 if standing.probing else missing
        given = 0
        for desktop in self._candidates(image, want.size, standing):
            if given == goal or len(self.grants) >= self.ramp:
                break
            self._grant(desktop, image, want)
            given += 1
        if given < missing:
            able = [d.name for d in self.free.values() if fits(d, want.size)]
            alone = self.health.of_the_only(want.image, able, self.now)
            self._short(want, missing - given, standing.reason or alone or self._why_short(want))

    def _grant(self, desktop: Desktop, image: ImageFacts, want: Want) -> None:
        idle = "unknown" if desktop.availability.idle_seconds is None else f"{desktop.availability.idle_seconds:.0f} s"
        held = image.ref in desktop.images
        meanwhile = Reason(Planned.BACKFILL, f"No job waits, so {desktop.name} runs {want.image} meanwhile.")
        demand = Reason(
            Planned.DEMAND,
            f"{counted(want.jobs, 'waiting job')} named {want.image}, and {desktop.name} is idle"
            f"{' and holds the image' if held else ''}.",
            f"{want.vms} wanted; idle {idle}; "
            f"{desktop.room.memory_bytes >> 20} MiB and {counted(desktop.room.cpus, 'CPU')} free",
        )
        reason = demand if want.jobs else meanwhile
        self.grants.append(Grant(desktop.name, image.ref, want.size, reason))
        self.reasons[desktop.name] = reason
        self.free[desktop.name] = _less(desktop, want.size)

    def _candidates(self, image: ImageFacts, size: Size, standing: StartHealth) -> Iterable[Desktop]:
        """The desktops with room, best first; for a probe, those whose word counts come first."""
        coming = Counter([*(g.desktop for g in self.grants), *(lease.desktop for lease in self.starting)])
        fitting = [d for d in self.free.values() if fits(d, size) and coming[d.name] < self._may_start(d.name, image)]
        barren, seen, good = self.giving.barren, standing.witnesses, self.health.good
        if not standing.probing:
            failed = {d.name: self.health.image_on(image.ref.name, d.name, self.now).probing for d in fitting}
            return sorted(fitting, key=lambda d: (barren(d.name), failed[d.name], _preference(d, image)))
        return sorted(
            fitting, key=lambda d: (barren(d.name), d.name in seen, d.name not in good, _preference(d, image))
        )

    def _may_start(self, desktop: str, image: ImageFacts) -> int:
        """How many VMs it may have on their way; one that has failed, or gave nothing, one at a time."""
        alone = self.health.image_on(image.ref.name, desktop, self.now)
        if not alone.allowed:
            return 0
        if alone.probing or self.giving.barren(desktop) or self.health.desktop(desktop, self.now).probing:
            return 1
        return self.settings.desktop_starting

    def _on_the_way(self, image: str) -> bool:
        return image in {lease.image.name for lease in self.starting} | {g.image.name for g in self.grants}

    def _unfit(self, desktop: Desktop) -> Reason | None:
        reason = unfit(desktop, self.settings, self.health, self.now)
        return reason if reason is not None else self.giving.holds_back(desktop.name)

    def _idle_reason(self) -> Reason:
        if self.snapshot.wants is None:
            return Reason(
                Planned.DEMAND_UNKNOWN, "HTCondor could not be asked, so nothing new starts until it answers."
            )
        if not any(want.jobs for want in self.snapshot.wants):
            return Reason(Planned.NO_DEMAND, "No job waits for an image that this desktop could start.")
        if len(self.grants) >= self.ramp:
            return Reason(Planned.RAMP, "Enough virtual machines are starting; this desktop's turn comes later.")
        return Reason(Planned.NOT_NEEDED, "Other desktops serve the jobs that wait, or this one has no room for them.")

    def _why_short(self, want: Want) -> Reason:
        if len(self.grants) >= self.ramp:
            return Reason(
                Planned.RAMP,
                "Enough virtual machines are starting; the rest follows in later cycles.",
                f"{len(self.grants)} granted in this cycle, {len(self.starting)} on their way, "
                f"limits {self.settings.ramp} and {self.settings.max_starting}",
            )
        no_room = len(self.free) - len({g.desktop for g in self.grants})
        return nobody_free(want.image, len(self.snapshot.desktops), self.reasons, no_room)

    def _short(self, want: Want, vms: int, reason: Reason) -> None:
        if want.jobs:
            room = reason.name == Planned.NO_DESKTOP_FREE
            self.shortages.append(Shortage(want.image, want.size, vms, reason, room))


def _preference(desktop: Desktop, image: ImageFacts) -> tuple[bool, bool, float, str]:
    """Sort key, best first: holds the image, nobody logged in, longest idle, name."""
    availability = desktop.availability
    return (
        image.ref not in desktop.images,
        availability.logged_in is not False,
        -min(availability.idle_seconds or 0.0, _IDLE_SECONDS),
        desktop.name,
    )


def _less(desktop: Desktop, size: Size) -> Desktop:
    room = desktop.room
    rest = msgspec.structs.replace(
        room,
        cpus=room.cpus - size.cpus,
        memory_bytes=room.memory_bytes - size.memory_bytes,
        vms=room.vms - 1,
    )
    return msgspec.structs.replace(desktop, room=rest)


def _by_desktop(leases: Iterable[LiveLease]) -> dict[str, list[Lease]]:
    found: dict[str, list[Lease]] = {}
    for live in leases:
        found.setdefault(live.lease.desktop, []).append(live.lease)
    return found


def _without_unseen(desktop: Desktop, leases: Sequence[Lease]) -> Desktop:
    """Take away the room of its leases that the desktop's last report does not show yet."""
    seen = {vm.vm_id for vm in desktop.vms}
    for lease in leases:
        if lease.vm_id not in seen:
            desktop = _less(desktop, lease.size)
    return desktop
