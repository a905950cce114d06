"""What a desktop's agent decides: from what it senses, is told and hears of its VMs, to commands. One pure `step`.

Rules, told first:
- The owner always wins: a reading that refuses reaches every VM before anything else is looked at.
- The coordinator's answer says all that should run; what it no longer names is withdrawn, what it names anew is begun
  only if the policy allows it now and there is room. A refused order ends at once, with the reason, and is not retried.
- A lease that is over is withdrawn, whether the coordinator can be reached or not.
- Memory or disk short: VMs end at once, newest first, one at a time. Only a fresh reading says that it is (still)
  short: one from before the last VM ended says nothing about the memory that is back. Of a reading that is a mean over
  some time, that time must pass too.
- A wish, another policy and a computer that sleeps or shuts down are obeyed at once, as the owner who returns is.
- While somebody uses the computer the policy may let its oldest VMs run on, never new ones.
- What has ended stays ended: a driver that says that such a VM runs is told to kill it.
- Lease times are moved to this desktop's clock when they arrive, so that a clock that is wrong does no harm.
"""

from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from deskgrid.core.desktop.inputs import Act as Act
from deskgrid.core.desktop.inputs import Finishing as Finishing
from deskgrid.core.desktop.inputs import HandingOver as HandingOver
from deskgrid.core.desktop.inputs import Happened as Happened
from deskgrid.core.desktop.inputs import Input as Input
from deskgrid.core.desktop.inputs import Noted as Noted
from deskgrid.core.desktop.inputs import Ruled as Ruled
from deskgrid.core.desktop.inputs import Sensed as Sensed
from deskgrid.core.desktop.inputs import Ticked as Ticked
from deskgrid.core.desktop.inputs import Told as Told
from deskgrid.core.desktop.inputs import Wished as Wished
from deskgrid.core.desktop.state import ENDING, judged, report
from deskgrid.core.desktop.state import Desk as Desk
from deskgrid.core.desktop.state import begin as begin
from deskgrid.core.desktop.state import next_due as next_due
from deskgrid.core.desktop.state import reports as reports
from deskgrid.core.desktop.state import unsaid as unsaid
from deskgrid.core.desktop.vm import LEAVE_SECONDS, TABLE, Event, Kind, Vm, order, step, waited_out
from deskgrid.core.policy import pacing
from deskgrid.model.desktop import Fault, Transition, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted

STORY_LINES = 1000
"""So many unacknowledged lines of story are kept; then the oldest go."""
_LONGEST_LEASE = timedelta(days=31)
"""Whatever a coordinator says: one that is never heard again is not obeyed for ever."""
_AT_WORK = (VmState.RUNNING, VmState.PAUSED)
_WITHDRAWN = Reason("withdrawn", "The coordinator no longer wants this virtual machine here.")
_ALLOWED = Reason("allowed", "The owner has left again.")
_SPARED = Reason("spared", "The policy lets it run on while somebody uses the computer.")
_WAITED_OUT = "It waited too long for data of its image."
_LEASE_OVER = Reason("lease-over", "Its lease is over and was not renewed.")


def advance(desk: Desk, given: Input, now: datetime) -> tuple[Desk, tuple[Act, ...]]:
    """Decide what one input means.

    Args:
        desk: what is known. given: what came in. now: when (the agent's own steady clock, aware UTC).

    Returns:
        What is known now, and what drivers must do, in order.
    """
    work = _Work(desk, now)
    match given:
        case Sensed() | Wished() | Ruled():
            work.obey(given)
        case Told():
            work.obey_coordinator(given)
        case Happened():
            work.happen(given.vm_id, given.event)
        case Noted():
            work.note(given)
        case Finishing() | HandingOver():
            work.stop(given)
        case Ticked():
            pass
        case _:
            assert_never(given)
    work.obey_time()
    return judged(work.desk, now), tuple(work.acts)


