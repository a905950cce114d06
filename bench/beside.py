"""An owner's work beside the agent alone, and (compile, compress, read a disk) beside a VM that uses all it may.

Rules:
- Both sides of a comparison take turns in one go (A B, B A, A B …), so that what changes slowly on the machine counts
  for both. The figure is of the medians of each part on each side; `runs` has what each pair says.
- Without the VM: it is paused. With the VM: it is busy on all processors, which the owner's work asks for too; the
  policy is told to let it run on.
- What the agent alone costs is too little to be seen in the time that work takes: it is counted (`waits.py`).
"""

import os
import shutil
import signal
from collections.abc import Callable

from bench import waits
from bench.figure import Figure, Load, measured
from bench.fleet import STILL_SECONDS, Fleet
from bench.ground import Ground
from bench.guest import OBEDIENT, Kind
from bench.machine import CannotMeasure
from bench.workload import PARTS, Spent, Workload, best, slower_percent, typical
from deskgrid.host.system.account import become
from deskgrid.model.policy import GRACE_SECONDS_MOST

NAMES = ("owner_beside_vm_slower_percent", *waits.NAMES)
_DESKTOP = "desk-shared"


def run(ground: Ground, load: Load, with_vm: int = 8, with_agent: int = 8, turn_seconds: float = 5.0) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    missing = [tool for tool in ("gcc", "zstd") if shutil.which(tool) is None]
    if missing:
        raise CannotMeasure(f"an owner's work needs {' and '.join(missing)} (`tools/system-packages --bench`)")
    cores = len(os.sched_getaffinity(0))
    kind = Kind("bench-loaded", f"bench.fill=64 bench.spin={cores}", cpus=cores)
    fleet = Fleet(ground, kind, OBEDIENT)
    work = Workload(ground.cast.make_folder("work", 0o755), become(ground.cast.account), cores)
    fleet.want(kind)
    agent = fleet.start_desktop(_DESKTOP, GRACE_SECONDS_MOST)
    work.run()
    alone = waits.run(ground, load, agent, with_agent, turn_seconds, lambda still: _stop(agent, still))
    fleet.owner(_DESKTOP, "away")
    qemu = fleet.busy_machine(_DESKTOP)
    ground.say(f"an owner's work beside a VM that uses {cores} processors")

    def vm(runs: bool) -> None:
        if runs:
            fleet.owner(_DESKTOP, "away")
            fleet.await_busy(qemu)
        elif fleet.pause(_DESKTOP, qemu.pid) > 10 * STILL_SECONDS:
            raise CannotMeasure("a machine beside an owner's work: it was not paused")

    beside = _turns(ground, work, with_vm, vm)
    return [_figure(NAMES[0], beside, load), *alone]


def _stop(agent: int, still: bool) -> None:
    os.kill(agent, signal.SIGSTOP if still else signal.SIGCONT)


def _figure(name: str, pairs: list[tuple[Spent, Spent]], load: Load) -> Figure:
    sides = [typical([pair[side] for pair in pairs]) for side in (0, 1)]
    told = [f"{part} {getattr(sides[0], part):.2f} s, {getattr(sides[1], part):.2f} s beside" for part in PARTS]
    least = slower_percent(*(best([pair[side] for pair in pairs]) for side in (0, 1)))
    note = f"{'; '.join(told)}; medians of {len(pairs)} pairs that took turns; by the quickest runs {least:.1f} %"
    runs = [slower_percent(*pair) for pair in pairs]
    return measured(name, runs, of=lambda _: slower_percent(sides[0], sides[1]), note=note, load=load)


def _turns(ground: Ground, work: Workload, pairs: int, turn: Callable[[bool], None]) -> list[tuple[Spent, Spent]]:
    """Returns: without and with, pair by pair."""
    found = []
    for number in range(pairs):
        ground.say(f"pair {number + 1} of {pairs}")
        spent: dict[bool, Spent] = {}
        for there in (False, True) if number % 2 == 0 else (True, False):
            turn(there)
            spent[there] = work.run()
        found.append((spent[False], spent[True]))
    return found
