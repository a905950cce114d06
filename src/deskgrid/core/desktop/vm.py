"""The life of a virtual machine: one table.

Rules:
- A VM runs only under a live lease and an allowing policy. The owner always wins: a refusal stops its CPUs at once.
- Everything that can happen to a VM is an event; every event has a row in every state, so a lease that arrives as
  the owner returns is a row with an answer, not an exception. The figure in docs/vm-life.md is drawn from this table.
- `step(vm, event, now)` decides; drivers carry the returned commands out; the outcome arrives as another event.
- Where work may be lost (RUNNING), the owner's return pauses first: 1 ms, CPUs and disk quiet. If the owner leaves
  again within the policy's grace, it goes on. If not, or if memory is short, it leaves: for at most LEAVE_SECONDS it
  runs confined while the guest ends its jobs fast, then it is killed and its memory is back.
- Before the guest is up there is no work to lose: it is killed at once.
- A computer that goes to sleep is like an owner who returns: the VM is paused, and time goes on while it sleeps. One
  that shuts down leaves no time for a grace. An agent that is replaced orders nothing: its VMs are found again.
- A VM in a state with a deadline gets `Due` when the deadline has passed; a deadline never waits for an answer. Only
  RUNNING has the lease's end for its deadline; in the other states the desk withdraws it when its lease is over.
- While what it boots from is still being fetched its deadline is put off, for WAIT_SECONDS at most: a source that is
  away for minutes ends nobody. One that has waited longer ends, and no accelerator is blamed.
- A guest that stays silent condemns its accelerator only where no guest has lived on it yet; else it is the image's
  fault. An accelerator that emulates is never distrusted: there is nothing left to fall back to.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import get_args

import msgspec

from deskgrid.core.commands import CancelFetch, Command, Distrust, Fetch, Kill, Pause, Resume, Start, Vacate
from deskgrid.core.events import (
    Alive,
    Allowed,
    AnyEvent,
    Due,
    Event,
    Fetched,
    FetchFailed,
    Gone,
    GuestLeft,
    HandedOver,
    Joined,
    Leased,
    Paused,
    Refused,
    RefusedNow,
    ShuttingDown,
    Sleeping,
    Started,
    StartFailed,
    Waiting,
    Withdrawn,
)
from deskgrid.model.desktop import Fault, VmState
from deskgrid.model.lease import Lease
from deskgrid.model.reason import Reason

FETCH_SECONDS = 3600.0
START_SECONDS = 30.0
LEAVE_SECONDS = 2.0
FINISH_SECONDS = 20.0
KILL_AGAIN_SECONDS = 2.0
ALIVE_SECONDS_HARDWARE = 45.0
ALIVE_SECONDS_SOFTWARE = 600.0
"""How long a guest may take until its first sign of life: on a hardware accelerator, and under emulation."""
WAIT_SECONDS = 900.0
"""How long a start or a boot may take in all while it waits for data of its image."""
SOFTWARE = ("tcg", "fake")
"""Accelerators that emulate: nothing is left to fall back to."""


class Vm(msgspec.Struct, frozen=True):
    """A VM as its agent knows it.

    reason: why it is in this state; from LEAVING on, why it ends (the first cause stays).
    deadline: when `Due` comes. alive: its guest has spoken. waited: it has had to wait for data of its image.
    accelerator: what it runs on.
    """

    lease: Lease
    state: VmState
    since: datetime
    reason: Reason
    deadline: datetime | None
    alive: bool = False
    accelerator: str = ""
    fault: Fault = Fault.NONE
    waited: bool = False

    @property
    def id(self) -> str:
        """Its id, for life."""
        return self.lease.vm_id


def _alive_seconds(accelerator: str) -> float:
    return ALIVE_SECONDS_SOFTWARE if accelerator in SOFTWARE else ALIVE_SECONDS_HARDWARE


Deadline = Callable[[Vm, AnyEvent, datetime], datetime | None]


class Row(msgspec.Struct, frozen=True):
    """One row: where to, what to order, how long the new state may last (None: keep the present deadline)."""

    to: VmState
    commands: tuple[type[Command], ...] = ()
    deadline: Deadline | None = None


def _after(seconds: float) -> Deadline:
    return lambda vm, event, now: now + timedelta(seconds=seconds)


def _lease_end(vm: Vm, event: AnyEvent, now: datetime) -> datetime | None:
    return vm.lease.until


def _grace(vm: Vm, event: AnyEvent, now: datetime) -> datetime | None:
    assert isinstance(event, Refused | Sleeping)
    return now + timedelta(seconds=event.grace_seconds)


def _sign_of_life(vm: Vm, event: AnyEvent, now: datetime) -> datetime | None:
    return now + timedelta(seconds=_alive_seconds(vm.accelerator))


def _put_off(vm: Vm, event: AnyEvent, now: datetime) -> datetime | None:
    """As long as its state may last, from now on; not longer than WAIT_SECONDS from its beginning, nor shorter."""
    seconds = START_SECONDS if vm.state is VmState.STARTING else _alive_seconds(vm.accelerator)
    later = min(now + timedelta(seconds=seconds), vm.since + timedelta(seconds=WAIT_SECONDS))
    return max(vm.deadline or now, later)


def waited_out(vm: Vm) -> bool:
    """Whether its deadline is one that can't be put off any more: it has waited for its image to the last."""
    return vm.waited and vm.deadline is not None and vm.deadline >= vm.since + timedelta(seconds=WAIT_SECONDS)


