"""May virtual machines run on this desktop now? Every no is a named value with a sentence and the reading behind it.

Rules, told first:
- Unknown counts as busy. The first refusal wins; all are returned, so that `why` can show them.
- Nobody logged in: any time. Somebody logged in: not in the closed hours, and only when idle.
- Starting asks for a long quiet time, going on for a short one: `availability` and `may_go_on` differ only in that.
- The operating system keeps its reserve: a VM starts only if after its memory the reserve is still free.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from deskgrid.core.vm import Vm
from deskgrid.model.desktop import Availability, Room, VmState
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason

_UNTOUCHED = (VmState.FETCHING, VmState.STARTING, VmState.BOOTING)


def availability(
    policy: Policy, reading: Reading, machine: Machine, local: datetime, faults: Sequence[Reason] = ()
) -> Availability:
    """Decide whether a further VM may start now.

    Args:
        policy: what this desktop allows. reading: what is known of the owner. machine: its resources.
        local: now, in the desktop's own time zone (aware).
        faults: what makes the desktop unfit whatever its owner does, such as a missing hypervisor.
    """
    refusals = [*faults, *_owner(policy, reading, local, _needed(policy, reading)), *_resources(policy, machine)]
    return Availability(not refusals, tuple(refusals), reading.idle_seconds, reading.logged_in)


def may_go_on(policy: Policy, reading: Reading, local: datetime) -> Reason | None:
    """Decide whether VMs that are here may run on: None, or the reason why not.

    Idleness needs only `resume_seconds`, so that a bumped mouse costs no work.
    """
    needed = min(policy.resume_seconds, _needed(policy, reading))
    return next(iter(_owner(policy, reading, local, needed)), None)


def memory_is_short(policy: Policy, machine: Machine) -> Reason | None:
    """Whether a VM must give its memory back at once: None, or the reason."""
    if machine.memory_available_bytes >= policy.memory_short_bytes:
        return None
    return Reason(
        "memory-short",
        "The computer is short of memory, so the newest virtual machine gives its memory back.",
        f"{_mib(machine.memory_available_bytes)} available, at least {_mib(policy.memory_short_bytes)} must be",
    )


def room(policy: Policy, machine: Machine, vms: Sequence[Vm]) -> Room:
    """What can be given to further VMs, after the reserves and the VMs that are here (any state but ENDED).

    A VM that has not touched its memory yet is counted as if it had.
    """
    here = [vm for vm in vms if vm.state is not VmState.ENDED]
    given = sum(vm.lease.size.memory_bytes for vm in here)
    untouched = sum(vm.lease.size.memory_bytes for vm in here if vm.state in _UNTOUCHED)
    memory = min(
        machine.memory_bytes - policy.memory_reserve_bytes - given,
        machine.memory_available_bytes - policy.memory_reserve_bytes - untouched,
    )
    allowed = policy.max_cpus or max(1, machine.cpus - 1)
    return Room(
        cpus=max(0, min(allowed, machine.cpus) - sum(vm.lease.size.cpus for vm in here)),
        memory_bytes=max(0, memory),
        disk_bytes=max(0, machine.disk_free_bytes - policy.disk_floor_bytes),
        vms=max(0, policy.max_vms - len(here)),
    )


def _needed(policy: Policy, reading: Reading) -> float:
    return policy.idle_seconds_nobody if reading.logged_in is False else policy.idle_seconds


def _owner(policy: Policy, reading: Reading, local: datetime, needed: float) -> list[Reason]:
    refusals = []
    seen = ", ".join(reading.sources)
    if reading.logged_in is None or reading.idle_seconds is None:
        what = "whether somebody is logged in" if reading.logged_in is None else "when the computer was last used"
        refusals.append(
            Reason(
                "presence-unknown",
                f"It is not known {what}, and unknown counts as in use.",
                "; ".join(reading.faults) or seen,
            )
        )
    if reading.idle_seconds is not None and reading.idle_seconds < needed:
        refusals.append(
            Reason(
                "owner-active",
                f"Somebody used this computer {reading.idle_seconds:.0f} s ago; "
                f"virtual machines wait for {needed:.0f} s without use.",
                f"idle {reading.idle_seconds:.1f} s of {needed:.0f} s" + (f" ({seen})" if seen else ""),
                local.astimezone(UTC) + timedelta(seconds=needed - reading.idle_seconds),
            )
        )
    if reading.logged_in is not False and (until := _closed_until(policy, local)) is not None:
        refusals.append(
            Reason(
                "working-hours",
                f"Somebody is logged in, and between {policy.closed_from:%H:%M} and {policy.closed_until:%H:%M} "
                "nothing runs then.",
                f"local time {local:%H:%M}, logged in: {'unknown' if reading.logged_in is None else 'yes'}",
                until.astimezone(UTC),
            )
        )
    return refusals


def _resources(policy: Policy, machine: Machine) -> list[Reason]:
    refusals = []
    if machine.memory_available_bytes <= policy.memory_reserve_bytes:
        refusals.append(
            Reason(
                "memory-reserve",
                "The memory that is free is kept for the computer itself.",
                f"{_mib(machine.memory_available_bytes)} available, reserve {_mib(policy.memory_reserve_bytes)}",
            )
        )
    if machine.disk_free_bytes <= policy.disk_floor_bytes:
        refusals.append(
            Reason(
                "disk-floor",
                "The disk is nearly full, and what is free is kept for the computer itself.",
                f"{_mib(machine.disk_free_bytes)} free, floor {_mib(policy.disk_floor_bytes)}",
            )
        )
    return refusals


def _closed_until(policy: Policy, local: datetime) -> datetime | None:
    """The end of the closed hours if `local` lies in them. Wall-clock arithmetic: daylight saving moves with it.

    In the hour that comes twice, the end is that of the same pass.
    """
    start, end, clock = policy.closed_from, policy.closed_until, local.time()
    if start == end:
        return None
    inside = start <= clock < end if start < end else clock >= start or clock < end
    if not inside:
        return None
    day = local.date() if clock < end else local.date() + timedelta(days=1)
    return datetime.combine(day, end.replace(fold=local.fold), tzinfo=local.tzinfo)


def _mib(count: int) -> str:
    return f"{count / (1 << 20):,.0f} MiB"
