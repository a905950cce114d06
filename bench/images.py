"""Images in chunks: what moves, how fast it is read, what it takes. Peers from Debian where they are installed.

    python -m bench.images        short; figures to build/bench-images.json and as a table
    python -m bench.images --first A --second B    two disks (default: the two newest builds of the demo's image)

Rules, told first
- Speeds are bytes per second of the process's own processor time on one core: what others do on the machine counts
  little.
- What could not be measured is there without a value and with the reason.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bench.figure import Figure, Row, encode, rounded, text
from bench.machine import CannotMeasure, pin
from deskgrid.host.files import write_atomic
from deskgrid.images.build import images_folder
from deskgrid.images.chunks.ahead import How
from deskgrid.images.chunks.client import Client
from deskgrid.images.chunks.keys import ProjectKey
from deskgrid.images.chunks.launch import Server
from deskgrid.images.chunks.publish import Source, publish
from deskgrid.images.chunks.serve import Order
from deskgrid.images.chunks.source import Origin
from deskgrid.images.chunks.store import ChunkStore, Limits

CATALOGUE = (
    Row("image_delta_mb", "MB", "", "the least of zchunk and casync"),
    Row("image_full_mb", "MB", "", "zstd -3 of the whole disk"),
    Row("image_publish_mb_per_s", "MB/CPU s", "> 80"),
    Row("image_read_in_order_mb_per_s", "MB/CPU s", "> 400"),
    Row("image_read_random_mb_per_s", "MB/CPU s", "> 100"),
    Row("image_store_process_mb", "MB", "< 96"),
    Row("image_boot_ratio", "", "< 1.05", "the same boot from a plain qcow2"),
    Row("image_first_job_read_percent", "% of the full image", "< 15"),
    Row("image_cold_start_ratio", "", "< 0.4", "download, then boot"),
)
NAMES = tuple(row.name for row in CATALOGUE)
_ROWS = {row.name: row for row in CATALOGUE}
_KEY = bytes(range(32))
_LATER = "it needs the hypervisor to open the store's disk, which is not wired yet"
Say = Callable[[str], None]
Ranges = Sequence[tuple[int, int]]


def run(first: Path, second: Path, work: Path, say: Say) -> list[Figure]:
    """Measure with two disks, in an empty folder. Raises: CannotMeasure, ImageError."""
    figures = []
    key, spent = ProjectKey(_KEY), []
    made = []
    for version, disk in (("1", first), ("2", second)):
        kernel, initrd = (
            disk.parent / name if (disk.parent / name).exists() else None for name in ("kernel", "initrd")
        )
        source = Source(disk, kernel, initrd, "", 1 << 29, (), "0" * 64, range(1 << 20, 64 << 20, 65536))
        began = time.process_time()
        made.append(publish(source, work / "server", ("bench", "image", version), key))
        spent.append(time.process_time() - began)
        say(f"published {disk.parent.name[:12]}: {made[-1].raw_bytes >> 20} MiB, {made[-1].new_bytes >> 10} KiB new")
    figures.append(_value("image_publish_mb_per_s", made[0].raw_bytes / 1e6 / spent[0]))
    ours = (made[1].new_bytes + made[1].path.stat().st_size) / 1e6
    peers = {name: value for name, value in (("zchunk", _zchunk), ("casync", _casync)) if shutil.which(_TOOLS[name])}
    deltas = {name: measure(first, second, work, say) for name, measure in peers.items()}
    told = "; ".join(f"{name} {value:.3g} MB" for name, value in deltas.items()) or "no peer is installed"
    figures.append(_value("image_delta_mb", ours, min(deltas.values(), default=None), told))
    full = (made[0].new_bytes + made[0].path.stat().st_size) / 1e6
    figures.append(_value("image_full_mb", full, _zstd(first), "kernel and initrd included"))
    figures += _reads(first, work, made[0].path.read_bytes(), say)
    return figures


def _reads(disk: Path, work: Path, manifest: bytes, say: Say) -> list[Figure]:
    """Speed and memory of the process that serves."""
    cores = sorted(os.sched_getaffinity(0))
    limits = Limits(1 << 40, 0)
    store = ChunkStore(work / "store", limits)
    with store.admit(manifest) as image:
        origin = Origin(f"file://{work / 'server'}")
        server = Server(Order(str(store.folder), limits, image.digest, (origin,), How.ALL), _KEY, say, work / "nbd")
        try:
            while not server.status().ahead_done:
                time.sleep(0.2)
            pin(server.process.pid, cores[0])
            client = Client(work / "nbd")
            written = _written(disk)
            in_order = [(at, min(1 << 20, end - at)) for start, end in written for at in range(start, end, 1 << 20)]
            rng = random.Random(1)
            weights = [end - start for start, end in written]
            places = [
                (rng.randrange(start, end) // 4096 * 4096, 4096)
                for start, end in rng.choices(written, weights, k=20000)
            ]
            ordered = [_speed(client, server.process.pid, in_order) for _ in range(2)]
            anywhere = [_speed(client, server.process.pid, places) for _ in range(2)]
            used = psutil.Process(server.process.pid).memory_info().rss / 1e6
        finally:
            server.close()
    store.close()
    wall = f"{ordered[-1][1]:.0f} MB/s by the clock, others' load included"
    return [
        _value("image_read_in_order_mb_per_s", [one[0] for one in ordered], note=wall),
        _value(
            "image_read_random_mb_per_s",
            [one[0] for one in anywhere],
            note=f"over all of the disk's content; {anywhere[-1][1]:.0f} MB/s by the clock",
        ),
        _value("image_store_process_mb", used, note="resident, after all of the reads"),
    ]


def _speed(client: Client, pid: int, places: Ranges) -> tuple[float, float]:
    """Read with sixteen requests under way. Returns: MB per second of the server's processor time, and of the clock."""
    process = psutil.Process(pid)

    def spent() -> float:
        times = process.cpu_times()
        return times.user + times.system

    began, before = time.monotonic(), spent()
    asked = 0
    for number, (_, length) in enumerate(places):
        if asked < len(places) and asked - number < 8:
            more = list(places[asked : number + 16])
            client.ask(more)
            asked += len(more)
        client.take(length)
    count = sum(length for _, length in places) / 1e6
    return count / (spent() - before), count / (time.monotonic() - began)


