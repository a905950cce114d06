"""The resources of a Mac: memory, disk, load of others, power, programs. Never run on a Mac.

Rules:
- psutil for what it knows; IOKit for power; the kernel's three levels of memory pressure as 0, 50 and 100 percent.
- The load of others is what all processors did since the last reading, less this process and `ours_cpu_seconds`.
- Whether the network is metered or wireless is not known here: None.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from deskgrid.model.policy import Machine, Policy
from deskgrid.presence.macos import calls
from deskgrid.presence.macos.values import battery_of, pressure_of


class MacMachine:
    """Reads the resources of a Mac.

    Args:
        folder: on the disk that VMs use.
        ours_cpu_seconds: processor time of all VMs so far; None: not known now.
    """

    def __init__(self, folder: Path, ours_cpu_seconds: Callable[[], float | None] = lambda: 0.0) -> None:
        self._folder, self._ours = folder, ours_cpu_seconds
        self._before: tuple[float, float, float] | None = None

    def read(self, policy: Policy) -> Machine:
        """What is known now.

        Args: policy: for the programs that must not be disturbed.
        Raises: OSError: memory or disk can't be read.
        """
        memory = psutil.virtual_memory()
        try:
            on_battery, percent = battery_of(*calls.power())
            pressure = pressure_of(calls.pressure_level())
        except OSError:
            on_battery = percent = pressure = None
        return Machine(
            os.cpu_count() or 1,
            memory.total,
            memory.available,
            shutil.disk_usage(self._folder).free,
            memory_pressure=pressure,
            others_cpu=self._others(),
            on_battery=on_battery,
            battery_percent=percent,
            metered=None,
            wireless=None,
            programs=_running(policy.quiet_programs),
            up_seconds=max(0.0, time.time() - psutil.boot_time()),
        )

    def _others(self) -> float | None:
        ours, times = self._ours(), psutil.cpu_times()
        if ours is None:
            self._before = None
            return None
        now = (times.idle, sum(times), ours + time.process_time())
        before, self._before = self._before, now
        if before is None or now[1] <= before[1]:
            return None
        idle, everything, mine = (after - earlier for after, earlier in zip(now, before, strict=True))
        return min(1.0, max(0.0, (everything - idle - mine) / everything))


def _running(wanted: Iterable[str]) -> tuple[str, ...]:
    """Those of the wanted programs that run; names are compared without regard to case."""
    names = tuple(wanted)
    if not names:
        return ()
    there = {str(process.info["name"] or "").casefold() for process in psutil.process_iter(["name"])}
    return tuple(name for name in names if name.casefold() in there)
