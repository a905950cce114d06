"""How much of the processors others use than the grid, and whether others wait for memory because of anybody.

Rules:
- Processors: all that was used since the last look, less what the grid's own processes have used. What one of them has
  used since the last look and before its end is not known any more and counts as others' use.
- Pressure (PSI): never more than the whole computer's. Where the grid has a control group of its own and the whole
  computer's pressure is not small, it is at most the sum of all groups beside the grid's on the way to the root.
- A look costs some file reads; asked again within a second, the last answer stands.

Source: proc_stat(5), the kernel's accounting/psi.rst and cgroup-v2.rst.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from deskgrid.presence.machine.processes import Processes, ProcessTime

_LEAST_SECONDS = 1.0
_SMALL_PERCENT = 1.0
_AGENT_GROUP = "agent"  # the group within the grid's own that the agent itself is in


class Total(msgspec.Struct, frozen=True):
    """Clock ticks of all processors since the start: in use, and in all."""

    busy: int
    all: int


class Load:
    """What others use of the processors.

    Args:
        proc: /proc. ours: process numbers of the grid's own; asked at each look.
    """

    def __init__(self, proc: Path, processes: Processes, ours: Callable[[], Iterable[int]]) -> None:
        self._stat, self._processes, self._ours = proc / "stat", processes, ours
        self._before: Total | None = None
        self._used: dict[int, ProcessTime] = {}
        self._looked_at_ticks = 0.0
        self.share: float | None = None
        """Share of all processors (0 to 1) that others used at the last look; None: not known yet."""

    def look(self) -> None:
        """Look anew."""
        now_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        try:
            total = parse_total(self._stat.read_text())
        except (OSError, ValueError, IndexError):
            self._before = self.share = None
            return
        used = self._processes.used(self._ours())
        if self._before is not None:
            self.share = others_share(self._before, total, grown(self._used, used, self._looked_at_ticks))
        self._before, self._used, self._looked_at_ticks = total, used, now_ticks


def parse_total(text: str) -> Total:
    """Return the first line of /proc/stat: user nice system idle iowait irq softirq steal (guests are in user)."""
    ticks = [int(word) for word in text.splitlines()[0].split()[1:9]]
    return Total(sum(ticks[:3]) + sum(ticks[5:7]), sum(ticks))


def grown(before: dict[int, ProcessTime], now: dict[int, ProcessTime], looked_at_ticks: float) -> int:
    """Return how many ticks the processes have surely used since the last look."""
    ticks = 0
    for pid, used in now.items():
        known = before.get(pid)
        if known is not None and known.started == used.started:
            ticks += used.ticks - known.ticks
        elif used.started >= looked_at_ticks:
            ticks += used.ticks
    return max(0, ticks)


def others_share(before: Total, now: Total, ours_ticks: int) -> float | None:
    """Return the share of all processors that others than ours have used; None: no time has passed."""
    if now.all <= before.all:
        return None
    return min(1.0, max(0.0, (now.busy - before.busy - ours_ticks) / (now.all - before.all)))


def memory_pressure(proc: Path, mount: Path, is_ours: Callable[[int], bool]) -> float | None:
    """Return the percent of the last 10 s in which some process of others waited for memory; None: it is not told.

    Args:
        proc: /proc. mount: where control groups (version 2) are, /sys/fs/cgroup. is_ours: of a process number.
    """
    everybody = _some(proc / "pressure/memory")
    if everybody is None or everybody < _SMALL_PERCENT:
        return everybody
    own = _own_group(proc, mount, is_ours)
    if own is None:
        return everybody
    others, group = 0.0, own
    while group != mount:
        beside = [path for path in group.parent.iterdir() if path.is_dir() and path != group]
        others += sum(_some(path / "memory.pressure") or 0.0 for path in beside)
        group = group.parent
    return min(everybody, others)


def _own_group(proc: Path, mount: Path, is_ours: Callable[[int], bool]) -> Path | None:
    """The control group of the agent, its VMs and nobody else, with a pressure of its own; None: there is none."""
    try:
        table = (proc / "self/cgroup").read_text()
        path = next((line[4:] for line in table.splitlines() if line.startswith("0::/")), "")
        group = mount / path
        if group.name == _AGENT_GROUP:
            group = group.parent
        if group == mount or _some(group / "memory.pressure") is None:
            return None
        members = [int(pid) for file in group.rglob("cgroup.procs") for pid in file.read_text().split()]
    except (OSError, ValueError):
        return None
    return group if members and all(is_ours(pid) for pid in members) else None


def _some(path: Path) -> float | None:
    """The avg10 of "some" in a file of pressures; None: there is none."""
    try:
        return float(path.read_text().split("avg10=", 1)[1].split(" ", 1)[0])
    except (OSError, IndexError, ValueError):
        return None
