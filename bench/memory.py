"""The owner's return to a machine of 8 GiB, all of it touched: how soon the computer has its memory back.

Rules:
- The guest never says hello, so it counts as booting: there is no work to lose, and it is ended without a vacate.
- It is full when QEMU's resident memory says so. The memory is back when MemAvailable has grown by all but a
  sixteenth of what QEMU had resident; it is read every millisecond.
"""

import time
from pathlib import Path

import psutil

from bench.figure import Figure, Load, measured, p99
from bench.fleet import Fleet, a_while, many
from bench.ground import Ground
from bench.guest import LARGE_MIB, MIB, large
from bench.machine import CannotMeasure

NAMES = ("input_to_memory_back_p99_s",)
_SPARE_MIB = 2048
_FILL_SECONDS, _ALL_SECONDS = 180.0, 150.0
_DESKTOP = "desk-large"


def run(ground: Ground, load: Load, count: int = 20, memory_mib: int = LARGE_MIB) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    kind = large(memory_mib)
    free = psutil.virtual_memory().available // MIB
    if free < kind.memory_mib + _SPARE_MIB:
        raise CannotMeasure(f"memory: got {free} MiB available, expected {kind.memory_mib + _SPARE_MIB}")
    fleet = Fleet(ground, kind)
    fleet.want(kind)
    fleet.start_desktop(_DESKTOP, 0)
    filled: list[float] = []

    def once() -> float:
        began = time.monotonic()
        fleet.owner(_DESKTOP, "away")
        _, qemu = fleet.machine(_DESKTOP, "started")
        ground.until("a guest to touch all its memory", _FILL_SECONDS, lambda: _resident_mib(qemu) >= memory_mib)
        filled.append(time.monotonic() - began)
        a_while()
        return _back(fleet, _resident_mib(qemu))

    found = many(ground, "memory back", count, _ALL_SECONDS, once)
    note = (
        f"{memory_mib} MiB touched by the guest, by QEMU's resident memory; from the write to the presence file until "
        f"MemAvailable has them back; ended without a vacate; starting and filling took {min(filled):.0f} s or more"
    )
    return [measured(NAMES[0], found, of=p99, note=note, load=load)]


def _back(fleet: Fleet, resident_mib: int) -> float:
    """The owner returns. Returns: seconds until the memory is back."""
    wanted = _available_mib() + resident_mib * 15 // 16
    back = fleet.owner(_DESKTOP, "present")
    while _available_mib() < wanted:
        if time.monotonic() > back + 20:
            raise CannotMeasure(f"memory of a machine: not back 20 s after the owner's return ({_available_mib()} MiB)")
        time.sleep(0.001)
    return time.monotonic() - back


def _resident_mib(qemu: psutil.Process) -> int:
    return int(qemu.memory_info().rss) // MIB


def _available_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise CannotMeasure("memory: /proc/meminfo has no MemAvailable")
