"""How fast the process that serves an image is read, by its own processor time."""

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from bench.machine import pin
from deskgrid.images.fetch.source import Origin
from deskgrid.images.serve.launch import Server
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore, StoreLimits
from tests.images.chunks.nbd_client import Client

KEY = bytes(range(32))
UNCACHED = StoreLimits(1 << 40, 0)
CACHED = StoreLimits(1 << 40, 0, 1 << 40)
"""With all packs in the page cache, which is the owner's: what the process itself costs."""

Ranges = Sequence[tuple[int, int]]
Say = Callable[[str], None]


def speeds(
    disk: Path, work: Path, manifest: bytes, limits: StoreLimits, say: Say
) -> tuple[list[float], list[float], float]:
    """MB per second of processor time in order and anywhere, and resident MB."""
    core = min(os.sched_getaffinity(0))
    store = ChunkStore(work / "store", limits)
    origin = Origin(f"file://{work / 'www'}")
    with store.admit(manifest) as image:
        server = Server(ServeOrder(str(store.folder), limits, image.digest, (origin,), Prefetch.ALL), KEY, say)
        try:
            while not server.status().prefetched:
                time.sleep(0.2)
            pin(server.process.pid, core)
            client = Client(server.socket)
            parts = written(disk)
            in_order = [(at, min(1 << 20, end - at)) for start, end in parts for at in range(start, end, 1 << 20)]
            rng = random.Random(1)
            chosen = rng.choices(parts, [end - start for start, end in parts], k=20000)
            places = [(rng.randrange(start, end) // 4096 * 4096, 4096) for start, end in chosen]
            ordered = [_speed(client, server.process.pid, in_order[:512]) for _ in range(3)]
            _speed(client, server.process.pid, places)
            anywhere = [_speed(client, server.process.pid, places) for _ in range(3)]
            return ordered, anywhere, psutil.Process(server.process.pid).memory_info().rss / 1e6
        finally:
            server.close()
            store.close()


def _speed(client: Client, pid: int, places: Ranges) -> float:
    """Read with sixteen requests under way. Returns: MB per second of the server's processor time."""
    process = psutil.Process(pid)

    def spent() -> float:
        times = process.cpu_times()
        return times.user + times.system

    before, asked = spent(), 0
    for number, (_, length) in enumerate(places):
        if asked < len(places) and asked - number < 8:
            more = list(places[asked : number + 16])
            client.ask(more)
            asked += len(more)
        client.take(length)
    return sum(length for _, length in places) / 1e6 / (spent() - before)


def written(disk: Path) -> list[tuple[int, int]]:
    """The parts of a sparse file that were written: from, and to."""
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
