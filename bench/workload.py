"""What an owner does with a computer, in seconds of work: compile, compress, read a disk. On all processors.

Rules:
- The same work each time: the sources and the data are made once, from a fixed seed.
- Each run is a session of its own, as a terminal window is: the kernel's autogroups tell sessions apart.
- Disk reads go around the page cache (O_DIRECT), so that the disk is read each time.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.machine import CannotMeasure

PARTS = ("compile", "compress", "read")
_FUNCTIONS, _DATA_MIB, _DISK_MIB = 100, 48, 256
_READER = """
import mmap, os, sys
handle = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
while os.readv(handle, [buffer]):
    pass
"""


class Workload:
    """The owner's files, in a folder. account: what goes before an argv, so that it runs as the owner's account."""

    def __init__(self, folder: Path, account: list[str], workers: int) -> None:
        self.folder, self._account, self._workers = folder, account, workers
        seed = random.Random(7)
        for number in range(workers):
            (folder / f"work{number}.c").write_text(_source(seed))
        words = [seed.randbytes(seed.randrange(3, 12)) for _ in range(4000)]
        data = b" ".join(seed.choice(words) for _ in range(_DATA_MIB << 17))
        (folder / "data").write_bytes(data[: _DATA_MIB << 20])
        with (folder / "disk").open("wb") as disk:
            for _ in range(_DISK_MIB):
                disk.write(os.urandom(1 << 20))
            os.fsync(disk.fileno())
        for path in folder.iterdir():
            path.chmod(0o644)

    def run(self) -> "Spent":
        """Do it all once."""
        compile_ = [
            ["gcc", "-O2", "-c", str(self.folder / f"work{each}.c"), "-o", "/dev/null"] for each in self._each()
        ]
        compress = [["zstd", "-q", "-9", f"-T{self._workers}", "-c", str(self.folder / "data")]]
        read = [[sys.executable, "-c", _READER, str(self.folder / "disk")]]
        return Spent(*(self._timed(argvs) for argvs in (compile_, compress, read)))

    def _each(self) -> range:
        return range(self._workers)

    def _timed(self, argvs: list[list[str]]) -> float:
        began = time.monotonic()
        running = [
            subprocess.Popen(
                [*self._account, *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            for argv in argvs
        ]
        for process, argv in zip(running, argvs, strict=True):
            _, said = process.communicate()
            if process.returncode:
                raise CannotMeasure(f"{argv[0]}: it ended with code {process.returncode}: {said.decode()[-200:]}")
        return time.monotonic() - began


class Spent(msgspec.Struct, frozen=True):
    """Seconds for each part."""

    compile: float
    compress: float
    read: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.compile + self.compress + self.read


def typical(runs: Sequence[Spent]) -> Spent:
    """The median of each part."""
    return Spent(*(statistics.median(getattr(run, part) for run in runs) for part in PARTS))


def best(runs: Sequence[Spent]) -> Spent:
    """The quickest of each part: what others on the machine have disturbed least."""
    return Spent(*(min(getattr(run, part) for run in runs) for part in PARTS))


def slower_percent(alone: Spent, beside: Spent) -> float:
    """How much slower it was."""
    return 100 * (beside.seconds / alone.seconds - 1)


def _source(seed: random.Random) -> str:
    """A C file that an optimising compiler needs a second or two for."""
    functions = []
    for number in range(_FUNCTIONS):
        terms = "\n".join(
            f"        x = (x {seed.choice('+-^')} {seed.randrange(1 << 20)}u) * {seed.randrange(3, 999, 2)}u; "
            f"if (x & {1 << seed.randrange(16)}u) x ^= t[x % 64] + i;"
            for _ in range(12)
        )
        functions.append(
            f"unsigned f{number}(unsigned x, const unsigned *t) {{\n"
            f"    for (unsigned i = 0; i < x % 97; i++) {{\n{terms}\n    }}\n    return x;\n}}"
        )
    return "\n".join(functions) + "\n"
