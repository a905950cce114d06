"""What a desktop's agent decides: from what it senses, is told and hears of its VMs, to commands. One pure `step`.

Rules, told first:
- The owner always wins: a reading that refuses reaches every VM before anything else is looked at.
- The coordinator's answer says all that should run; what it no longer names is withdrawn, what it names anew is begun
  only if the policy allows it now and there is room. A refused order ends at once, with the reason, and is not retried.
- A lease that is over is withdrawn, whether the coordinator can be reached or not.
- Memory short: VMs end at once, newest first, one at a time. Only a fresh reading says that it is (still) short: one
  from before the last VM ended says nothing about the memory that is back.
- What has ended stays ended: a driver that says that such a VM runs is told to kill it.
- Lease times are moved to this desktop's clock when they arrive, so that a clock that is wrong does no harm.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from deskgrid.core import limits
from deskgrid.core import policy as decide
from deskgrid.core.vm import TABLE, Command, Event, Kind, Vm, order, step
from deskgrid.model.desktop import Availability, Fault, Room, Transition, VmReport, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason

STORY_LINES = 1000
"""So many unacknowledged lines of story are kept; then the oldest go."""
_ENDING = (VmState.LEAVING, VmState.KILLING, VmState.ENDED)
_WITHDRAWN = Reason("withdrawn", "The coordinator no longer wants this virtual machine here.")
_LEASE_OVER = Reason("lease-over", "Its lease is over and was not renewed.")


class Sensed(msgspec.Struct, frozen=True):
    """Presence and resources were read. local: now in the desktop's time zone. faults: see `availability`."""

    reading: Reading
    machine: Machine
    local: datetime
    faults: tuple[Reason, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """The coordinator answered a report.

    their_now: its clock. to: the sequence of the report it answers. story_until: so many lines of story, counted from
    the agent's start, are recorded there.
    """

    to: int
    their_now: datetime
    leases: tuple[Lease, ...]
    acknowledged: tuple[str, ...] = ()
    story_until: int = 0


class Happened(msgspec.Struct, frozen=True):
    """Something happened to a VM."""

    vm_id: str
    event: Event


class Noted(msgspec.Struct, frozen=True):
    """Something that decides nothing, but belongs into a VM's story."""

    vm_id: str
    event: str
    sentence: str


class Ticked(msgspec.Struct, frozen=True):
    """Time passed."""


class Finishing(msgspec.Struct, frozen=True):
    """The agent is to stop: every VM is asked to leave."""

    reason: Reason


Input = Sensed | Told | Happened | Noted | Ticked | Finishing


class Act(msgspec.Struct, frozen=True):
    """A command for the drivers of one VM. lease: of a VM that is known; accelerator: for DISTRUST."""

    vm_id: str
    command: Command
    lease: Lease | None = None
    accelerator: str = ""


class Desk(msgspec.Struct, frozen=True):
    """All that an agent knows.

    vms: by id, in the order in which they were begun; none is ENDED. ended, story: not acknowledged yet.
    story_from: how many lines of story went before.
    spent: ids that ended, and when their leases end: a late answer may still name them. told: sequence of the newest
    answer.
    go_on: why VMs may not run on now, or None. proven: accelerators on which a guest has lived here.
    """

    policy: Policy
    sensed: Sensed
    availability: Availability
    room: Room
    go_on: Reason | None
    vms: Mapping[str, Vm] = msgspec.field(default_factory=dict)
    ended: tuple[VmReport, ...] = ()
    story: tuple[Transition, ...] = ()
    story_from: int = 0
    spent: Mapping[str, datetime] = msgspec.field(default_factory=dict)
    told: int = -1
    finishing: Reason | None = None
    proven: frozenset[str] = frozenset()


def begin(policy: Policy, sensed: Sensed, vms: Sequence[Vm] = ()) -> Desk:
    """An agent's first state, with the VMs that it found running."""
    proven = frozenset(vm.accelerator for vm in vms if vm.alive)
    here = {vm.id: vm for vm in vms}
    desk = Desk(policy, sensed, Availability(False), Room(0, 0, 0, 0), None, here, proven=proven)
    return _judged(desk)


def advance(desk: Desk, given: Input, now: datetime) -> tuple[Desk, tuple[Act, ...]]:
    """Decide what one input means.

    Args:
        desk: what is known. given: what came in. now: when (the agent's own steady clock, aware UTC).

    Returns:
        What is known now, and what drivers must do, in order.
    """
    work = _Work(desk, now)
    match given:
        case Sensed():
            work.desk = _judged(msgspec.structs.replace(desk, sensed=given))
            work.obey_owner()
            work.obey_memory()
        case Told():
            work.obey_coordinator(given)
        case Happened():
            work.happen(given.vm_id, given.event)
        case Noted():
            work.note(given)
        case Finishing():
            work.desk = msgspec.structs.replace(desk, finishing=given.reason)
            for vm_id in work.ids():
                work.happen(vm_id, Event(Kind.WITHDRAWN, given.reason))
        case Ticked():
            pass
        case _:
            assert_never(given)
    work.obey_time()
    return _judged(work.desk), tuple(work.acts)


def unsaid(before: Desk, after: Desk) -> bool:
    """Whether the coordinator should hear at once: VMs changed, ended, or the answer to "may VMs start" did."""
    return (
        before.availability.available != after.availability.available
        or [(vm.id, vm.state) for vm in before.vms.values()] != [(vm.id, vm.state) for vm in after.vms.values()]
        or any(vm not in before.ended for vm in after.ended)
    )


def reports(desk: Desk) -> tuple[VmReport, ...]:
    """The VMs that are here, as a report tells them."""
    return tuple(_report(vm) for vm in desk.vms.values())


def next_due(desk: Desk) -> datetime | None:
    """When the next deadline or lease end falls, or None."""
    times = [vm.lease.until for vm in desk.vms.values() if vm.state not in _ENDING]
    times += [vm.deadline for vm in desk.vms.values() if vm.deadline is not None]
    return min(times, default=None)


class _Work:
    """The bookkeeping of one call of `advance`."""

    def __init__(self, desk: Desk, now: datetime) -> None:
        self.desk, self.now = desk, now
        self.acts: list[Act] = []

    def ids(self) -> list[str]:
        return list(self.desk.vms)

    def happen(self, vm_id: str, event: Event) -> None:
        vm = self.desk.vms.get(vm_id)
        if vm is None:
            self.acts += [Act(vm_id, command) for command in TABLE[VmState.ENDED][event.kind].commands]
            return
        after, commands = step(vm, event, self.now)
        self.acts += [Act(vm_id, command, after.lease, after.accelerator) for command in commands]
        if event.kind is Kind.ALIVE and after.accelerator not in self.desk.proven:
            self.desk = msgspec.structs.replace(self.desk, proven=self.desk.proven | {after.accelerator})
        self._keep(vm, after, event)

    def note(self, noted: Noted) -> None:
        if (vm := self.desk.vms.get(noted.vm_id)) is not None:
            self._tell(Transition(vm.id, self.now, vm.state, noted.event, noted.sentence))

    def _tell(self, line: Transition) -> None:
        desk = self.desk
        lost = max(0, len(desk.story) + 1 - STORY_LINES)
        story = (*desk.story, line)[lost:]
        self.desk = msgspec.structs.replace(desk, story=story, story_from=desk.story_from + lost)

    def _keep(self, before: Vm | None, after: Vm, event: Event) -> None:
        if before is None or before.state is not after.state:
            self._tell(Transition(after.id, self.now, after.state, event.kind, event.reason.sentence))
        desk = self.desk
        vms = {**desk.vms, after.id: after}
        ended, spent = desk.ended, desk.spent
        if after.state is VmState.ENDED:
            del vms[after.id]
            ended = (*ended, _report(after))
            spent = {**spent, after.id: after.lease.until}
        self.desk = msgspec.structs.replace(desk, vms=vms, ended=ended, spent=spent)

    def obey_owner(self) -> None:
        reason = self.desk.go_on
        for vm_id in self.ids():
            vm = self.desk.vms[vm_id]
            if reason is not None and vm.state is not VmState.PAUSED:
                self.happen(vm_id, _refusal(self.desk.policy, reason))
            elif reason is None and vm.state is VmState.PAUSED:
                self.happen(vm_id, Event(Kind.ALLOWED, Reason("allowed", "The owner has left again.")))

    def obey_coordinator(self, told: Told) -> None:
        if told.to <= self.desk.told:
            return  # late or repeated: a newer answer has been obeyed
        known = min(max(0, told.story_until - self.desk.story_from), len(self.desk.story))
        ours = {lease.vm_id: _on_our_clock(lease, told.their_now, self.now) for lease in told.leases}
        ended = tuple(vm for vm in self.desk.ended if vm.vm_id not in told.acknowledged)
        unsettled = {*ours, *(vm.vm_id for vm in ended)}
        self.desk = msgspec.structs.replace(
            self.desk,
            told=told.to,
            ended=ended,
            story=self.desk.story[known:],
            story_from=self.desk.story_from + known,
            spent={vm_id: until for vm_id, until in self.desk.spent.items() if until > self.now or vm_id in unsettled},
        )
        for vm_id in self.ids():
            if vm_id in ours:
                self.happen(vm_id, Event(Kind.LEASE, ours[vm_id].reason, until=ours[vm_id].until))
            else:
                self.happen(vm_id, Event(Kind.WITHDRAWN, _WITHDRAWN))
        for lease in ours.values():
            if lease.vm_id not in self.desk.vms and lease.vm_id not in self.desk.spent:
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        self.desk = _judged(self.desk)
        vm, commands = order(lease, self.now)
        event = Event(Kind.LEASE, lease.reason)
        refusal = self._refuse(lease)
        self._keep(None, vm, event)
        if refusal is not None:
            self._keep(vm, msgspec.structs.replace(vm, state=VmState.ENDED, reason=refusal), Event(event.kind, refusal))
            return
        self.acts += [Act(vm.id, command, lease) for command in commands]

    def _refuse(self, lease: Lease) -> Reason | None:
        desk = self.desk
        if desk.finishing is not None:
            return desk.finishing
        if not desk.availability.available:
            return desk.availability.refusals[0]
        if lease.until <= self.now:
            return _LEASE_OVER
        size, room = lease.size, desk.room
        if room.vms > 0 and room.cpus >= size.cpus and room.memory_bytes >= size.memory_bytes and room.disk_bytes > 0:
            return None
        return Reason(
            "no-room",
            "The computer has no room for a further virtual machine of this size.",
            f"asked {size.cpus} CPUs and {size.memory_bytes >> 20} MiB; "
            f"free {room.cpus} CPUs, {room.memory_bytes >> 20} MiB, {room.vms} VMs, {room.disk_bytes >> 20} MiB disk",
        )

    def obey_time(self) -> None:
        for vm_id in self.ids():
            vm = self.desk.vms[vm_id]
            if vm.lease.until <= self.now and vm.state not in _ENDING:
                self.happen(vm_id, Event(Kind.WITHDRAWN, _LEASE_OVER))
            elif vm.deadline is not None and vm.deadline <= self.now:
                silent = vm.state is VmState.BOOTING and vm.accelerator in self.desk.proven
                self.happen(vm_id, Event(Kind.DUE, _due(vm), fault=Fault.IMAGE if silent else Fault.NONE))

    def obey_memory(self) -> None:
        reason = limits.memory_is_short(self.desk.policy, self.desk.sensed.machine)
        if reason is None:
            return
        ending = [vm.id for vm in self.desk.vms.values() if vm.state in _ENDING]
        for vm_id in ending or self.ids()[-1:]:
            self.happen(vm_id, Event(Kind.REFUSED_NOW, reason))


def _judged(desk: Desk) -> Desk:
    """Bring what follows from the rest up to date."""
    sensed, vms = desk.sensed, tuple(desk.vms.values())
    return msgspec.structs.replace(
        desk,
        availability=decide.availability(desk.policy, sensed.reading, sensed.machine, sensed.local, sensed.faults),
        room=limits.room(desk.policy, sensed.machine, vms),
        go_on=decide.may_go_on(desk.policy, sensed.reading, sensed.local),
    )


def _refusal(policy: Policy, reason: Reason) -> Event:
    if policy.grace_seconds > 0:
        return Event(Kind.REFUSED, reason, grace_seconds=policy.grace_seconds)
    return Event(Kind.REFUSED_NOW, reason)


def _on_our_clock(lease: Lease, their_now: datetime, our_now: datetime) -> Lease:
    return msgspec.structs.replace(lease, until=our_now + max(lease.until - their_now, timedelta(0)))


def _due(vm: Vm) -> Reason:
    sentences = {
        VmState.FETCHING: "Its image did not arrive in time.",
        VmState.STARTING: "The hypervisor did not start it in time.",
        VmState.BOOTING: f"Its guest gave no sign of life on {vm.accelerator or 'this accelerator'} in time.",
        VmState.RUNNING: "Its lease is over and was not renewed.",
        VmState.PAUSED: "The owner stayed.",
        VmState.LEAVING: "Its guest did not leave in time.",
        VmState.KILLING: "It has not ended yet, so it is ended again.",
    }
    return Reason(f"{vm.state}-overdue", sentences[vm.state], f"in {vm.state} since {vm.since:%H:%M:%S} UTC")


def _report(vm: Vm) -> VmReport:
    return VmReport(vm.id, vm.lease.image, vm.lease.size, vm.state, vm.since, vm.reason, vm.accelerator, vm.fault)
