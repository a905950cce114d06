"""What desktops took and what they gave, and what machines gave the jobs that they were started for.

Rules:
- A report is one party's word. Room counts up to what the desktop is made of, less what it has taken, and up to the
  operator's bound; so a lie about room costs nobody else a machine.
- Who holds a machine that should have been in the pool long ago gets no other until that one has ended.
- A desktop whose last machines ended (or stay) without a job is tried last, one machine at a time. One that an owner
  ended counts too: it is nobody's fault, and all the same a reason to prefer others.
- A machine that was in the pool, without a job, for `settle_seconds` while a group of jobs waited for just such a one,
  has passed that group over: HTCondor does not give it to them. Each doubles the wait until the next is started for
  that group, one at a time. A machine that came later and was claimed makes it moot. Other groups do not wait with it.
- A machine says of itself what its desktop wants. So where one desktop's machines alone passed a group over and another
  desktop could start one, the group does not wait: one machine at a time shows who is right.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import msgspec

from deskgrid.core.fleet.fitness import Planned, unfit
from deskgrid.core.fleet.groups import together
from deskgrid.core.fleet.health import Health
from deskgrid.model.desktop import Desktop
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import LiveLease, PlanSettings, Snapshot, Spent
from deskgrid.model.pool import JobGroup
from deskgrid.model.reason import Reason
from deskgrid.model.values.names import Name

BARREN = 3
"""Machines in a row without a job after which a desktop is tried last."""


class PassedOver(msgspec.Struct, frozen=True):
    """A group of jobs that machines passed over. waits: none is started for it yet; else exactly one may be."""

    waits: bool
    reason: Reason


class Giving:
    """What each desktop gave for what it took. spent: in any order."""

    def __init__(
        self, spent: Iterable[Spent], leases: Iterable[LiveLease], settings: PlanSettings, now: datetime
    ) -> None:
        self._settings, self._now = settings, now
        self._barren: dict[str, int] = {}
        self._overdue: dict[str, Lease] = {}
        for one in sorted(spent, key=lambda s: s.ended_at):
            self._barren[one.desktop] = 0 if one.claimed else self._barren.get(one.desktop, 0) + 1
        for live in leases:
            desktop = live.lease.desktop
            if live.claimed:
                self._barren[desktop] = 0
            elif live.joined_at is None and now - live.lease.granted_at >= timedelta(seconds=settings.join_seconds):
                self._overdue[desktop] = live.lease
                self._barren[desktop] = self._barren.get(desktop, 0) + 1
            elif _stays_idle(live, settings, now):
                self._barren[desktop] = self._barren.get(desktop, 0) + 1

    def barren(self, desktop: str) -> bool:
        """Whether it is tried last, and with one machine at a time."""
        return self._barren.get(desktop, 0) >= BARREN

    def holds_back(self, desktop: str) -> Reason | None:
        """Why it gets no further machine now."""
        lease = self._overdue.get(desktop)
        if lease is None:
            return None
        return Reason(
            Planned.MACHINE_OVERDUE,
            f"{desktop} has had {lease.vm_id} for {(self._now - lease.granted_at).total_seconds():.0f} s and it is not "
            "in the pool, so it gets no other until that one has ended.",
            f"expected in the pool after {self._settings.join_seconds:.0f} s at the latest",
        )


def _stays_idle(live: LiveLease, settings: PlanSettings, now: datetime) -> bool:
    """Whether it has been in the pool for long and had no job; a backfill VM is there for when none waits."""
    joined, settle = live.joined_at, timedelta(seconds=settings.settle_seconds)
    return joined is not None and now - joined >= settle and live.lease.image.name != settings.backfill


def bounded(snapshot: Snapshot, settings: PlanSettings) -> tuple[Desktop, ...]:
    """The desktops with no more room than they can have, whatever they say."""
    taken: dict[str, list[LiveLease]] = {}
    for live in snapshot.leases:
        taken.setdefault(live.lease.desktop, []).append(live)
    return tuple(_bounded(desktop, taken.get(desktop.name, ()), settings) for desktop in snapshot.desktops)


def _bounded(desktop: Desktop, leases: Iterable[LiveLease], settings: PlanSettings) -> Desktop:
    shown = {vm.vm_id for vm in desktop.vms}
    sizes = [live.lease.size for live in leases if live.lease.vm_id in shown]  # the planner takes off the others
    room = desktop.room
    rest = msgspec.structs.replace(
        room,
        cpus=_at_most(room.cpus, desktop.cpus, sum(size.cpus for size in sizes)),
        memory_bytes=_at_most(room.memory_bytes, desktop.memory_bytes, sum(size.memory_bytes for size in sizes)),
        vms=min(room.vms, settings.desktop_vms - len(sizes)),
    )
    return msgspec.structs.replace(desktop, room=rest)


def _at_most(said: int, whole: int, taken: int) -> int:
    return said if whole <= 0 else min(said, whole - taken)  # a whole of 0 was never said


class _PastMachine(msgspec.Struct, frozen=True):
    """One that has been in the pool. ended_at: None: it is there still."""

    desktop: Name
    joined_at: datetime
    claimed: bool
    ended_at: datetime | None = None


def passed_over(
    rows: Iterable[JobGroup],
    since: Mapping[str, datetime],
    snapshot: Snapshot,
    settings: PlanSettings,
    now: datetime,
) -> dict[str, PassedOver]:
    """The groups of idle jobs that machines of their image have passed over.

    Args:
        since: how long each group has been idle without a break, by `JobGroup.key`. snapshot: leases and what is spent,
            and the desktops, as far as they are to be counted on.
    """
    machines, health = _machines(snapshot), Health(snapshot.outcomes, settings)
    able = [one for one in bounded(snapshot, settings) if unfit(one, settings, health, now) is None]
    found = {}
    for key, group in together(rows).items():
        began = since.get(key)
        if began is None:
            continue
        passes = [
            one
            for (image, size), there in machines.items()
            if image == group.vm_name and _looks_right(size, group)
            for one in _passes(there, began, settings, now)
        ]
        if passes:
            seen_by = {one.desktop for one in passes}
            alone = len(seen_by) == 1 and any(one.name not in seen_by and _has_room(one, group) for one in able)
            found[key] = _standing(group, [one.at for one in passes], alone, settings, now)
    return found


def _has_room(desktop: Desktop, group: JobGroup) -> bool:
    room = desktop.room
    return room.vms > 0 and _looks_right(Size(room.cpus, room.memory_bytes), group)


def _machines(snapshot: Snapshot) -> dict[tuple[Name, Size], list[_PastMachine]]:
    found: dict[tuple[Name, Size], list[_PastMachine]] = {}
    for one in snapshot.spent:
        if one.joined_at is not None:
            machine = _PastMachine(one.desktop, one.joined_at, one.claimed, one.ended_at)
            found.setdefault((one.image, one.size), []).append(machine)
    for live in snapshot.leases:
        if live.joined_at is not None:
            key = (live.lease.image.name, live.lease.size)
            found.setdefault(key, []).append(_PastMachine(live.lease.desktop, live.joined_at, live.claimed))
    return found


def _looks_right(size: Size, group: JobGroup) -> bool:
    """Whether a machine of this size was promised to the group."""
    return size.cpus >= group.cpus and size.memory_bytes >> 20 >= group.memory_mb


class _Pass(msgspec.Struct, frozen=True):
    """A machine of this desktop passed a group over at that time."""

    desktop: Name
    at: datetime


def _passes(there: list[_PastMachine], began: datetime, settings: PlanSettings, now: datetime) -> list[_Pass]:
    """When each machine that came after the last one that was claimed had waited long enough beside the group."""
    settle = timedelta(seconds=settings.settle_seconds)
    last_claimed = max((one.joined_at for one in there if one.claimed), default=None)
    return [
        _Pass(one.desktop, at)
        for one in there
        if not one.claimed
        and (last_claimed is None or one.joined_at > last_claimed)
        and (at := max(one.joined_at, began) + settle) <= (one.ended_at or now)
    ]


def _standing(group: JobGroup, times: list[datetime], alone: bool, settings: PlanSettings, now: datetime) -> PassedOver:
    wait = 0.0 if alone else settings.backoff.seconds(len(times))
    retry_at = max(times) + timedelta(seconds=wait)
    several = len(times) > 1
    return PassedOver(
        now < retry_at,
        Reason(
            "passed-over",
            f"{len(times)} virtual machine{'s' if several else ''} of {group.vm_name} came into the pool and HTCondor "
            f"did not give {'them' if several else 'it'} to the jobs that wait; one more is tried at "
            f"{retry_at:%H:%M:%S} UTC. condor_q -better-analyze says what they ask for.",
            f"jobs of autocluster {group.autocluster} at {group.schedd}, wait {wait:.0f} s",
            retry_at,
        ),
    )
