"""What to ask for in one request, and how fast. Pure, but for the clock of `ByteRate`.

Rules:
- A request costs a round trip: blobs that lie close to each other are asked for together; small gaps are asked for
  too, and what lies in them is kept when it belongs to the image.
- A request's length is bounded, so that something more urgent need not wait for long.
"""

import threading
import time
from collections.abc import Iterable, Iterator

from deskgrid.images.format.packs import PackIndex
from deskgrid.model.values.bucket import TokenBucket

GAP_BYTES = 32 << 10
MOST_BYTES, LONG_BYTES = 1 << 20, 8 << 20
"""Of one request: for what is waited for, and for what is fetched ahead of need on a connection of its own."""


def ranges(index: PackIndex, wanted: Iterable[int], gap: int = GAP_BYTES, most: int = MOST_BYTES) -> Iterator[range]:
    """Return runs of blobs, each to be asked for at once, that cover the wanted ones.

    Args:
        wanted: numbers of blobs, in any order. gap: so many bytes between two may be asked for in vain.
        most: so many bytes a request may have (a single blob may be longer).
    """
    run: range | None = None
    for blob in sorted(set(wanted)):
        start, end = index.span(blob)
        if run is not None:
            begin, last = index.offsets[run.start], index.offsets[run.stop]
            if start - last <= gap and end - begin <= most:
                run = range(run.start, blob + 1)
                continue
            yield run
        run = range(blob, blob + 1)
    if run is not None:
        yield run


class ByteRate:
    """A rate in bytes per second, for all who share it; a quarter of that may come at once. 0: as fast as it goes."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        self._mutex = threading.Lock()
        self._bucket = _bucket(bytes_per_second)

    def set(self, bytes_per_second: int) -> None:
        """Change it, also for who is waiting for the next bytes."""
        with self._mutex:
            self._bucket = _bucket(bytes_per_second)

    def take(self, count: int, stop: threading.Event) -> None:
        """Account for bytes that came, and wait as long as that takes; not when stopped."""
        with self._mutex:
            wait = self._bucket.spend(count, time.monotonic()) if self._bucket is not None else 0.0
        if wait > 0:
            stop.wait(wait)


def _bucket(bytes_per_second: int) -> TokenBucket | None:
    if not bytes_per_second:
        return None
    return TokenBucket(bytes_per_second, bytes_per_second / 4, time.monotonic())