def _never(vm: Vm, event: AnyEvent, now: datetime) -> datetime | None:
    return None


S = VmState
NOTES = (Joined, Paused)
"""Events that are for the VM's story only: they move nothing in any state."""
KINDS: tuple[type[Event], ...] = tuple(kind for kind in get_args(AnyEvent) if kind not in NOTES)
_KILL = Row(S.KILLING, (Kill,), _after(KILL_AGAIN_SECONDS))
_END = Row(S.ENDED, (), _never)

TABLE: Mapping[VmState, Mapping[type[Event], Row]] = {
    S.FETCHING: {
        Leased: Row(S.FETCHING),
        Withdrawn: Row(S.ENDED, (CancelFetch,), _never),
        Refused: Row(S.ENDED, (CancelFetch,), _never),
        RefusedNow: Row(S.ENDED, (CancelFetch,), _never),
        Allowed: Row(S.FETCHING),
        Sleeping: Row(S.ENDED, (CancelFetch,), _never),
        ShuttingDown: Row(S.ENDED, (CancelFetch,), _never),
        HandedOver: Row(S.FETCHING),
        Fetched: Row(S.STARTING, (Start,), _after(START_SECONDS)),
        FetchFailed: _END,
        Started: _KILL,  # of an earlier life: nobody ordered it
        StartFailed: Row(S.FETCHING),
        Waiting: Row(S.FETCHING),
        Alive: Row(S.FETCHING),
        GuestLeft: Row(S.FETCHING),
        Gone: Row(S.FETCHING),
        Due: Row(S.ENDED, (CancelFetch,), _never),
    },
    S.STARTING: {
        Leased: Row(S.STARTING),
        Withdrawn: _KILL,
        Refused: _KILL,
        RefusedNow: _KILL,
        Allowed: Row(S.STARTING),
        Sleeping: _KILL,
        ShuttingDown: _KILL,
        HandedOver: Row(S.STARTING),
        Fetched: Row(S.STARTING),
        FetchFailed: Row(S.STARTING),
        Started: Row(S.BOOTING, (), _sign_of_life),
        StartFailed: _END,
        Waiting: Row(S.STARTING, (), _put_off),
        Alive: Row(S.RUNNING, (), _lease_end),
        GuestLeft: _KILL,
        Gone: _END,
        Due: _KILL,
    },
    S.BOOTING: {
        Leased: Row(S.BOOTING),
        Withdrawn: _KILL,
        Refused: _KILL,
        RefusedNow: _KILL,
        Allowed: Row(S.BOOTING),
        Sleeping: _KILL,
        ShuttingDown: _KILL,
        HandedOver: Row(S.BOOTING),
        Fetched: Row(S.BOOTING),
        FetchFailed: Row(S.BOOTING),
        Started: Row(S.BOOTING),
        StartFailed: _END,
        Waiting: Row(S.BOOTING, (), _put_off),
        Alive: Row(S.RUNNING, (), _lease_end),
        GuestLeft: _KILL,
        Gone: _END,
        Due: Row(S.KILLING, (Distrust, Kill), _after(KILL_AGAIN_SECONDS)),
    },
    S.RUNNING: {
        Leased: Row(S.RUNNING, (), _lease_end),
        Withdrawn: Row(S.LEAVING, (Vacate,), _after(FINISH_SECONDS)),
        Refused: Row(S.PAUSED, (Pause,), _grace),
        RefusedNow: Row(S.LEAVING, (Pause, Vacate), _after(LEAVE_SECONDS)),
        Allowed: Row(S.RUNNING),
        Sleeping: Row(S.PAUSED, (Pause,), _grace),
        ShuttingDown: Row(S.LEAVING, (Pause, Vacate), _after(LEAVE_SECONDS)),
        HandedOver: Row(S.RUNNING),
        Fetched: Row(S.RUNNING),
        FetchFailed: Row(S.RUNNING),
        Started: Row(S.RUNNING),
        StartFailed: _END,
        Waiting: Row(S.RUNNING),
        Alive: Row(S.RUNNING),
        GuestLeft: _KILL,
        Gone: _END,
        Due: Row(S.LEAVING, (Vacate,), _after(FINISH_SECONDS)),
    },
    S.PAUSED: {
        Leased: Row(S.PAUSED),
        Withdrawn: Row(S.LEAVING, (Vacate,), _after(LEAVE_SECONDS)),
        Refused: Row(S.PAUSED, (), _grace),
        RefusedNow: Row(S.LEAVING, (Vacate,), _after(LEAVE_SECONDS)),
        Allowed: Row(S.RUNNING, (Resume,), _lease_end),
        Sleeping: Row(S.PAUSED, (), _grace),
        ShuttingDown: Row(S.LEAVING, (Vacate,), _after(LEAVE_SECONDS)),
        HandedOver: Row(S.PAUSED),
        Fetched: Row(S.PAUSED),
        FetchFailed: Row(S.PAUSED),
        Started: Row(S.PAUSED, (Pause,)),  # it must not run
        StartFailed: _END,
        Waiting: Row(S.PAUSED),
        Alive: Row(S.PAUSED),
        GuestLeft: _KILL,
        Gone: _END,
        Due: Row(S.LEAVING, (Vacate,), _after(LEAVE_SECONDS)),
    },
    S.LEAVING: {
        Leased: Row(S.LEAVING),  # too late: a leaving guest has given up its jobs
        Withdrawn: Row(S.LEAVING),
        Refused: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        RefusedNow: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        Allowed: Row(S.LEAVING),
        Sleeping: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        ShuttingDown: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        HandedOver: Row(S.LEAVING),
        Fetched: Row(S.LEAVING),
        FetchFailed: Row(S.LEAVING),
        Started: _KILL,
        StartFailed: _END,
        Waiting: Row(S.LEAVING),
        Alive: Row(S.LEAVING),
        GuestLeft: _KILL,
        Gone: _END,
        Due: _KILL,
    },
    S.KILLING: {
        Leased: Row(S.KILLING),
        Withdrawn: Row(S.KILLING),
        Refused: Row(S.KILLING),
        RefusedNow: Row(S.KILLING),
        Allowed: Row(S.KILLING),
        Sleeping: Row(S.KILLING),
        ShuttingDown: Row(S.KILLING),
        HandedOver: Row(S.KILLING),
        Fetched: Row(S.KILLING),
        FetchFailed: Row(S.KILLING),
        Started: _KILL,
        StartFailed: _END,
        Waiting: Row(S.KILLING),
        Alive: _KILL,
        GuestLeft: Row(S.KILLING),
        Gone: _END,
        Due: _KILL,
    },
    S.ENDED: {kind: Row(S.ENDED, (Kill,) if kind in (Started, Alive) else ()) for kind in KINDS},
}