class _Work:
    """The bookkeeping of one call of `advance`."""

    def __init__(self, desk: Desk, now: datetime) -> None:
        self.desk, self.now = desk, now
        self.acts: list[Act] = []

    def change(self, **fields: object) -> None:
        """Something of what is known changes, and all that follows from it."""
        self.desk = judged(msgspec.structs.replace(self.desk, **fields), self.now)

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
        if before is None or before.state is not after.state or (after.waited and not before.waited):
            self._tell(Transition(after.id, self.now, after.state, event.kind, event.reason.sentence))
        desk = self.desk
        vms = {**desk.vms, after.id: after}
        ended, spent = desk.ended, desk.spent
        if after.state is VmState.ENDED:
            del vms[after.id]
            ended = (*ended, report(after))
            spent = {**spent, after.id: after.lease.until}
        self.desk = msgspec.structs.replace(desk, vms=vms, ended=ended, spent=spent)

    def obey(self, given: Sensed | Wished | Ruled) -> None:
        """The owner's side has changed: what is seen of them, what they ask for, what they allow."""
        if isinstance(given, Sensed):
            pace = pacing.load_seen(self.desk.pace, self.desk.policy, given.machine, self.now)
            self.change(sensed=given, pace=pace)
        elif isinstance(given, Wished):
            self.change(wish=given.wish)
        else:
            self.change(policy=given.policy)
        self.obey_owner()
        if isinstance(given, Sensed):
            self.obey_memory()

    def stop(self, given: Finishing | HandingOver) -> None:
        """Nothing new is begun any more; what runs leaves, or waits for the next agent."""
        self.change(finishing=given.reason)
        handed = isinstance(given, HandingOver)
        for vm_id in self.ids():
            if handed:
                self.note(Noted(vm_id, Kind.HANDED_OVER, given.reason.sentence))
            self.happen(vm_id, Event(Kind.HANDED_OVER if handed else Kind.WITHDRAWN, given.reason))

    def obey_owner(self) -> None:
        stop, spared = self.desk.standing.event, self.desk.standing.spared
        for vm_id in self.ids():
            vm = self.desk.vms[vm_id]
            spare = spared > 0 and vm.state in _AT_WORK
            spared -= spare
            if stop is not None and not spare:
                self.happen(vm_id, stop)
            elif vm.state is VmState.PAUSED:
                self.happen(vm_id, Event(Kind.ALLOWED, _ALLOWED if stop is None else _SPARED))

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
        self.change()
        vm, commands = order(lease, self.now)
        event = Event(Kind.LEASE, lease.reason)
        refusal = self._refuse(lease)
        self._keep(None, vm, event)
        if refusal is not None:
            self._keep(vm, msgspec.structs.replace(vm, state=VmState.ENDED, reason=refusal), Event(event.kind, refusal))
            return
        self.acts += [Act(vm.id, command, lease) for command in commands]
        self.change(pace=msgspec.structs.replace(self.desk.pace, started_at=self.now))

    def _refuse(self, lease: Lease) -> Reason | None:
        desk = self.desk
        if desk.finishing is not None:
            return desk.finishing
        if not desk.availability.available:
            return desk.availability.refusals[0]
        if lease.until <= self.now:
            return _LEASE_OVER
        size, room = lease.size, desk.room
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
        for vm_id in self.ids():
            vm = self.desk.vms[vm_id]
            if vm.lease.until <= self.now and vm.state not in ENDING:
                self.happen(vm_id, Event(Kind.WITHDRAWN, _LEASE_OVER))
            elif vm.deadline is not None and vm.deadline <= self.now:
                silent = vm.state is VmState.BOOTING and vm.accelerator in self.desk.proven and not waited_out(vm)
                self.happen(vm_id, Event(Kind.DUE, _due(vm), fault=Fault.IMAGE if silent else Fault.NONE))

    def obey_memory(self) -> None:
        short, pace = self.desk.standing.gives_back, self.desk.pace
        if short is None:
            return
        ending = [vm.id for vm in self.desk.vms.values() if vm.state in ENDING]
        mean = short.refusal.mean_seconds
        if mean and not ending and pace.eased_at and self.now - pace.eased_at < timedelta(seconds=mean + LEAVE_SECONDS):
            return
        for vm_id in ending or self.ids()[-1:]:
            self.happen(vm_id, Event(Kind.REFUSED_NOW, short.reason))
        if mean and not ending:
            self.change(pace=msgspec.structs.replace(pace, eased_at=self.now))


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
