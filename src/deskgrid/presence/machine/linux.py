"""The resources of a Linux desktop at one moment: processors, memory, disk, power, network, programs, others' load.

Rules:
- Plain reads of /proc and /sys, no library: at rest a look costs well under a millisecond.
- Memory and disk are read each time. The rest is read once a second at most, batteries (some are slow to answer) and
  routes every 10 s.
- What can't be read is None. Programs are looked for only if the policy names some; where /proc hides the processes of
  others (hidepid), all that it names count as running.
"""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from deskgrid.model.policy import Machine, Policy
from deskgrid.presence.linux.network import wireless
from deskgrid.presence.linux.power import Power, read_power
from deskgrid.presence.linux.presence import Roots
from deskgrid.presence.machine.load import Load, memory_pressure
from deskgrid.presence.machine.processes import Processes

_LEAST_SECONDS = 1.0
_SLOW_SECONDS = 10.0


class LinuxMachine:
    """Reads the resources of a Linux desktop.

    Args:
        folder: on the disk that VMs use.
        ours: process numbers of the grid's own; None: all of the account that we run as (root: only this process).
        metered: whether the network is metered, as `LinuxPresence.metered`.
        roots: where to look.
    """

    def __init__(
        self,
        folder: Path,
        ours: Callable[[], Iterable[int]] | None = None,
        metered: Callable[[], bool | None] = lambda: False,
        roots: Roots | None = None,
    ) -> None:
        self._folder, self._metered, self._roots = folder, metered, roots or Roots()
        self._processes = Processes(self._roots.proc, os.geteuid() or None)
        self._ours = ours or self._of_this_account
        self._load = Load(self._roots.proc, self._processes, self._ours)
        self._cpus = os.cpu_count() or 1
        self._looked_at: float | None = None
        self._power = Power()
        self._slow_at: float | None = None
        self._pressure: float | None = None
        self._wireless: bool | None = None
        self._programs: tuple[str, ...] = ()
        self._wanted: tuple[str, ...] = ()

    def read(self, policy: Policy) -> Machine:
        """What is known now.

        Args: policy: for the programs that must not be disturbed.
        Raises: OSError: memory or disk can't be read.
        """
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= _LEAST_SECONDS or policy.quiet_programs != self._wanted:
            self._look(policy, now)
        total, available = read_memory(self._roots.proc)
        disk = os.statvfs(self._folder)
        return Machine(
            cpus=self._cpus,
            memory_bytes=total,
            memory_available_bytes=available,
            disk_free_bytes=disk.f_bavail * disk.f_frsize,
            memory_pressure=self._pressure,
            others_cpu=self._load.share,
            on_battery=self._power.on_battery,
            battery_percent=self._power.battery_percent,
            metered=self._metered(),
            wireless=self._wireless,
            programs=self._programs,
            up_seconds=time.clock_gettime(time.CLOCK_BOOTTIME),
        )

    def _look(self, policy: Policy, now: float) -> None:
        self._looked_at, self._wanted = now, policy.quiet_programs
        self._processes.relist()
        self._load.look()
        self._programs = self._processes.running(policy.quiet_programs)
        if policy.quiet_programs and self._processes.hidden:
            self._programs = policy.quiet_programs  # unknown is busy
        self._pressure = memory_pressure(self._roots.proc, self._roots.sysfs / "fs/cgroup", self._is_ours)
        if self._slow_at is None or now - self._slow_at >= _SLOW_SECONDS:
            self._power, self._slow_at = read_power(self._roots.sysfs), now
            self._wireless = wireless(self._roots.proc, self._roots.sysfs)

    def _of_this_account(self) -> Iterable[int]:
        return self._processes.ours | {os.getpid()}

    def _is_ours(self, pid: int) -> bool:
        return pid == os.getpid() or pid in self._processes.ours or pid in set(self._ours())


def read_memory(proc: Path) -> tuple[int, int]:
    """Return the bytes of all memory and of what could be had without paging (proc_meminfo(5)).

    Raises: OSError: it can't be read, or says neither.
    """
    found = {}
    with (proc / "meminfo").open() as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name] = int(value.split()[0]) * 1024
                if len(found) == 2:
                    return found["MemTotal"], found["MemAvailable"]
    raise OSError(f"memory {proc}/meminfo: got {sorted(found)}, expected MemTotal and MemAvailable")
