"""The life of a virtual machine: one table.

Rules, told first:
- A VM runs only under a live lease and an allowing policy. The owner always wins: a refusal stops its CPUs at once.
- Everything that can happen to a VM is an event; every event has a row in every state, so a lease that arrives as
  the owner returns is a row with an answer, not an exception. The figure in docs/vm-life.md is drawn from this table.
- `step(vm, event, now)` decides; drivers carry the returned commands out; what comes of it arrives as another event.
- Where work may be lost (RUNNING), the owner's return pauses first: 1 ms, CPUs and disk quiet. If the owner leaves
  again within the policy's grace, it goes on. If not, or if memory is short, it leaves: for at most LEAVE_SECONDS it
  runs confined while the guest ends its jobs fast, then it is killed and its memory is back.
- Before the guest is up there is no work to lose: it is killed at once.
- A computer that goes to sleep is like an owner who returns: the VM is paused, and time goes on while it sleeps. One
  that shuts down leaves no time for a grace. An agent that is replaced orders nothing: its VMs are found again.
- A VM in a state with a deadline gets DUE when the deadline has passed; a deadline never waits for an answer. Only
  RUNNING has the lease's end for its deadline; in the other states the desk withdraws it when its lease is over.
- While what it boots from is still being fetched its deadline is put off, for WAIT_SECONDS at most: a source that is
  away for minutes ends nobody. One that has waited longer ends, and no accelerator is blamed.
- A guest that stays silent condemns its accelerator only where no guest has lived on it yet; else it is the image's
  fault. An accelerator that emulates is never distrusted: there is nothing left to fall back to.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from deskgrid.core.events import Event, Kind
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


class Command(StrEnum):
    """What a driver is asked to do."""

    FETCH = "fetch"
    CANCEL_FETCH = "cancel-fetch"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    VACATE = "vacate"
    KILL = "kill"
    DISTRUST = "distrust"  # this accelerator shows no sign of life: do not use it again here


class Vm(msgspec.Struct, frozen=True):
    """A VM as its agent knows it.

    reason: why it is in this state; from LEAVING on, why it ends (the first cause stays).
    deadline: when DUE comes. alive: its guest has spoken. waited: it has had to wait for data of its image.
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


Deadline = Callable[[Vm, Event, datetime], datetime | None]


class Row(msgspec.Struct, frozen=True):
    """One row: where to, what to order, how long the new state may last (None: keep the present deadline)."""

    to: VmState
    commands: tuple[Command, ...] = ()
    deadline: Deadline | None = None


def _after(seconds: float) -> Deadline:
    return lambda vm, event, now: now + timedelta(seconds=seconds)


def _lease_end(vm: Vm, event: Event, now: datetime) -> datetime | None:
    return event.until or vm.lease.until


def _grace(vm: Vm, event: Event, now: datetime) -> datetime | None:
    return now + timedelta(seconds=event.grace_seconds)


def _sign_of_life(vm: Vm, event: Event, now: datetime) -> datetime | None:
    return now + timedelta(seconds=_alive_seconds(event.accelerator))


def _put_off(vm: Vm, event: Event, now: datetime) -> datetime | None:
    """As long as its state may last, from now on; not longer than WAIT_SECONDS from its beginning, nor shorter."""
    seconds = START_SECONDS if vm.state is VmState.STARTING else _alive_seconds(vm.accelerator)
    later = min(now + timedelta(seconds=seconds), vm.since + timedelta(seconds=WAIT_SECONDS))
    return max(vm.deadline or now, later)


def waited_out(vm: Vm) -> bool:
    """Whether its deadline is one that can't be put off any more: it has waited for its image to the last."""
    return vm.waited and vm.deadline is not None and vm.deadline >= vm.since + timedelta(seconds=WAIT_SECONDS)


def _never(vm: Vm, event: Event, now: datetime) -> datetime | None:
    return None


S, K, C = VmState, Kind, Command
_KILL = Row(S.KILLING, (C.KILL,), _after(KILL_AGAIN_SECONDS))
_END = Row(S.ENDED, (), _never)

