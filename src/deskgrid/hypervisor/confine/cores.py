"""Which cores VMs may use, and how a process with all its threads is kept there; Linux.

Rules:
- All VMs of a desktop share one set of cores, so that together they never use more than its size. Every keeper works
  the set out by itself, from the same facts, with the same function.
- The last cores first, a whole core with its hyper-threads at a time; core 0 and its sibling are the owner's for as
  long as that is possible: interrupts are served there.
- Threads that begin later inherit their maker's cores; one that begins while the others are being moved is moved in the
  next round.

Source: sched_setaffinity(2); /sys/devices/system/cpu/cpuN/topology/thread_siblings_list (the kernel's cputopology.rst).
"""

import contextlib
import os
from collections.abc import Mapping, Set
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")


def choose(cpus: int | None, allowed: Set[int], siblings: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """The cores that all VMs share.

    Args:
        cpus: how many; None: as many as there are. Less than one counts as one: a VM that leaves needs one.
        allowed: those that this account may use. siblings: of a core, all that share its physical core, itself too.
    """
    count = len(allowed) if cpus is None else max(1, cpus)
    groups = {min(group): group for core in allowed if (group := (siblings.get(core, frozenset()) | {core}) & allowed)}
    order = [core for first in sorted(groups, reverse=True) for core in sorted(groups[first], reverse=True)]
    return frozenset(list(dict.fromkeys(order))[:count])


def here(cpus: int | None, folder: Path = _CPUS) -> frozenset[int]:
    """The same on this machine, for the calling process's account."""
    allowed = os.sched_getaffinity(0)
    return choose(cpus, allowed, {core: _siblings(folder, core) for core in allowed})


def _siblings(folder: Path, core: int) -> frozenset[int]:
    try:
        return parse((folder / f"cpu{core}" / "topology" / "thread_siblings_list").read_text())
    except (OSError, ValueError):
        return frozenset({core})


def parse(text: str) -> frozenset[int]:
    """A list of cores as the kernel writes it ("0-1,4"). Raises: ValueError."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores |= set(range(int(first), int(last or first) + 1))
    return frozenset(cores)


def threads(pid: int) -> set[int]:
    """The threads of a process that lives."""
    try:
        return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
    except FileNotFoundError:
        return set()


def keep_on(pid: int, cores: Set[int]) -> list[int]:
    """Put every thread of a process on these cores. Returns: all its threads."""
    done: set[int] = set()
    while left := threads(pid) - done:
        for thread in left:
            with contextlib.suppress(ProcessLookupError):
                if os.sched_getaffinity(thread) != cores:
                    os.sched_setaffinity(thread, cores)
        done |= left
    return sorted(done)
