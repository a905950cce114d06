"""The resources of a Windows desktop: memory, disk, load of others, power, network, programs.

Rules:
- The load of others is what all processors did since the last reading, less what the grid did: this process, and what
  `ours_cpu_seconds` counts (the VMs' job object, see `host/system/windows_job.py`).
- Windows tells no pressure in percent. It tells when memory is low, before it pages much: that reads as 100, else 0.
- What can't be read is None, and raises nothing; memory and disk are always there.
- The network is asked every 30 s: it costs a thread and some milliseconds.

Sources: GlobalMemoryStatusEx, CreateMemoryResourceNotification, GetTickCount64 (sysinfoapi.h, memoryapi.h),
GetDiskFreeSpaceExW (fileapi.h), GetSystemTimes (processthreadsapi.h), CreateToolhelp32Snapshot (tlhelp32.h),
GetSystemPowerStatus (winbase.h).
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from ctypes import byref, c_int, c_uint32, c_uint64, c_void_p, c_wchar_p
from pathlib import Path

import msgspec

from deskgrid.model.policy import Machine, Policy
from deskgrid.presence.windows import network
from deskgrid.presence.windows.calls import failed, function, power, up_seconds
from deskgrid.presence.windows.values import WindowsPower

NETWORK_SECONDS = 30.0
_LOW_MEMORY = 0
_ALL_PROCESSES = 2
_INVALID_HANDLE = ctypes.c_void_p(-1).value


class Times(msgspec.Struct, frozen=True):
    """Seconds of all processors together since the start: idle, and all (idle included). ours: the grid's."""

    idle: float
    all: float
    ours: float


def others_share(before: Times, now: Times) -> float | None:
    """Return the share of all processors (0 to 1) that others have used between two looks; None: no time has passed."""
    all_seconds = now.all - before.all
    if all_seconds <= 0:
        return None
    busy = all_seconds - (now.idle - before.idle) - (now.ours - before.ours)
    return min(1.0, max(0.0, busy / all_seconds))