TABLE: Mapping[VmState, Mapping[Kind, Row]] = {
    S.FETCHING: {
        K.LEASE: Row(S.FETCHING),
        K.WITHDRAWN: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
        K.REFUSED: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
        K.REFUSED_NOW: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
        K.ALLOWED: Row(S.FETCHING),
        K.SLEEPING: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
        K.SHUTTING_DOWN: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
        K.HANDED_OVER: Row(S.FETCHING),
        K.FETCHED: Row(S.STARTING, (C.START,), _after(START_SECONDS)),
        K.FETCH_FAILED: _END,
        K.STARTED: _KILL,  # of an earlier life: nobody ordered it
        K.START_FAILED: Row(S.FETCHING),
        K.WAITING: Row(S.FETCHING),
        K.ALIVE: Row(S.FETCHING),
        K.LEFT: Row(S.FETCHING),
        K.GONE: Row(S.FETCHING),
        K.DUE: Row(S.ENDED, (C.CANCEL_FETCH,), _never),
    },
    S.STARTING: {
        K.LEASE: Row(S.STARTING),
        K.WITHDRAWN: _KILL,
        K.REFUSED: _KILL,
        K.REFUSED_NOW: _KILL,
        K.ALLOWED: Row(S.STARTING),
        K.SLEEPING: _KILL,
        K.SHUTTING_DOWN: _KILL,
        K.HANDED_OVER: Row(S.STARTING),
        K.FETCHED: Row(S.STARTING),
        K.FETCH_FAILED: Row(S.STARTING),
        K.STARTED: Row(S.BOOTING, (), _sign_of_life),
        K.START_FAILED: _END,
        K.WAITING: Row(S.STARTING, (), _put_off),
        K.ALIVE: Row(S.RUNNING, (), _lease_end),
        K.LEFT: _KILL,
        K.GONE: _END,
        K.DUE: _KILL,
    },
    S.BOOTING: {
        K.LEASE: Row(S.BOOTING),
        K.WITHDRAWN: _KILL,
        K.REFUSED: _KILL,
        K.REFUSED_NOW: _KILL,
        K.ALLOWED: Row(S.BOOTING),
        K.SLEEPING: _KILL,
        K.SHUTTING_DOWN: _KILL,
        K.HANDED_OVER: Row(S.BOOTING),
        K.FETCHED: Row(S.BOOTING),
        K.FETCH_FAILED: Row(S.BOOTING),
        K.STARTED: Row(S.BOOTING),
        K.START_FAILED: _END,
        K.WAITING: Row(S.BOOTING, (), _put_off),
        K.ALIVE: Row(S.RUNNING, (), _lease_end),
        K.LEFT: _KILL,
        K.GONE: _END,
        K.DUE: Row(S.KILLING, (C.DISTRUST, C.KILL), _after(KILL_AGAIN_SECONDS)),
    },
    S.RUNNING: {
        K.LEASE: Row(S.RUNNING, (), _lease_end),
        K.WITHDRAWN: Row(S.LEAVING, (C.VACATE,), _after(FINISH_SECONDS)),
        K.REFUSED: Row(S.PAUSED, (C.PAUSE,), _grace),
        K.REFUSED_NOW: Row(S.LEAVING, (C.PAUSE, C.VACATE), _after(LEAVE_SECONDS)),
        K.ALLOWED: Row(S.RUNNING),
        K.SLEEPING: Row(S.PAUSED, (C.PAUSE,), _grace),
        K.SHUTTING_DOWN: Row(S.LEAVING, (C.PAUSE, C.VACATE), _after(LEAVE_SECONDS)),
        K.HANDED_OVER: Row(S.RUNNING),
        K.FETCHED: Row(S.RUNNING),
        K.FETCH_FAILED: Row(S.RUNNING),
        K.STARTED: Row(S.RUNNING),
        K.START_FAILED: _END,
        K.WAITING: Row(S.RUNNING),
        K.ALIVE: Row(S.RUNNING),
        K.LEFT: _KILL,
        K.GONE: _END,
        K.DUE: Row(S.LEAVING, (C.VACATE,), _after(FINISH_SECONDS)),
    },
    S.PAUSED: {
        K.LEASE: Row(S.PAUSED),
        K.WITHDRAWN: Row(S.LEAVING, (C.VACATE,), _after(LEAVE_SECONDS)),
        K.REFUSED: Row(S.PAUSED, (), _grace),
        K.REFUSED_NOW: Row(S.LEAVING, (C.VACATE,), _after(LEAVE_SECONDS)),
        K.ALLOWED: Row(S.RUNNING, (C.RESUME,), _lease_end),
        K.SLEEPING: Row(S.PAUSED, (), _grace),
        K.SHUTTING_DOWN: Row(S.LEAVING, (C.VACATE,), _after(LEAVE_SECONDS)),
        K.HANDED_OVER: Row(S.PAUSED),
        K.FETCHED: Row(S.PAUSED),
        K.FETCH_FAILED: Row(S.PAUSED),
        K.STARTED: Row(S.PAUSED, (C.PAUSE,)),  # it must not run
        K.START_FAILED: _END,
        K.WAITING: Row(S.PAUSED),
        K.ALIVE: Row(S.PAUSED),
        K.LEFT: _KILL,
        K.GONE: _END,
        K.DUE: Row(S.LEAVING, (C.VACATE,), _after(LEAVE_SECONDS)),
    },
    S.LEAVING: {
        K.LEASE: Row(S.LEAVING),  # too late: a leaving guest has given up its jobs
        K.WITHDRAWN: Row(S.LEAVING),
        K.REFUSED: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        K.REFUSED_NOW: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        K.ALLOWED: Row(S.LEAVING),
        K.SLEEPING: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        K.SHUTTING_DOWN: Row(S.LEAVING, (), _after(LEAVE_SECONDS)),
        K.HANDED_OVER: Row(S.LEAVING),
        K.FETCHED: Row(S.LEAVING),
        K.FETCH_FAILED: Row(S.LEAVING),
        K.STARTED: _KILL,
        K.START_FAILED: _END,
        K.WAITING: Row(S.LEAVING),
        K.ALIVE: Row(S.LEAVING),
        K.LEFT: _KILL,
        K.GONE: _END,
        K.DUE: _KILL,
    },
    S.KILLING: {
        K.LEASE: Row(S.KILLING),
        K.WITHDRAWN: Row(S.KILLING),
        K.REFUSED: Row(S.KILLING),
        K.REFUSED_NOW: Row(S.KILLING),
        K.ALLOWED: Row(S.KILLING),
        K.SLEEPING: Row(S.KILLING),
        K.SHUTTING_DOWN: Row(S.KILLING),
        K.HANDED_OVER: Row(S.KILLING),
        K.FETCHED: Row(S.KILLING),
        K.FETCH_FAILED: Row(S.KILLING),
        K.STARTED: _KILL,
        K.START_FAILED: _END,
        K.WAITING: Row(S.KILLING),
        K.ALIVE: _KILL,
        K.LEFT: Row(S.KILLING),
        K.GONE: _END,
        K.DUE: _KILL,
    },
    S.ENDED: {kind: Row(S.ENDED, (C.KILL,) if kind in (K.STARTED, K.ALIVE) else ()) for kind in K},
}

