"""How long an owner's program waits for a processor because of the agent: by the kernel's own counts.

Rules:
- The owner's program is a loop on each processor. It can wait only for what else wants its processor; how long, the
  kernel counts in nanoseconds (`/proc/PID/schedstat`, the second number). Nothing of it depends on disk or cache.
- With the agent and without it (stopped by SIGSTOP) take turns (A B, B A …); the figure is the median difference.
- What the agent itself used of the processors, and how often it woke, is counted in the same turns.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from bench.figure import Figure, Load, measured
from bench.ground import Ground
from bench.machine import CannotMeasure, cpu_seconds, switches
from deskgrid.host.system.account import become

NAMES = ("owner_waits_for_agent_percent", "agent_beside_owner_cpu_percent", "agent_beside_owner_wakeups_per_s")
_LOOP = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
def counts():
    with open("/proc/self/schedstat") as file:
        return [int(word) for word in file.read().split()]
before, end = counts(), time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    pass
print(*(after - was for after, was in zip(counts(), before)))
"""


class Turn(msgspec.Struct, frozen=True):
    """One turn of the loops. waited_percent: of their time, for a processor. The rest is of the agent."""

    waited_percent: float
    cpu_percent: float
    wakeups_per_s: float


def run(
    ground: Ground, load: Load, agent: int, pairs: int, seconds: float, still: Callable[[bool], None]
) -> list[Figure]:
    """Measure. agent: its process id. still: stops the agent (True) or lets it go on. Raises: CannotMeasure."""
    found: list[tuple[Turn, Turn]] = []
    for number in range(pairs):
        ground.say(f"waiting for the agent, pair {number + 1} of {pairs}")
        turns: dict[bool, Turn] = {}
        for there in (False, True) if number % 2 == 0 else (True, False):
            still(not there)
            turns[there] = _turn(ground, agent, seconds)
        found.append((turns[False], turns[True]))
    still(False)
    return _figures(found, seconds, load)


def _figures(found: list[tuple[Turn, Turn]], seconds: float, load: Load) -> list[Figure]:
    alone = statistics.median(without.waited_percent for without, _ in found)
    note = f"a loop on each processor, {len(found)} pairs of {seconds:.0f} s; without the agent it waited {alone:.3f} %"
    return [
        measured(
            NAMES[0],
            [beside.waited_percent - without.waited_percent for without, beside in found],
            note=note,
            load=load,
        ),
        measured(NAMES[1], [beside.cpu_percent for _, beside in found], note="in the same turns", load=load),
        measured(NAMES[2], [beside.wakeups_per_s for _, beside in found], note="in the same turns", load=load),
    ]


def _turn(ground: Ground, agent: int, seconds: float) -> Turn:
    cores = sorted(os.sched_getaffinity(0))
    argvs = [[*become(ground.cast.account), sys.executable, "-c", _LOOP, str(core), str(seconds)] for core in cores]
    before, slept, began = cpu_seconds([agent]), switches([agent]), time.monotonic()
    loops = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) for argv in argvs]
    said = [loop.communicate(timeout=seconds + 30)[0].split() for loop in loops]
    if not all(len(words) == 3 for words in said):
        raise CannotMeasure(f"/proc/self/schedstat: got {said}, expected three numbers; the kernel does not count them")
    took = time.monotonic() - began
    ran, waited = (sum(int(words[which]) for words in said) for which in (0, 1))
    used = cpu_seconds([agent]) - before
    return Turn(100 * waited / (ran + waited), 100 * used / took, (switches([agent]) - slept) / took)
