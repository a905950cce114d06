"""What a guest waits for is fetched on demand; what it will read soon is prefetched, and unpacked before it asks.

Rules:
- On demand: requests that wait are served all at once; what follows in the pack is taken along, since who reads here
  mostly reads on. Demand and prefetch have connections of their own, so that demand waits for nobody; but what the
  prefetch brings in a moment is not asked for once more.
- The prefetch brings the boot order first, then, when asked to, the rest. It pauses and goes on by command.
- While sources are away both try again, for ever: the guest waits, and gets no error.
- Read-ahead: what a boot reads is unpacked before the guest asks. It follows the boot order, a bounded number of
  pieces before what the guest has read; what is not in the store yet it waits for a little, then leaves it to whoever
  needs it.
- It never makes the memory for plain pieces larger, and notes no reads: those are the guest's.
- It sleeps until the guest has read on; it ends with the boot order.
"""

import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.fetch import Fetcher, NoSource, Stopped
from deskgrid.images.format.ranges import LONG_BYTES
from deskgrid.images.serve.reader import Blocks, Missing, Part, Pieces
from deskgrid.images.store.store import ChunkStore, Report, StoreFull

_ALONG_BYTES = 128 << 10
_PAUSE_SECONDS = 0.5
_SOON_SECONDS = 0.005


class Prefetch(StrEnum):
    """What is prefetched."""

    NOT = "not"
    BOOT = "boot"
    ALL = "all"


class WaitingRead(msgspec.Struct, frozen=True, eq=False):
    """A read that can't be answered yet. answer: called once with the parts, or None when it never can."""

    blocks: Blocks
    offset: int
    length: int
    answer: Callable[[list[Part] | None], None]


