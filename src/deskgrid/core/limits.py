"""How much may be given: processors, memory, disk, VMs.

Rules:
- The operating system keeps its reserve: a VM starts only if after its memory the reserve is still free.
- A VM that has not touched its memory yet is counted as if it had.
- With a spacing between starts there is room for one VM at a time: the next one is asked for when it may start.
"""

from collections.abc import Sequence
from math import floor

from deskgrid.core.vm import Vm
from deskgrid.model.desktop import Room, VmState
from deskgrid.model.policy import Machine, Policy

_UNTOUCHED = (VmState.FETCHING, VmState.STARTING, VmState.BOOTING)
_ROUNDING = 1e-9


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


def mib(count: int) -> str:
    """A size for people."""
    return f"{count / (1 << 20):,.0f} MiB"
