"""What can be given to further VMs, beside those that are here.

Rules:
- A VM that has not touched its memory yet is counted as if it had.
- With a spacing between starts there is room for one VM at a time: the next one is asked for when it may start.
"""

from collections.abc import Sequence

from deskgrid.core.desktop.vm import Vm
from deskgrid.core.policy.limits import allowed_cpus, reserve_bytes
from deskgrid.model.desktop import Room, VmState
from deskgrid.model.policy import Machine, Policy

_UNTOUCHED = (VmState.FETCHING, VmState.STARTING, VmState.BOOTING)


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
