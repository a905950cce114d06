"""What the machine itself refuses: power, network, the load of others, memory, disk.

Rules:
- What a policy permits anyway needs not be known; what it forbids and is not known counts against VMs.
- A measure that a system does not give (others' load, memory pressure) is not counted: the reserves hold without it.
- The disk's floor refuses starts; below half the floor VMs end, so that one that just fitted does not end at once.
- Each function is the check of one row of `core/policy/refusals.py`: None, or why not.
"""

from deskgrid.core.policy.facts import No, Question
from deskgrid.core.policy.limits import mib, reserve_bytes


def on_battery(q: Question) -> No | None:
    """The laptop is not on mains power."""
    machine = q.facts.machine
    if not machine.on_battery or q.policy.on_battery:
        return None
    return No("The computer runs on battery.", _charge(machine.battery_percent))


def battery_low(q: Question) -> No | None:
    """The battery is to be charged first, whether it is in use or not."""
    charge, least = q.facts.machine.battery_percent, q.policy.battery_min_percent
    if charge is None or charge >= least:
        return None
    return No("The battery is to be charged first.", f"{_charge(charge)}, at least {least:.0f} % must be")


def battery_unknown(q: Question) -> No | None:
    """There is a battery (none is: False or None, and no charge), and what must be known of it is not."""
    used, charge = q.facts.machine.on_battery, q.facts.machine.battery_percent
    if used is None and charge is not None and not q.policy.on_battery:
        return No("It is not known whether the computer runs on battery.")
    if used and charge is None and q.policy.battery_min_percent > 0:
        return No("It is not known how much the battery is charged.")
    return None


def metered(q: Question) -> No | None:
    """The network costs by what is carried."""
    known = q.facts.machine.metered
    if q.policy.metered or known is False:
        return None
    return No("The network is metered." if known else "It is not known whether the network is metered.")


def wireless(q: Question) -> No | None:
    """The network is shared by all in the air."""
    known = q.facts.machine.wireless
    if q.policy.wireless or known is False:
        return None
    return No("The network is wireless." if known else "It is not known whether the network is wireless.")


def others_load(q: Question) -> No | None:
    """Other programs need the processors."""
    if not q.facts.waits.loaded:
        return None
    used = q.facts.machine.others_cpu
    now = "not known now" if used is None else f"{used:.0%} now"
    return No(
        "Other programs have used much of the processors, so virtual machines make way.",
        f"{now}, at most {q.policy.others_cpu_max:.0%} for {q.policy.others_cpu_seconds:.0f} s",
    )


def memory_reserve(q: Question) -> No | None:
    """No memory is free above the reserve."""
    machine, reserve = q.facts.machine, reserve_bytes(q.policy, q.facts.machine)
    if machine.memory_available_bytes > reserve:
        return None
    return No(
        "The memory that is free is kept for the computer itself.",
        f"{mib(machine.memory_available_bytes)} available, reserve {mib(reserve)}",
    )


def memory_short(q: Question) -> No | None:
    """So little memory is available that what was given must come back."""
    available, least = q.facts.machine.memory_available_bytes, q.policy.memory_short_bytes
    if available >= least:
        return None
    return No(
        "The computer is short of memory, so the newest virtual machine gives its memory back.",
        f"{mib(available)} available, at least {mib(least)} must be",
    )


def memory_pressure(q: Question) -> No | None:
    """Programs wait for memory more than they may. Unknown pressure is no pressure."""
    pressure, most = q.facts.machine.memory_pressure, q.policy.memory_pressure_max
    if pressure is None or pressure <= most:
        return None
    return No(
        "Programs on this computer wait for memory, so the newest virtual machine gives its memory back.",
        f"{pressure:.1f} % of the last 10 s, at most {most:.1f} %",
    )


def disk_floor(q: Question) -> No | None:
    """No disk is free above the floor."""
    free, floor = q.facts.machine.disk_free_bytes, q.policy.disk_floor_bytes
    if free > floor:
        return None
    return No(
        "The disk is nearly full, and what is free is kept for the computer itself.",
        f"{mib(free)} free, floor {mib(floor)}",
    )


def disk_short(q: Question) -> No | None:
    """So little disk is free that what was given must come back."""
    free, floor = q.facts.machine.disk_free_bytes, q.policy.disk_floor_bytes
    if free * 2 >= floor:
        return None
    return No(
        "The disk is nearly full, so the newest virtual machine gives its disk back.",
        f"{mib(free)} free, at least half of {mib(floor)} must be",
    )


def _charge(charge: float | None) -> str:
    return "charge unknown" if charge is None else f"charged to {charge:.0f} %"