_ENDING = (S.LEAVING, S.KILLING, S.ENDED)


def order(lease: Lease, now: datetime) -> tuple[Vm, tuple[Command, ...]]:
    """Begin the life of a VM: what a new lease orders.

    Returns: the VM in FETCHING, and the command to fetch its image.
    """
    return Vm(lease, S.FETCHING, now, lease.reason, now + timedelta(seconds=FETCH_SECONDS)), (C.FETCH,)


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


def step(vm: Vm, event: Event, now: datetime) -> tuple[Vm, tuple[Command, ...]]:
    """Decide what an event does to a VM.

    Args:
        vm: the VM before. event: what happened. now: when (aware UTC).

    Returns:
        The VM after, and what its drivers must do, in order.
    """
    row = TABLE[vm.state][event.kind]
    lease = msgspec.structs.replace(vm.lease, until=event.until) if event.until else vm.lease
    moved = row.to is not vm.state
    deadline = row.deadline(vm, event, now) if row.deadline else vm.deadline
    if vm.state is row.to in (S.LEAVING, S.PAUSED) and vm.deadline and deadline:
        deadline = min(vm.deadline, deadline)  # a second refusal may only shorten it
    keep_cause = vm.state in _ENDING or not moved
    fault = vm.fault if keep_cause else _fault(vm, event)
    return (
        Vm(
            lease=lease,
            state=row.to,
            since=now if moved else vm.since,
            reason=vm.reason if keep_cause else event.reason,
            deadline=deadline,
            alive=vm.alive or event.kind is K.ALIVE,
            accelerator=event.accelerator or vm.accelerator,
            fault=fault,
            waited=vm.waited or event.kind is K.WAITING,
        ),
        tuple(c for c in row.commands if c is not C.DISTRUST or _distrusts(vm, fault)),
    )


def _distrusts(vm: Vm, fault: Fault) -> bool:
    return vm.accelerator != "" and fault is Fault.DESKTOP and not waited_out(vm)


def _fault(vm: Vm, event: Event) -> Fault:
    """Whose fault: a guest that died or stayed silent without order is its image's, unless the driver knows better."""
    if event.fault is not Fault.NONE:
        return event.fault
    if event.kind in (K.GONE, K.DUE) and vm.state in (S.FETCHING, S.STARTING):
        return Fault.DESKTOP  # no guest has run yet
    if event.kind is K.GONE:
        return Fault.IMAGE
    if event.kind is K.DUE and vm.state is S.BOOTING:
        return Fault.DESKTOP if vm.accelerator not in SOFTWARE or waited_out(vm) else Fault.IMAGE
    return vm.fault
