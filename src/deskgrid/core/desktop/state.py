"""An agent's state: all that it knows, and what follows from that.

Rules:
- A value; `core/desktop/advance.py` makes the next one from the last.
- What follows (may a VM start, may VMs run on, what room is left) is brought up to date by `derived`, always all at
  once.
- JSON and back gives the same state: `deskgrid agent dump` writes it, and a test plays such a file again.
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


class AgentState(msgspec.Struct, frozen=True):
    """All that an agent knows.

    wish: what the owner asked for.
    vms: by id, in the order in which they were begun; none is ENDED.
    ended, story: not acknowledged yet. story_from: how many lines of story went before.
    spent: ids that ended, and when their leases end: a late answer may still name them.
    answered: sequence of the newest answer that was obeyed.
    finishing: why nothing new begins any more.
    proven: accelerators on which a guest has lived here.
    pace: what is remembered for pacing.
    availability, room, standing: what follows: may a VM start, what can be given, may VMs run on.
    wake_at: when pacing refuses no more, if nothing else refuses.
    """

    desktop: str
    policy: Policy
    sensed: Sensed
    wish: Wish | None = None
    vms: Mapping[str, Vm] = msgspec.field(default_factory=dict)
    ended: tuple[VmReport, ...] = ()
    story: tuple[Transition, ...] = ()
    story_from: int = 0
    spent: Mapping[str, datetime] = msgspec.field(default_factory=dict)
    answered: int = -1
    finishing: Reason | None = None
    proven: frozenset[str] = frozenset()
    pace: Pace = Pace()
    availability: Availability = Availability(False)
    room: Room = Room(0, 0, 0, 0)
    standing: Standing = Standing(None, None, 0, False, 0)
    wake_at: datetime | None = None


def begin(
    desktop: str,
    policy: Policy,
    sensed: Sensed,
    now: datetime,
    vms: Sequence[Vm] = (),
    wish: Wish | None = None,
    proven: frozenset[str] = frozenset(),
) -> AgentState:
    """An agent's first state.

    Args:
        desktop: its name. policy: what it allows. sensed: the first look. now: the steady clock.
        vms: those that it found running. wish: what its owner asked for in an earlier life of the agent.
        proven: accelerators on which a guest has lived here, as the hypervisor remembers.
    """
    proven |= {vm.accelerator for vm in vms if vm.alive}
    pace = pacing.load_seen(Pace(), policy, sensed.machine, now)
    here = {vm.id: vm for vm in vms}
    return derived(AgentState(desktop, policy, sensed, wish, here, proven=proven, pace=pace), now)


def derived(state: AgentState, now: datetime) -> AgentState:
    """Bring what follows from the rest up to date."""
    sensed, policy = state.sensed, state.policy
    waits = pacing.waits(state.pace, state.desktop, sensed.local.date(), now)
    facts = Facts(sensed.reading, sensed.machine, sensed.local, sensed.faults, state.wish, waits)
    refusals, paced = decide.refusals(policy, facts)
    pace = pacing.cleared(state.pace, not refusals, now)
    if pace is not state.pace:
        facts = msgspec.structs.replace(facts, waits=pacing.waits(pace, state.desktop, sensed.local.date(), now))
        refusals, paced = decide.refusals(policy, facts)
    return msgspec.structs.replace(
        state,
        availability=decide.available(facts, [*refusals, *paced]),
        room=room(policy, sensed.machine, tuple(state.vms.values())),
        standing=decide.standing(policy, facts),
        pace=pace,
        wake_at=None if refusals else pacing.over_at(policy, facts.waits, now),
    )


def unsaid(before: AgentState, after: AgentState) -> bool:
    """Whether the coordinator should hear at once: VMs changed, ended, or the answer to "may VMs start" did."""
    return (
        before.availability.available != after.availability.available
        or [(vm.id, vm.state) for vm in before.vms.values()] != [(vm.id, vm.state) for vm in after.vms.values()]
        or any(vm not in before.ended for vm in after.ended)
    )


def reports(state: AgentState) -> tuple[VmReport, ...]:
    """The VMs that are here, as a report names them."""
    return tuple(report(vm) for vm in state.vms.values())


def report(vm: Vm) -> VmReport:
    """A VM as a report names it."""
    return VmReport(vm.id, vm.lease.image, vm.lease.size, vm.state, vm.since, vm.reason, vm.accelerator, vm.fault)


def next_due(state: AgentState) -> datetime | None:
    """When the next deadline, lease end or start falls, or None."""
    times = [vm.lease.until for vm in state.vms.values() if vm.state not in ENDING]
    times += [state.wake_at] if state.wake_at is not None else []
    times += [vm.deadline for vm in state.vms.values() if vm.deadline is not None]
    return min(times, default=None)
