"""How much may be given: processors, memory, disk, VMs.

Rules:
- The operating system keeps its reserve: a VM starts only if after its memory the reserve is still free.
"""

from math import floor

from deskgrid.model.policy import Machine, Policy

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


def mib(count: int) -> str:
    """A size for people."""
    return f"{count / (1 << 20):,.0f} MiB"
