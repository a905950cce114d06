"""`kill -9` of an agent, and the page cache that a VM's disk takes.

Rules:
- No VM is left when neither QEMU nor its keeper is a process any more, by their pidfds.
- What a VM's disk keeps in the page cache is counted page by page (mincore) over the packs of its image and its
  overlay, while the guest reads and writes; `note` has also what the whole computer's Cached did.
"""

import ctypes
import mmap
import os
import signal
import time
from pathlib import Path

import psutil

from bench.figure import Figure, Load, measured
from bench.fleet import Fleet, await_ends, many
from bench.ground import Ground
from bench.guest import DISK_MIB, OBEDIENT, Kind, writing
from bench.machine import CannotMeasure

NAMES = ("agent_killed_to_no_vm_s", "vm_page_cache_grown_mb")
_SECONDS = 120.0


def run(ground: Ground, load: Load, kills: int = 5, disk_mib: int = DISK_MIB) -> list[Figure]:
    """Measure. Raises: CannotMeasure."""
    writer = writing(disk_mib)
    fleet = Fleet(ground, OBEDIENT, writer)
    killed = _kills(fleet, kills)
    grown, note = _cache(fleet, writer)
    return [
        measured(NAMES[0], killed, note="from SIGKILL of the agent until neither QEMU nor keeper is left", load=load),
        measured(NAMES[1], [grown], note=note, load=load),
    ]


def _kills(fleet: Fleet, count: int) -> list[float]:
    fleet.want(OBEDIENT)
    numbers = iter(range(count))

    def once() -> float:
        desktop = f"desk-killed-{next(numbers)}"
        agent = fleet.start_desktop(desktop, 60)
        fleet.owner(desktop, "away")
        qemu = fleet.busy_machine(desktop)
        keeper = qemu.parent()
        if keeper is None:
            raise CannotMeasure(f"machine on {desktop}: its QEMU has no parent")
        fleet.ground.cast.processes.pop(desktop)
        return await_ends([qemu.pid, keeper.pid], lambda: _kill(agent), "a machine of a killed agent")

    return many(fleet.ground, "kill -9", count, _SECONDS, once)


def _kill(agent: int) -> float:
    at = time.monotonic()
    os.kill(agent, signal.SIGKILL)
    return at


def _cache(fleet: Fleet, writer: Kind) -> tuple[float, str]:
    """A guest reads and writes its whole disk. Returns: MB of page cache more than before, and a note."""
    desktop, ground = "desk-writes", fleet.ground
    fleet.want(writer)
    fleet.start_desktop(desktop, 60, disk_mib=2 * writer.disk_mib)
    fleet.owner(desktop, "away")
    _, qemu = fleet.machine(desktop, "alive")
    packs, overlay = ground.cast.folder / desktop / "images" / "packs", _overlay(qemu)
    cached = _cached_bytes()
    ground.say(f"a guest reads and writes {writer.disk_mib} MiB of its disk")
    used: list[int] = []
    most = {"packs of the image": 0, "overlay": 0}

    def over() -> bool:
        used.append(_cached_bytes() - cached)
        try:
            of_packs = sum(resident_bytes(path) for path in packs.glob("*/*"))
            most["packs of the image"] = max(most["packs of the image"], of_packs)
            most["overlay"] = max(most["overlay"], resident_bytes(overlay))
        except OSError:
            return True
        return not qemu.is_running()

    ground.until("the guest to be done", 300, over, 1.0)
    told = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in most.items())
    note = (
        f"{writer.disk_mib} MiB read and as many written, most at any second, MB: {told}; Cached of the whole computer "
        f"changed by up to {max(used) / 1e6:.0f} MB"
    )
    return sum(most.values()) / 1e6, note


def _overlay(qemu: psutil.Process) -> Path:
    """The overlay, which has no name any more but for the open file of its QEMU."""
    for handle in Path(f"/proc/{qemu.pid}/fd").iterdir():
        if str(handle.readlink()).endswith("/overlay (deleted)"):
            return handle
    raise CannotMeasure("overlay of a machine: QEMU has no such file open")


def resident_bytes(path: Path) -> int:
    """How much of a file is in the page cache. Source: mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    handle = os.open(path, os.O_RDONLY)
    try:
        length = os.fstat(handle).st_size
        place = libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
        if place in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), f"mmap {path}")
    finally:
        os.close(handle)
    try:
        pages = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        if libc.mincore(place, length, pages):
            raise OSError(ctypes.get_errno(), f"mincore {path}")
        return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE
    finally:
        libc.munmap(place, length)


def _cached_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["Cached"].split()[0]) * 1024
