"""How much may be given: processors, memory, disk, VMs; and whether what was given must come back at once.

Rules, told first:
- The operating system keeps its reserve: a VM starts only if after its memory the reserve is still free.
- A VM that has not touched its memory yet is counted as if it had.
- What is short (memory, disk) is given back at once, by the newest VM first, one at a time.
- With a spacing between starts there is room for one VM at a time: the next one is asked for when it may start.
- The disk's floor refuses starts; below half of it VMs end, so that one that just fitted does not end at once.
"""

from collections.abc import Sequence
from math import floor

from deskgrid.core.vm import Vm
from deskgrid.model.desktop import Room, VmState
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.reason import Reason

_UNTOUCHED = (VmState.FETCHING, VmState.STARTING, VmState.BOOTING)
_ROUNDING = 1e-9
MEMORY_PRESSURE = "memory-pressure"


def allowed_cpus(policy: Policy, machine: Machine, in_use: bool) -> int:
    """How many processors all VMs together may use: whole ones, rounded down, one at least unless the share is 0.

    in_use: somebody uses the computer.
    """
    share = min(policy.cpu_share, policy.cpu_share_in_use) if in_use else policy.cpu_share
    return max(1, floor(machine.cpus * share + _ROUNDING)) if share > 0 else 0


def reserve_bytes(policy: Policy, machine: Machine) -> int:
    """The memory that stays with the system: the larger of the absolute one and the share."""
    return max(policy.memory_reserve_bytes, int(machine.memory_bytes * policy.memory_reserve_share))


def room(policy: Policy, machine: Machine, vms: Sequence[Vm]) -> Room:
    """What can be given to further VMs, after the reserves and the VMs that are here (any state but ENDED)."""
    here = [vm for vm in vms if vm.state is not VmState.ENDED]
    given = sum(vm.lease.size.memory_bytes for vm in here)
    untouched = sum(vm.lease.size.memory_bytes for vm in here if vm.state in _UNTOUCHED)
    reserve = reserve_bytes(policy, machine)
    memory = min(machine.memory_bytes - reserve - given, machine.memory_available_bytes - reserve - untouched)
    return Room(
        cpus=max(0, allowed_cpus(policy, machine, in_use=False) - sum(vm.lease.size.cpus for vm in here)),
        memory_bytes=max(0, memory),
        disk_bytes=max(0, machine.disk_free_bytes - policy.disk_floor_bytes),
        vms=max(0, min(policy.max_vms - len(here), 1 if policy.start_spacing_seconds > 0 else policy.max_vms)),
    )


def memory_is_short(policy: Policy, machine: Machine) -> Reason | None:
    """Whether a VM must give its memory back at once: None, or the reason. Unknown pressure is no pressure."""
    if machine.memory_available_bytes < policy.memory_short_bytes:
        return Reason(
            "memory-short",
            "The computer is short of memory, so the newest virtual machine gives its memory back.",
            f"{mib(machine.memory_available_bytes)} available, at least {mib(policy.memory_short_bytes)} must be",
        )
    return memory_pressure(policy, machine)


def memory_pressure(policy: Policy, machine: Machine) -> Reason | None:
    """Whether programs wait for memory more than they may: None, or the reason."""
    if machine.memory_pressure is None or machine.memory_pressure <= policy.memory_pressure_max:
        return None
    return Reason(
        MEMORY_PRESSURE,
        "Programs on this computer wait for memory, so the newest virtual machine gives its memory back.",
        f"{machine.memory_pressure:.1f} % of the last 10 s, at most {policy.memory_pressure_max:.1f} %",
    )


def disk_is_short(policy: Policy, machine: Machine) -> Reason | None:
    """Whether a VM must give its disk back at once: None, or the reason."""
    if machine.disk_free_bytes * 2 >= policy.disk_floor_bytes:
        return None
    return Reason(
        "disk-short",
        "The disk is nearly full, so the newest virtual machine gives its disk back.",
        f"{mib(machine.disk_free_bytes)} free, at least half of {mib(policy.disk_floor_bytes)} must be",
    )


def mib(count: int) -> str:
    """A size for people."""
    return f"{count / (1 << 20):,.0f} MiB"