_ENDING = (S.LEAVING, S.KILLING, S.ENDED)


def order(lease: Lease, now: datetime) -> tuple[Vm, tuple[Command, ...]]:
    """Begin the life of a VM: what a new lease orders.

    Returns: the VM in FETCHING, and the command to fetch its image.
    """
    return Vm(lease, S.FETCHING, now, lease.reason, now + timedelta(seconds=FETCH_SECONDS)), (Fetch(lease),)


def adopt(
    lease: Lease,
    *,
    paused: bool,
    alive: bool,
    accelerator: str,
    grace_seconds: float,
    since: datetime,
    now: datetime,
) -> Vm:
    """A VM that an earlier life of this agent started, as it was observed from its process.

    It comes back PAUSED (for no longer than the policy's grace), BOOTING or RUNNING, with a deadline, so that nothing
    adopted stays for ever.
    """
    reason = Reason("adopted", "It was running when the agent came back, under a lease that still holds.")
    if paused:
        state, deadline = S.PAUSED, now + timedelta(seconds=grace_seconds)
    elif alive:
        state, deadline = S.RUNNING, lease.until
    else:
        state, deadline = S.BOOTING, now + timedelta(seconds=_alive_seconds(accelerator))
    return Vm(lease, state, since, reason, deadline, alive, accelerator)