def running_of(wanted: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the wanted programs that run; case and a trailing .exe don't matter."""
    there = {_plain(name) for name in names}
    return tuple(name for name in wanted if _plain(name) in there)


def _plain(name: str) -> str:
    return name.casefold().removesuffix(".exe")


class MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX."""

    _fields_ = (
        ("length", c_uint32),
        ("load", c_uint32),
        *((name, c_uint64) for name in ("total", "free", "total_page", "free_page", "total_virtual", "free_virtual")),
        ("extended", c_uint64),
    )


class ProcessEntry(ctypes.Structure):
    """PROCESSENTRY32W."""

    _fields_ = (
        ("size", c_uint32),
        ("usage", c_uint32),
        ("pid", c_uint32),
        ("heap", c_void_p),
        ("module", c_uint32),
        ("threads", c_uint32),
        ("parent", c_uint32),
        ("priority", ctypes.c_int32),
        ("flags", c_uint32),
        ("name", ctypes.c_wchar * 260),
    )


class WindowsMachine:
    """Reads the resources of a Windows desktop.

    Args:
        folder: on the disk that VMs use.
        ours_cpu_seconds: processor time of all VMs so far; None: not known now.
        metered: whether the network is metered, as `WindowsPresence.metered`.
    """

    def __init__(
        self,
        folder: Path,
        ours_cpu_seconds: Callable[[], float | None] = lambda: 0.0,
        metered: Callable[[], bool | None] = network.metered,
    ) -> None:
        self._folder, self._ours, self._metered = folder, ours_cpu_seconds, metered
        self._before: Times | None = None
        self._low_memory = self._watch_memory()
        self._network: tuple[bool | None, bool | None] = (None, None)
        self._network_at: float | None = None

    def read(self, policy: Policy) -> Machine:
        """What is known now.

        Args: policy: for the programs that must not be disturbed.
        Raises: OSError: memory or disk can't be read.
        """
        memory, charge = memory_bytes(), self._power()
        metered, wireless = self._connection()
        return Machine(
            os.cpu_count() or 1,
            memory[0],
            memory[1],
            disk_free_bytes(self._folder),
            memory_pressure=self._pressure(),
            others_cpu=self._others(),
            on_battery=charge.on_battery,
            battery_percent=charge.percent,
            metered=metered,
            wireless=wireless,
            programs=self._programs(policy.quiet_programs),
            up_seconds=up_seconds(),
        )

    def close(self) -> None:
        """Give the notice of low memory back; may be called twice."""
        handle, self._low_memory = self._low_memory, None
        if handle is not None:
            function("kernel32", "CloseHandle", c_int, c_void_p)(handle)

    def _others(self) -> float | None:
        try:
            ours, (idle, all_) = self._ours(), system_seconds()
        except OSError:
            ours = None
        if ours is None:
            self._before = None
            return None
        now = Times(idle, all_, ours + time.process_time())
        before, self._before = self._before, now
        return None if before is None else others_share(before, now)

    def _watch_memory(self) -> int | None:
        with suppress(OSError):
            return function("kernel32", "CreateMemoryResourceNotification", c_void_p, c_int)(_LOW_MEMORY) or None
        return None

    def _pressure(self) -> float | None:
        low = c_int()
        query = function("kernel32", "QueryMemoryResourceNotification", c_int, c_void_p, c_void_p)
        if self._low_memory is None or not query(self._low_memory, byref(low)):
            return None
        return 100.0 if low.value else 0.0

    def _power(self) -> WindowsPower:
        try:
            return power()
        except OSError:
            return WindowsPower(None, None)

    def _connection(self) -> tuple[bool | None, bool | None]:
        now = time.monotonic()
        if self._network_at is None or now - self._network_at >= NETWORK_SECONDS:
            self._network, self._network_at = (self._metered(), network.wireless()), now
        return self._network

    def _programs(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those that run. When none can be listed, all of them count as running: unknown is busy."""
        if not wanted:
            return ()
        try:
            return running_of(wanted, process_names())
        except OSError:
            return wanted


def memory_bytes() -> tuple[int, int]:
    """GlobalMemoryStatusEx: all memory, and what could be had without paging."""
    status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
    if not function("kernel32", "GlobalMemoryStatusEx", c_int, c_void_p)(byref(status)):
        raise failed("GlobalMemoryStatusEx")
    return int(status.total), int(status.free)


def disk_free_bytes(folder: Path) -> int:
    """GetDiskFreeSpaceExW: what this account may still use, quotas included."""
    free = c_uint64()
    call = function("kernel32", "GetDiskFreeSpaceExW", c_int, c_wchar_p, c_void_p, c_void_p, c_void_p)
    if not call(str(folder), byref(free), None, None):
        raise failed("GetDiskFreeSpaceEx")
    return free.value


def system_seconds() -> tuple[float, float]:
    """GetSystemTimes: seconds of all processors: idle, and all."""
    idle, kernel, user = c_uint64(), c_uint64(), c_uint64()
    call = function("kernel32", "GetSystemTimes", c_int, c_void_p, c_void_p, c_void_p)
    if not call(byref(idle), byref(kernel), byref(user)):
        raise failed("GetSystemTimes")
    return idle.value / 1e7, (kernel.value + user.value) / 1e7  # the kernel's time includes the idle time


def process_names() -> tuple[str, ...]:
    """CreateToolhelp32Snapshot: names of the programs that run, of all accounts."""
    snapshot = function("kernel32", "CreateToolhelp32Snapshot", c_void_p, c_uint32, c_uint32)(_ALL_PROCESSES, 0)
    if snapshot in (None, _INVALID_HANDLE):
        raise failed("CreateToolhelp32Snapshot")
    names = []
    entry = ProcessEntry(size=ctypes.sizeof(ProcessEntry))
    step = function("kernel32", "Process32FirstW", c_int, c_void_p, c_void_p)
    try:
        while step(snapshot, byref(entry)):
            names.append(str(entry.name))
            step = function("kernel32", "Process32NextW", c_int, c_void_p, c_void_p)
    finally:
        function("kernel32", "CloseHandle", c_int, c_void_p)(snapshot)
    return tuple(names)