def _written(disk: Path) -> list[tuple[int, int]]:
    """The parts of a sparse file that were written."""
    found: list[tuple[int, int]] = []
    at = 0
    with disk.open("rb") as file:
        while True:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return found
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))


_TOOLS = {"zchunk": "zck", "casync": "casync"}


def _zchunk(first: Path, second: Path, work: Path, say: Say) -> float:
    """What zckdl would fetch: chunks that the first file lacks, and the header."""
    for number, disk in enumerate((first, second)):
        say(f"zchunk: disk {number + 1}")
        subprocess.run(["zck", "-o", str(work / f"{number}.zck"), str(disk)], check=True, capture_output=True)
    said = subprocess.run(
        ["zck_delta_size", str(work / "0.zck"), str(work / "1.zck")], check=True, capture_output=True, text=True
    ).stdout
    for line in said.splitlines():
        if line.startswith("Would download"):
            return int(line.split()[2]) / 1e6
    raise CannotMeasure(f"zck_delta_size said {said!r}")


def _casync(first: Path, second: Path, work: Path, say: Say) -> float:
    """What the second disk adds to a store of chunks, and its index."""
    store, sizes = work / "castr", []
    for number, disk in enumerate((first, second)):
        say(f"casync: disk {number + 1}")
        index = work / f"{number}.caibx"
        argv = ["casync", "make", f"--store={store}", str(index), str(disk)]
        subprocess.run(argv, check=True, capture_output=True)
        sizes.append(sum(path.stat().st_size for path in store.rglob("*") if path.is_file()))
    return (sizes[1] - sizes[0] + index.stat().st_size) / 1e6


def _zstd(disk: Path) -> float:
    import zstandard

    packer, count = zstandard.ZstdCompressor(level=3).compressobj(), 0
    with disk.open("rb") as file:
        for start, end in _written(disk):
            file.seek(start)
            for at in range(start, end, 1 << 20):
                count += len(packer.compress(file.read(min(1 << 20, end - at))))
    return (count + len(packer.flush())) / 1e6


def _value(name: str, value: float | Sequence[float], peer: float | None = None, note: str = "") -> Figure:
    row, runs = _ROWS[name], [value] if isinstance(value, float) else list(value)
    middle = sorted(runs)[len(runs) // 2]
    kept = tuple(rounded(one) for one in runs)
    return Figure(
        name, rounded(middle), row.unit, row.goal, row.peer, None if peer is None else rounded(peer), kept, note=note
    )


def _missing(name: str, reason: str) -> Figure:
    row = _ROWS[name]
    return Figure(name, None, row.unit, row.goal, row.peer, reason=reason)


def main() -> int:
    """Measure, write, print. Returns: the exit code."""
    parser = argparse.ArgumentParser("python -m bench.images", description="Measure images in chunks.")
    parser.add_argument("--first", type=Path, help="a disk")
    parser.add_argument("--second", type=Path, help="its next version")
    parser.add_argument("--output", type=Path, default=Path("build/bench-images.json"), help="where the figures go")
    asked = parser.parse_args()
    built = sorted(images_folder().glob("demo/*/disk.raw"), key=lambda path: path.stat().st_mtime)[-2:]
    pair = (asked.first, asked.second) if asked.first and asked.second else tuple(built)
    if len(pair) < 2:
        print("two disks are needed: build the demo's image twice, or give --first and --second")
        return 1
    with tempfile.TemporaryDirectory(prefix="deskgrid-bench-") as work:
        figures = run(pair[0], pair[1], Path(work), lambda line: print(line, flush=True))
    found = {figure.name: figure for figure in figures}
    whole = [found.get(name) or _missing(name, _LATER) for name in NAMES]
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(asked.output, encode(whole))
    for each in whole:
        told = "–" if each.value is None else text(each.value)
        peer = "" if each.peer_value is None else f"   {each.peer}: {text(each.peer_value)}"
        print(f"{each.name:32} {told:>8} {each.unit:20} {each.goal:8}{peer}   {each.reason or each.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