def step(vm: Vm, event: AnyEvent, now: datetime) -> tuple[Vm, tuple[Command, ...]]:
    """Decide what an event does to a VM.

    Args:
        vm: the VM before. event: what happened. now: when (aware UTC).

    Returns:
        The VM after, and what its drivers must do, in order.
    """
    if isinstance(event, NOTES):
        return vm, ()
    row, vm = TABLE[vm.state][type(event)], _knowing(vm, event)
    moved = row.to is not vm.state
    deadline = row.deadline(vm, event, now) if row.deadline else vm.deadline
    if vm.state is row.to in (S.LEAVING, S.PAUSED) and vm.deadline and deadline:
        deadline = min(vm.deadline, deadline)  # a second refusal may only shorten it
    after = msgspec.structs.replace(vm, state=row.to, deadline=deadline)
    if moved:
        after = msgspec.structs.replace(after, since=now)
    if moved and vm.state not in _ENDING:
        after = msgspec.structs.replace(after, reason=event.reason, fault=_fault(vm, event))
    return after, tuple(_made(kind, after) for kind in row.commands if kind is not Distrust or _distrusts(vm, after))


def _knowing(vm: Vm, event: AnyEvent) -> Vm:
    """The VM with the event's facts, whatever state follows."""
    match event:
        case Leased():
            return msgspec.structs.replace(vm, lease=msgspec.structs.replace(vm.lease, until=event.until))
        case Started():
            return msgspec.structs.replace(vm, accelerator=event.accelerator)
        case Waiting():
            return msgspec.structs.replace(vm, waited=True)
        case Alive():
            return msgspec.structs.replace(vm, alive=True)
        case _:
            return vm


def _made(kind: type[Command], vm: Vm) -> Command:
    """A command, with what its fields name of the VM."""
    return kind(*(getattr(vm, field) for field in kind.__struct_fields__))


def _distrusts(before: Vm, after: Vm) -> bool:
    return after.accelerator != "" and after.fault is Fault.DESKTOP and not waited_out(before)


def _fault(vm: Vm, event: AnyEvent) -> Fault:
    """Whose fault: a guest that died or stayed silent without order is its image's, unless the driver knows better."""
    if event.blames is not Fault.NONE:
        return event.blames
    if isinstance(event, Gone | Due) and vm.state in (S.FETCHING, S.STARTING):
        return Fault.DESKTOP  # no guest has run yet
    if isinstance(event, Gone):
        return Fault.IMAGE
    if isinstance(event, Due) and vm.state is S.BOOTING:
        return Fault.DESKTOP if vm.accelerator not in SOFTWARE or waited_out(vm) else Fault.IMAGE
    return vm.fault