class PieceFetch:
    """See the module."""

    def __init__(
        self, store: ChunkStore, pieces: Pieces, fetchers: tuple[Fetcher, Fetcher], what: Prefetch, report: Report
    ) -> None:
        """Begin. fetchers: for what is demanded, and for the prefetch; what: to prefetch."""
        self._store, self._pieces, self._report = store, pieces, report
        self._demand, self._prefetch = fetchers
        self._new = threading.Condition()
        self._queue: list[WaitingRead] = []
        self._ending = threading.Event()
        self._between = what is not Prefetch.NOT
        """Whether the prefetch is about to ask for something."""

        self._go = threading.Event()
        self._go.set()
        self._waited_seconds = 0.0
        self._waiting_since: float | None = None
        self.away = ""
        """Why the guest waits now; "" when it does not wait for a source."""
        self.prefetched = False
        self._threads = [
            threading.Thread(target=self._serve_demand, name="demand", daemon=True),
            threading.Thread(target=self._run_prefetch, args=(what,), name="prefetch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, waiting: WaitingRead) -> None:
        """Answer a read as soon as its bytes can be had."""
        with self._new:
            self._queue.append(waiting)
            self._new.notify()

    def pause(self, paused: bool) -> None:
        """Stop at once or resume the prefetch; what is being read is fetched all the same."""
        if paused:
            self._go.clear()
        self._prefetch.pause(paused)
        if not paused:
            self._go.set()

    def close(self) -> None:
        """End both at once."""
        self._ending.set()
        self._go.set()
        for fetcher in (self._demand, self._prefetch):
            fetcher.stop()
        with self._new:
            self._new.notify()
        for thread in self._threads:
            thread.join(5)

    @property
    def fetched_bytes(self) -> int:
        """What came from sources."""
        return self._demand.fetched_bytes + self._prefetch.fetched_bytes

    @property
    def waited_seconds(self) -> float:
        """Prefetch long somebody has waited in all, the present wait included."""
        since = self._waiting_since
        return self._waited_seconds + (time.monotonic() - since if since is not None else 0.0)

    @property
    def requests(self) -> int:
        """Prefetch often a source was asked."""
        return self._demand.requests + self._prefetch.requests

    def _serve_demand(self) -> None:
        while not self._ending.is_set():
            with self._new:
                while not self._queue and not self._ending.is_set():
                    self._new.wait()
                batch, self._queue = self._queue, []
            self._waiting_since = began = time.monotonic()
            while batch and not self._ending.is_set():
                batch = [waiting for waiting in batch if not self._answered(waiting)]
                if batch:
                    self._bring(batch)
            self._waiting_since = None
            self._waited_seconds += time.monotonic() - began

    def _answered(self, waiting: WaitingRead) -> bool:
        try:
            parts = waiting.blocks.read(waiting.offset, waiting.length)
        except ImageError as error:
            self._report(str(error))
            waiting.answer(None)
            return True
        if parts is None:
            return False
        waiting.answer(parts)
        return True

    def _bring(self, batch: Sequence[WaitingRead]) -> None:
        wanted: dict[int, set[int]] = {}
        for waiting in batch:
            for pack, blob in waiting.blocks.missing(waiting.offset, waiting.length):
                wanted.setdefault(pack, set()).add(blob)
        try:
            for pack, blobs in wanted.items():
                lacking = self._pieces.lacking(pack, blobs)
                if lacking and (self._between or self._prefetch.soon(pack, lacking)):
                    self._ending.wait(_SOON_SECONDS)
                elif lacking:
                    self._demand.bring(pack, self._along(pack, lacking), self._pieces.keep)
            self.away = ""
        except NoSource as error:
            if not self.away:
                self._report(f"the guest waits: {error}")
            self.away = str(error)
            self._ending.wait(max(_PAUSE_SECONDS, error.again_at - time.monotonic()))
        except Stopped:
            pass
        except ImageError as error:  # not the source's fault: say so, and try again: a guest gets no errors
            self._report(str(error))
            self._ending.wait(_PAUSE_SECONDS)

    def _along(self, pack: int, lacking: set[int]) -> set[int]:
        """What is lacking, and what follows it and is lacking too, up to some length."""
        index = self._demand.index(pack)
        last = max(lacking)
        until = index.offsets[last + 1] + _ALONG_BYTES
        following = {blob for blob in self._demand.needed(pack) if last < blob and index.offsets[blob + 1] <= until}
        return lacking | self._pieces.lacking(pack, following)

    def _run_prefetch(self, what: Prefetch) -> None:
        if what is Prefetch.NOT:
            return
        try:
            for boot_only in (True, False) if what is Prefetch.ALL else (True,):
                for pack, blobs in self._prefetch.batches(boot_only):
                    if not self._brought(pack, blobs):
                        return
            self.prefetched = True
        finally:
            self._between = False

    def _brought(self, pack: int, blobs: set[int]) -> bool:
        """Bring one batch, however long it takes; False when there is no sense in going on."""
        while not self._ending.is_set():
            if not self._go.is_set():
                self._between = False
                self._go.wait()
            try:
                lacking = self._pieces.lacking(pack, blobs)
                self._between = False
                self._prefetch.bring(pack, lacking, most=LONG_BYTES)
                self._between = True
                return True
            except NoSource as error:
                self._ending.wait(max(_PAUSE_SECONDS, error.again_at - time.monotonic()))
            except (Stopped, StoreFull) as error:
                if isinstance(error, StoreFull):
                    self._report(f"{error}; nothing more is prefetched")
                return False
        return False


__all__ = ["Missing", "PieceFetch", "Prefetch", "WaitingRead"]

AHEAD_PIECES = 1024
"""At most 16 MiB, mostly 11: less than the plain pieces that are kept."""

_STEP_SECONDS, _STEPS = 0.05, 200


class ReadAhead:
    """See the module."""

    def __init__(self, pieces: Pieces, order: Sequence[int]) -> None:
        """Begin. order: numbers of the disk's pieces, as a boot reads them."""
        self._pieces, self._order = pieces, order
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go, name="read-ahead", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something of the boot order is still to come."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End at once."""
        self._ending.set()
        self._pieces.moved.set()
        self._thread.join(5)

    def _go(self) -> None:
        waited = 0
        for at, number in enumerate(self._order):
            while at > self._pieces.disk_reads + AHEAD_PIECES and not self._ending.is_set():
                self._pieces.moved.wait()
                self._pieces.moved.clear()
            while not self._ending.is_set() and not self._opened(number) and waited < _STEPS:
                waited += 1
                self._ending.wait(_STEP_SECONDS)
            if self._ending.is_set():
                return

    def _opened(self, number: int) -> bool:
        try:
            with self._pieces.mutex:
                return self._pieces.ready(number)
        except ImageError:
            return True  # who reads it reports it
