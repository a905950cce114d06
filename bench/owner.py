"""The owner's return, many times, to a busy guest: how soon its processors stand still, how soon it is gone.

Rules:
- How the return comes and how its effect is seen: `fleet.py`.
- Pauses are taken on one machine that stays paused until the owner leaves again; ends need a new machine each.
- Where the goal is a 99th percentile, that is the figure; `runs` has every single value.
"""

import time

from bench.figure import Figure, Load, measured, p99
from bench.fleet import Fleet, a_while, await_ends, many
from bench.ground import Ground
from bench.guest import FILLED_MIB, OBEDIENT, STUBBORN, Kind
from deskgrid.model.policy import GRACE_SECONDS_MOST

NAMES = (
    "owner_to_pause_repeated_ms",
    "input_to_stopped_p99_ms",
    "owner_to_gone_repeated_ms",
    "owner_to_gone_stubborn_ms",
)
_PAUSES_SECONDS, _ENDS_SECONDS = 180.0, 150.0


def run(ground: Ground, load: Load, pauses: int = 50, ends: int = 8, stubborn: int = 3) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    fleet = Fleet(ground, OBEDIENT, STUBBORN)
    fleet.want(OBEDIENT)
    fleet.start_desktop("desk-pauses", GRACE_SECONDS_MOST)
    fleet.owner("desk-pauses", "away")
    paused = _pauses(fleet, pauses)
    fleet.owner("desk-pauses", "present")
    fleet.start_desktop("desk-ends", 0)
    gone = _ends(fleet, ends, OBEDIENT, _ENDS_SECONDS)
    fleet.want(STUBBORN)
    stayed = _ends(fleet, stubborn, STUBBORN, _ENDS_SECONDS / 3)
    note = f"a 1-CPU guest that computes, {FILLED_MIB} MiB of its memory touched"
    seen = f"{note}; from the write to the presence file; seen in its processor threads' time"
    return [
        measured(NAMES[0], paused, note=seen, load=load),
        measured(NAMES[1], paused, of=p99, note=seen, load=load),
        measured(NAMES[2], gone, note=f"{note}; it leaves when asked, grace 0", load=load),
        measured(NAMES[3], stayed, note=f"{note}; it never leaves: the two seconds are waited out", load=load),
    ]


def _pauses(fleet: Fleet, count: int) -> list[float]:
    desktop = "desk-pauses"
    qemu = fleet.busy_machine(desktop)

    def once() -> float:
        fleet.await_busy(qemu)
        a_while()
        found = fleet.pause(desktop, qemu.pid) * 1000
        fleet.owner(desktop, "away")
        return found

    return many(fleet.ground, "pause", count, _PAUSES_SECONDS, once)


def _ends(fleet: Fleet, count: int, kind: Kind, seconds: float) -> list[float]:
    desktop = "desk-ends"

    def once() -> float:
        fleet.owner(desktop, "away")
        qemu = fleet.busy_machine(desktop)
        return 1000 * await_ends([qemu.pid], lambda: fleet.owner(desktop, "present"), "end of a machine")

    began = time.monotonic()
    found = many(fleet.ground, f"end of {kind.name}", count, seconds, once)
    fleet.ground.say(f"{len(found)} ends in {time.monotonic() - began:.0f} s")
    return found
