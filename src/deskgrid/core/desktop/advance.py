"""What an agent decides: from what it senses, is ordered and hears of its VMs, to commands. One pure function.

Rules:
- What came in is applied, what follows is derived once, then VMs react: to the owner before anything else.
- The coordinator's answer names all that should run; what it no longer names is withdrawn, what it names anew begins
  only if the policy allows it now and there is room. A refused order ends at once, with the reason, and is not retried.
- A lease that is over is withdrawn, whether the coordinator can be reached or not.
- Memory or disk short: VMs end at once, newest first, one at a time. Only a fresh reading says that it is (still)
  short: one from before the last VM ended says nothing about the memory that is back. Of a reading that is a mean over
  some time, that time must pass too.
- A wish, another policy and a computer that sleeps or shuts down are obeyed at once, like an owner who returns.
- While somebody uses the computer the policy may let its oldest VMs run on, never new ones.
- What has ended stays ended: a driver that reports such a VM gets a kill.
- Lease times are moved to this desktop's clock when they arrive, so that a clock that is wrong does no harm.
- Whether an accelerator is to be trusted is decided here alone: one on which a guest has lived is; a guest that is
  silent there is its image's fault.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from deskgrid.core.commands import Distrust, Kill, Prove
from deskgrid.core.desktop.inputs import (
    Act,
    Doubted,
    Finishing,
    HandingOver,
    Input,
    Ordered,
    Ruled,
    Sensed,
    Ticked,
    Wished,
)
from deskgrid.core.desktop.state import ENDING, AgentState, derived, report
from deskgrid.core.desktop.vm import LEAVE_SECONDS, TABLE, Vm, order, step, waited_out
from deskgrid.core.events import Alive, Allowed, AnyEvent, Due, HandedOver, Happened, Leased, RefusedNow, Withdrawn
from deskgrid.core.policy import pacing
from deskgrid.core.policy.refusals import BY_NAME
from deskgrid.model.desktop import Fault, Transition, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted

STORY_LINES = 1000
"""Unacknowledged lines of story that are kept; then the oldest go."""
_LONGEST_LEASE = timedelta(days=31)
"""Whatever a coordinator says: one that is never heard again is not obeyed for ever."""
_AT_WORK = (VmState.RUNNING, VmState.PAUSED)
_WITHDRAWN = Reason("withdrawn", "The coordinator no longer wants this virtual machine here.")
_ALLOWED = Reason("allowed", "The owner has left again.")
_SPARED = Reason("spared", "The policy lets it run on while somebody uses the computer.")
_UPGRADE = Reason("agent-upgrade", "The agent of this desktop makes way for a newer one.")
_WAITED_OUT = "It waited too long for data of its image."
_LEASE_OVER = Reason("lease-over", "Its lease is over and was not renewed.")


def advance(state: AgentState, given: Iterable[Input], now: datetime) -> tuple[AgentState, tuple[Act, ...]]:
    """Decide what has come in together.

    Args:
        state: what is known. given: what came in, in order. now: when (the agent's own steady clock, aware UTC).

    Returns:
        What is known now, and what drivers must do, in order.
    """
    given = tuple(given)
    known = _applied(state, given, now)
    work = _Work(known, now)
    if any(isinstance(one, Sensed | Wished | Ruled) for one in given):
        work.obey_owner()
    for one in given:
        match one:
            case Sensed():
                work.obey_memory()
            case Ordered():
                work.obey_coordinator(one)
            case Happened():
                work.happen(one.vm_id, one.event)
            case Finishing() | HandingOver():
                work.stop(one)
            case Doubted():
                work.distrust(one.accelerators)
            case Wished() | Ruled() | Ticked():
                pass
            case _:
                assert_never(one)
    work.obey_time()
    return known if work.state is known else derived(work.state, now), tuple(work.acts)


def _applied(state: AgentState, given: tuple[Input, ...], now: datetime) -> AgentState:
    """What is known with what came in, and what follows from it."""
    for one in given:
        match one:
            case Sensed():
                pace = pacing.load_seen(state.pace, state.policy, one.machine, now)
                state = msgspec.structs.replace(state, sensed=one, pace=pace)
            case Wished():
                state = msgspec.structs.replace(state, wish=one.wish)
            case Ruled():
                state = msgspec.structs.replace(state, policy=one.policy)
            case Finishing():
                state = msgspec.structs.replace(state, finishing=one.reason)
            case HandingOver():
                state = msgspec.structs.replace(state, finishing=_UPGRADE)
            case _:
                pass
    return derived(state, now)


class _Work:
    """The bookkeeping of one call of `advance`."""

    def __init__(self, state: AgentState, now: datetime) -> None:
        self.state, self.now = state, now
        self.acts: list[Act] = []

    def change(self, **fields: object) -> None:
        self.state = msgspec.structs.replace(self.state, **fields)

    def happen(self, vm_id: str, event: AnyEvent) -> None:
        vm = self.state.vms.get(vm_id)
        if vm is None:
            row = TABLE[VmState.ENDED].get(type(event))
            self.acts += [Act(vm_id, Kill()) for _ in row.commands] if row is not None else []
            return
        after, commands = step(vm, event, self.now)
        self.acts += [Act(vm_id, command) for command in commands]
        if isinstance(event, Alive) and after.accelerator not in self.state.proven:
            self.change(proven=self.state.proven | {after.accelerator})
            self.acts.append(Act(vm_id, Prove(after.accelerator)))
        self._keep(vm, after, event)

    def _keep(self, before: Vm | None, after: Vm, event: AnyEvent) -> None:
        moved = before is None or before.state is not after.state or (after.waited and not before.waited)
        if moved or event.noted:
            self._tell(Transition(after.id, self.now, after.state, event.name, event.reason.sentence))
        if after.state is not VmState.ENDED:
            self.change(vms={**self.state.vms, after.id: after})
            return
        vms = {vm_id: vm for vm_id, vm in self.state.vms.items() if vm_id != after.id}
        spent = {**self.state.spent, after.id: after.lease.until}
        self.change(vms=vms, ended=(*self.state.ended, report(after)), spent=spent)

    def _tell(self, line: Transition) -> None:
        lost = max(0, len(self.state.story) + 1 - STORY_LINES)
        self.change(story=(*self.state.story, line)[lost:], story_from=self.state.story_from + lost)

    def obey_owner(self) -> None:
        """What the owner does, asks for or allows has changed: VMs stop, or go on."""
        stop, spared = self.state.standing.event, self.state.standing.spared
        for vm in self.state.vms.values():
            spare = spared > 0 and vm.state in _AT_WORK
            spared -= spare
            if stop is not None and not spare:
                self.happen(vm.id, stop)
            elif vm.state is VmState.PAUSED:
                self.happen(vm.id, Allowed(_ALLOWED if stop is None else _SPARED))

    def obey_memory(self) -> None:
        """The newest VM ends, when what it has is needed; one that is ending already comes first."""
        short, pace = self.state.standing.gives_back, self.state.pace
        if short is None:
            return
        ending = [vm.id for vm in self.state.vms.values() if vm.state in ENDING]
        mean = BY_NAME[short.name].mean_seconds
        if mean and not ending and pace.eased_at and self.now - pace.eased_at < timedelta(seconds=mean + LEAVE_SECONDS):
            return
        for vm_id in ending or list(self.state.vms)[-1:]:
            self.happen(vm_id, RefusedNow(short))
        if mean and not ending:
            self.change(pace=msgspec.structs.replace(pace, eased_at=self.now))

    def stop(self, given: Finishing | HandingOver) -> None:
        """Nothing new begins any more; what runs leaves, or waits for the next agent."""
        for vm_id in list(self.state.vms):
            self.happen(vm_id, Withdrawn(given.reason) if isinstance(given, Finishing) else HandedOver(_UPGRADE))

    def distrust(self, accelerators: Iterable[str]) -> None:
        """What was found on a trial, for accelerators on which no guest has lived yet."""
        self.acts += [Act("", Distrust(name)) for name in accelerators if name not in self.state.proven]

    def obey_coordinator(self, ordered: Ordered) -> None:
        if ordered.to <= self.state.answered:
            return  # late or repeated: a newer answer has been obeyed
        known = min(max(0, ordered.story_until - self.state.story_from), len(self.state.story))
        ours = {lease.vm_id: _on_our_clock(lease, ordered.their_now, self.now) for lease in ordered.leases}
        ended = tuple(vm for vm in self.state.ended if vm.vm_id not in ordered.acknowledged)
        unsettled = {*ours, *(vm.vm_id for vm in ended)}
        self.change(
            answered=ordered.to,
            ended=ended,
            story=self.state.story[known:],
            story_from=self.state.story_from + known,
            spent={vm_id: until for vm_id, until in self.state.spent.items() if until > self.now or vm_id in unsettled},
        )
        for vm_id in list(self.state.vms):
            if (lease := ours.get(vm_id)) is not None:
                self.happen(vm_id, Leased(lease.reason, lease.until))
            else:
                self.happen(vm_id, Withdrawn(_WITHDRAWN))
        for lease in ours.values():
            if lease.vm_id not in self.state.vms and lease.vm_id not in self.state.spent:
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        self.state = derived(self.state, self.now)  # the VM before this one has taken its room
        vm, commands = order(lease, self.now)
        event = Leased(lease.reason, lease.until)
        refusal = self._refuse(lease)
        self._keep(None, vm, event)
        if refusal is not None:
            refused = msgspec.structs.replace(vm, state=VmState.ENDED, reason=refusal)
            self._keep(vm, refused, Leased(refusal, lease.until))
            return
        self.acts += [Act(vm.id, command) for command in commands]
        self.change(pace=msgspec.structs.replace(self.state.pace, started_at=self.now))

    def _refuse(self, lease: Lease) -> Reason | None:
        state = self.state
        if state.finishing is not None:
            return state.finishing
        if not state.availability.available:
            return state.availability.refusals[0]
        if lease.until <= self.now:
            return _LEASE_OVER
        size, room = lease.size, state.room
        if size.odd:
            return Reason("odd-size", "The coordinator asked for a virtual machine of a size that none can have.")
        if room.vms > 0 and room.cpus >= size.cpus and room.memory_bytes >= size.memory_bytes and room.disk_bytes > 0:
            return None
        return Reason(
            "no-room",
            "The computer has no room for a further virtual machine of this size.",
            f"asked {counted(size.cpus, 'CPU')} and {size.memory_bytes >> 20} MiB; "
            f"free {counted(room.cpus, 'CPU')}, {room.memory_bytes >> 20} MiB, {counted(room.vms, 'VM')}, "
            f"{room.disk_bytes >> 20} MiB disk",
        )

    def obey_time(self) -> None:
        for vm in self.state.vms.values():
            if vm.lease.until <= self.now and vm.state not in ENDING:
                self.happen(vm.id, Withdrawn(_LEASE_OVER))
            elif vm.deadline is not None and vm.deadline <= self.now:
                silent = vm.state is VmState.BOOTING and vm.accelerator in self.state.proven and not waited_out(vm)
                self.happen(vm.id, Due(_due(vm), Fault.IMAGE if silent else Fault.NONE))


def _on_our_clock(lease: Lease, their_now: datetime, our_now: datetime) -> Lease:
    left = min(max(lease.until - their_now, timedelta(0)), _LONGEST_LEASE)
    return msgspec.structs.replace(lease, until=our_now + left)


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
    sentence = _WAITED_OUT if waited_out(vm) else sentences[vm.state]
    return Reason(f"{vm.state}-overdue", sentence, f"in {vm.state} since {vm.since:%H:%M:%S} UTC")
