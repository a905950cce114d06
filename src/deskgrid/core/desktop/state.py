"""All that an agent knows, and what follows from it.

Rules, told first:
- `Desk` is a value; `core/desktop/advance.py` makes the next one from the last. What follows from the rest (may a VM
  start, may VMs run on, what room is left) is brought up to date by `judged`, always all at once.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from deskgrid.core.desktop.inputs import Sensed
from deskgrid.core.desktop.room import room
from deskgrid.core.desktop.vm import Vm
from deskgrid.core.policy import availability as decide
from deskgrid.core.policy import pacing
from deskgrid.core.policy.availability import Standing
from deskgrid.core.policy.facts import Facts
from deskgrid.core.policy.pacing import Pace
from deskgrid.model.desktop import Availability, Room, Transition, VmReport, VmState
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish

ENDING = (VmState.LEAVING, VmState.KILLING, VmState.ENDED)


class Desk(msgspec.Struct, frozen=True):
    """All that an agent knows.

    vms: by id, in the order in which they were begun; none is ENDED. ended, story: not acknowledged yet.
    story_from: how many lines of story went before.
    spent: ids that ended, and when their leases end: a late answer may still name them. told: sequence of the newest
    answer.
    standing: may the VMs that are here run on?
    wish: what the owner asked for. pace: what is remembered for pacing. wake_at: when pacing refuses no more, if
    nothing else refuses. proven: accelerators on which a guest has lived here.
    """

    desktop: str
    policy: Policy
    sensed: Sensed
    availability: Availability
    room: Room
    standing: Standing
    vms: Mapping[str, Vm] = msgspec.field(default_factory=dict)
    ended: tuple[VmReport, ...] = ()
    story: tuple[Transition, ...] = ()
    story_from: int = 0
    spent: Mapping[str, datetime] = msgspec.field(default_factory=dict)
    told: int = -1
    finishing: Reason | None = None
    proven: frozenset[str] = frozenset()
    wish: Wish | None = None
    pace: Pace = Pace()
    wake_at: datetime | None = None


def begin(
    desktop: str, policy: Policy, sensed: Sensed, now: datetime, vms: Sequence[Vm] = (), wish: Wish | None = None
) -> Desk:
    """An agent's first state.

    Args:
        desktop: its name. policy: what it allows. sensed: the first look. now: the steady clock.
        vms: those that it found running. wish: what its owner asked for in an earlier life of the agent.
    """
    proven = frozenset(vm.accelerator for vm in vms if vm.alive)
    here = {vm.id: vm for vm in vms}
    pace = pacing.load_seen(Pace(), policy, sensed.machine, now)
    nothing = Availability(False), Room(0, 0, 0, 0), Standing(None, None, 0, False, 0)
    return judged(Desk(desktop, policy, sensed, *nothing, here, proven=proven, wish=wish, pace=pace), now)


def judged(desk: Desk, now: datetime) -> Desk:
    """Bring what follows from the rest up to date."""
    sensed, policy = desk.sensed, desk.policy
    waits = pacing.waits(desk.pace, desk.desktop, sensed.local.date(), now)
    facts = Facts(sensed.reading, sensed.machine, sensed.local, sensed.faults, desk.wish, waits)
    refusals, paced = decide.refusals(policy, facts)
    pace = pacing.cleared(desk.pace, not refusals, now)
    if pace is not desk.pace:
        facts = msgspec.structs.replace(facts, waits=pacing.waits(pace, desk.desktop, sensed.local.date(), now))
        refusals, paced = decide.refusals(policy, facts)
    return msgspec.structs.replace(
        desk,
        availability=decide.available(facts, [*refusals, *paced]),
        room=room(policy, sensed.machine, tuple(desk.vms.values())),
        standing=decide.standing(policy, facts),
        pace=pace,
        wake_at=None if refusals else pacing.over_at(policy, facts.waits, now),
    )


def unsaid(before: Desk, after: Desk) -> bool:
    """Whether the coordinator should hear at once: VMs changed, ended, or the answer to "may VMs start" did."""
    return (
        before.availability.available != after.availability.available
        or [(vm.id, vm.state) for vm in before.vms.values()] != [(vm.id, vm.state) for vm in after.vms.values()]
        or any(vm not in before.ended for vm in after.ended)
    )


def reports(desk: Desk) -> tuple[VmReport, ...]:
    """The VMs that are here, as a report tells them."""
    return tuple(report(vm) for vm in desk.vms.values())


def next_due(desk: Desk) -> datetime | None:
    """When the next deadline, lease end or start falls, or None."""
    times = [vm.lease.until for vm in desk.vms.values() if vm.state not in ENDING]
    times += [desk.wake_at] if desk.wake_at is not None else []
    times += [vm.deadline for vm in desk.vms.values() if vm.deadline is not None]
    return min(times, default=None)


def report(vm: Vm) -> VmReport:
    return VmReport(vm.id, vm.lease.image, vm.lease.size, vm.state, vm.since, vm.reason, vm.accelerator, vm.fault)
