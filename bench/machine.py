"""The machine: how busy others keep it, which cores there are, what processes use."""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from bench.figure import Load
from bench.stillness import Sample

QUIET_PERCENT = 10.0
_CLOCK_OF_SCHEDULER = 2


def inside(namespace: str) -> list[str]:
    """What goes before an argv to run it in a network namespace; unlike `ip netns exec`, in a chroot too."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


class CannotMeasure(Exception):
    """Something can't be measured on this machine. The message is the figure's reason."""


def load() -> Load:
    """How busy it is now; takes two seconds, in which nothing of ours may run."""
    busy = psutil.cpu_percent(interval=2.0)
    return Load(round(os.getloadavg()[0], 2), busy, len(os.sched_getaffinity(0)))


def await_quiet(seconds: float, say: Callable[[str], None]) -> Load:
    """Wait until others use less than a tenth of the machine, at most so long. Returns: how it is."""
    end = time.monotonic() + seconds
    now = load()
    while now.busy_percent > QUIET_PERCENT and time.monotonic() < end:
        say(f"others use {now.busy_percent:.0f} % of the machine; waiting for quiet")
        time.sleep(3)
        now = load()
    return now


def two_cores() -> tuple[int, int]:
    """One core for what is measured, one for what drives it. Raises: CannotMeasure."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotMeasure(f"cores: got {len(cores)}, expected two: one for the service and one for the load")
    return cores[0], cores[1]


def pin(pid: int, core: int) -> None:
    """Keep all threads of a process on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes together, ended threads included, as the scheduler counts it (not in clock ticks).

    Source: clock_getcpuclockid(3), and the kernel's posix-timers.h for the clock's number.
    """
    return sum(time.clock_gettime((~pid << 3) | _CLOCK_OF_SCHEDULER) for pid in pids)


def switches(pids: Iterable[int]) -> int:
    """How often the threads of processes have gone to sleep of their own accord, so been woken. Source: proc(5)."""
    count = 0
    for pid in pids:
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            with suppress(OSError):
                lines = status.read_text().splitlines()
                count += sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))
    return count


def threads_named(pid: int, start: str) -> list[Path]:
    """The folders of a process's threads whose names start so ("CPU " for a QEMU's virtual CPUs)."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            if (thread / "comm").read_text().startswith(start):
                found.append(thread)
    return found


def sample(threads: Iterable[Path]) -> Sample:
    """The CPU time of threads, as the scheduler counts it (nanoseconds, not clock ticks)."""
    ran = 0
    for thread in threads:
        with suppress(OSError):
            ran += int((thread / "schedstat").read_text().split()[0])
    return Sample(time.monotonic(), ran)


def qemu_of(vm_id: str) -> psutil.Process | None:
    """The QEMU process of a VM, if it runs."""
    for process in psutil.process_iter(["name", "cmdline"]):
        argv = process.info["cmdline"] or []
        if (process.info["name"] or "").startswith("qemu-system") and any(
            word.removeprefix("guest=").split(",")[0] == vm_id for word in argv
        ):
            return process
    return None
