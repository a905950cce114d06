"""The processes of a Linux desktop, from /proc: which are the grid's own, which programs run, what they have used.

Rules:
- The list is taken often and must cost little: only processes that are new since the last look are asked whose they
  are.
- A process that we take for somebody else's wrongly (a number used anew, an account changed) makes the desktop count
  as more used, never as less.
- A process may turn into another program: its name is asked again at the next look, and every 30 s of all.
"""

import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

_ALL_NAMES_SECONDS = 30.0


class ProcessTime(msgspec.Struct, frozen=True):
    """Processor time of one process, in clock ticks. started: ticks since the computer's start."""

    started: int
    ticks: int


class Processes:
    """All processes.

    Args:
        proc: /proc. uid: the grid's account; None: it has none of its own (root).
    """

    def __init__(self, proc: Path, uid: int | None) -> None:
        self._proc, self._uid = os.fspath(proc), uid
        self._all: frozenset[int] = frozenset()
        self._ours: set[int] = set()
        self._names: dict[int, frozenset[str]] = {}
        self._settled: frozenset[int] = frozenset()
        self._names_at = 0.0

    def relist(self) -> None:
        """Find out which processes there are."""
        now = frozenset(int(name) for name in os.listdir(self._proc) if name.isdecimal())  # noqa: PTH208
        self._ours &= now
        if self._uid is not None:
            for pid in now - self._all:
                with suppress(OSError):
                    if os.stat(f"{self._proc}/{pid}").st_uid == self._uid:  # noqa: PTH116
                        self._ours.add(pid)
        self._all = now

    @property
    def ours(self) -> frozenset[int]:
        """The grid's own, as last listed."""
        return frozenset(self._ours)

    @property
    def hidden(self) -> bool:
        """Whether others' processes can't be seen here (/proc mounted with hidepid)."""
        return bool(self._all) and 1 not in self._all

    def used(self, pids: Iterable[int]) -> dict[int, ProcessTime]:
        """What these have used so far; those that have ended are left out."""
        found = {}
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):
                found[pid] = parse_stat(_read(f"{self._proc}/{pid}/stat"))
        return found

    def running(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Which of these programs run, but for the grid's own, in any case; nothing is read when none is wanted."""
        if not wanted:
            self._names, self._settled = {}, frozenset()
            return ()
        now = time.monotonic()
        if now - self._names_at >= _ALL_NAMES_SECONDS:
            self._names, self._settled, self._names_at = {}, frozenset(), now
        others = self._all - self._ours
        for pid in self._names.keys() - others:
            del self._names[pid]
        fresh = others - self._settled
        self._settled = frozenset(self._names) & others  # seen twice now
        for pid in fresh:
            self._names[pid] = self._name(pid)
        there = frozenset().union(*self._names.values())
        return tuple(name for name in wanted if name.casefold() in there)

    def _name(self, pid: int) -> frozenset[str]:
        """What a process is called: by the kernel (15 letters), and by the program that it was started as."""
        names = set()
        with suppress(OSError):
            names.add(_read(f"{self._proc}/{pid}/comm").rstrip("\n"))
        with suppress(OSError):
            program = _read(f"{self._proc}/{pid}/cmdline").split("\0", 1)[0].rpartition("/")[2]
            names |= {program, program.rpartition("\\")[2]}  # wine says it as Windows does
        return frozenset(name.casefold() for name in names)


def parse_stat(text: str) -> ProcessTime:
    """Return what /proc/PID/stat says (proc_pid_stat(5)): utime, stime and starttime."""
    fields = text.rpartition(") ")[2].split()
    return ProcessTime(int(fields[19]), int(fields[11]) + int(fields[12]))


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096).decode(errors="replace")
    finally:
        os.close(descriptor)
