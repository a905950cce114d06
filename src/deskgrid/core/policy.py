"""May virtual machines run on this desktop now? Every no is a named value with a sentence and the reading behind it.

Rules, told first:
- Unknown counts as busy. The first refusal wins; all are returned, so that `why` can show them.
- Nobody logged in: any time. Somebody logged in: not in the closed hours, and only when idle.
- Starting asks for a long quiet time, going on for a short one: `availability` and `may_go_on` differ only in that.
- The operating system keeps its reserve: a VM starts only if after its memory the reserve is still free.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from deskgrid.core.hours import closed
from deskgrid.core.limits import mib
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason


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
    if reading.logged_in is not False and (shut := closed(policy.closed, local, policy.days_off)) is not None:
        refusals.append(
            Reason(
                "working-hours",
                f'Somebody is logged in, and in the hours "{shut.by}" nothing runs then.',
                f"local time {local:%a %H:%M}, logged in: {'unknown' if reading.logged_in is None else 'yes'}",
                shut.until,
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
                f"{mib(machine.memory_available_bytes)} available, reserve {mib(policy.memory_reserve_bytes)}",
            )
        )
    if machine.disk_free_bytes <= policy.disk_floor_bytes:
        refusals.append(
            Reason(
                "disk-floor",
                "The disk is nearly full, and what is free is kept for the computer itself.",
                f"{mib(machine.disk_free_bytes)} free, floor {mib(policy.disk_floor_bytes)}",
            )
        )
    return refusals
