"""What the machine itself refuses: power, network, the load of others, memory, disk.

Rules, told first:
- What a policy permits anyway needs not be known; what it forbids and is not known counts against VMs.
- A measure that a system does not give (others' load, memory pressure) is not counted: the reserves hold without it.
"""

from deskgrid.core.facts import Facts
from deskgrid.core.limits import memory_pressure, mib, reserve_bytes
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.reason import Reason


def power(policy: Policy, machine: Machine) -> list[Reason]:
    """The battery: none is (None or False, None)."""
    refusals = []
    charge = machine.battery_percent
    if machine.on_battery and not policy.on_battery:
        refusals.append(Reason("on-battery", "The computer runs on battery.", _charge(charge)))
    if charge is not None and charge < policy.battery_min_percent:
        refusals.append(
            Reason(
                "battery-low",
                "The battery is to be charged first.",
                f"{_charge(charge)}, at least {policy.battery_min_percent:.0f} % must be",
            )
        )
    if machine.on_battery is None and charge is not None and not policy.on_battery:
        refusals.append(Reason("battery-unknown", "It is not known whether the computer runs on battery."))
    elif machine.on_battery and charge is None and policy.battery_min_percent > 0:
        refusals.append(Reason("battery-unknown", "It is not known how much the battery is charged."))
    return refusals


def network(policy: Policy, machine: Machine) -> list[Reason]:
    """What the network costs."""
    refusals = []
    if not policy.metered and machine.metered is not False:
        told = "The network is metered." if machine.metered else "It is not known whether the network is metered."
        refusals.append(Reason("metered", told))
    if not policy.wireless and machine.wireless is not False:
        told = "The network is wireless." if machine.wireless else "It is not known whether the network is wireless."
        refusals.append(Reason("wireless", told))
    return refusals


def load(policy: Policy, facts: Facts) -> list[Reason]:
    """What others do with the processors."""
    if not facts.waits.loaded:
        return []
    used = facts.machine.others_cpu
    now = "not known now" if used is None else f"{used:.0%} now"
    return [
        Reason(
            "others-load",
            "Other programs have used much of the processors, so virtual machines make way.",
            f"{now}, at most {policy.others_cpu_max:.0%} for {policy.others_cpu_seconds:.0f} s",
        )
    ]


def memory_and_disk(policy: Policy, machine: Machine) -> list[Reason]:
    """What must stay with the system; asked before a start only."""
    refusals = []
    reserve = reserve_bytes(policy, machine)
    if machine.memory_available_bytes <= reserve:
        refusals.append(
            Reason(
                "memory-reserve",
                "The memory that is free is kept for the computer itself.",
                f"{mib(machine.memory_available_bytes)} available, reserve {mib(reserve)}",
            )
        )
    if (pressed := memory_pressure(policy, machine)) is not None:
        refusals.append(pressed)
    if machine.disk_free_bytes <= policy.disk_floor_bytes:
        refusals.append(
            Reason(
                "disk-floor",
                "The disk is nearly full, and what is free is kept for the computer itself.",
                f"{mib(machine.disk_free_bytes)} free, floor {mib(policy.disk_floor_bytes)}",
            )
        )
    return refusals


def _charge(charge: float | None) -> str:
    return "charge unknown" if charge is None else f"charged to {charge:.0f} %"
