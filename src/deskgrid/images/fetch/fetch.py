"""Bring blobs from sources into the store.

Rules:
- Sources are asked in their order: neighbours, caches, origin. One that is away, or lies, is left alone for a while
  (`patience.py`); one that has not got something is asked for the next thing all the same. All of them away:
  `NoSource`, and the caller may try again.
- Every blob is checked against its pack's index, and the index against the pack's name, before anything is kept. What
  came before a source failed is kept, so nothing is fetched twice.
- `stop` ends it at once, for good, `pause` until told otherwise: the connection is cut. The rate is the callers' common
  `ByteRate`.
- A full store is no reason not to read: the blobs are handed to the caller anyway.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.patience import SourceHealth
from deskgrid.images.fetch.source import Away, Lacks, PackSource
from deskgrid.images.format import published
from deskgrid.images.format.keys import Damaged
from deskgrid.images.format.packs import PackIndex
from deskgrid.images.format.published import HOLE, Pack
from deskgrid.images.format.ranges import LONG_BYTES, MOST_BYTES, ByteRate, ranges
from deskgrid.images.store.store import Admitted, ChunkStore, Report, StoreFull

_NO_SOURCE_SECONDS = 15.0
_BATCH, _LONG_BATCH = 64, 2048
_SOON_BYTES, _STUCK_SECONDS = 2 << 20, 1.0
T = TypeVar("T")
Keep = Callable[[PackIndex, dict[int, bytes]], None]


class NoSource(ImageError):
    """No source gives what is wanted now. again_at: when the first may be asked, by the steady clock."""

    def __init__(self, sentence: str, again_at: float) -> None:
        super().__init__(sentence)
        self.again_at = again_at


class Stopped(ImageError):
    """It was cancelled."""


class FetchPaused(NoSource):
    """It was told to pause."""


class Fetcher:
    """Brings blobs of one image; for one thread, but `stop`, `pause` and `soon` for any."""

    def __init__(
        self,
        store: ChunkStore,
        image: Admitted,
        sources: Sequence[PackSource],
        pace: ByteRate | None = None,
        report: Report = lambda sentence: None,
    ) -> None:
        """Fetch `image` from `sources` in their order. report: told once of each fault that is somebody's."""
        self._store, self._image, self._sources, self._report = store, image, sources, report
        self._pace = pace or ByteRate()
        self._health = [SourceHealth(source.patience) for source in sources]
        self._needed: dict[int, frozenset[int]] = {}
        self._unkept: dict[str, PackIndex] = {}  # for which the store has no room
        self._stop = threading.Event()
        self._paused = False
        self._under_way: tuple[int, PackIndex | None, frozenset[int]] | None = None
        self._reached, self._moved_at = 0, 0.0
        self.full = ""
        self.fetched_bytes = 0
        self.requests = 0

    def stop(self) -> None:
        """End what is running now, and all that is asked later, with Stopped."""
        self._stop.set()
        self._cut()

    def pause(self, paused: bool) -> None:
        """End what is running now, and all that is asked until told otherwise, with FetchPaused."""
        self._paused = paused
        if paused:
            self._cut()

    def _cut(self) -> None:
        for source in self._sources:
            source.cancel()

    def index(self, number: int) -> PackIndex:
        """Return the index of the image's pack of this number, fetched if need be. Raises: NoSource, Stopped."""
        pack = self._image.manifest.packs[number]
        found = self._store.pack_index(pack) or self._unkept.get(pack.name)
        if found is not None:
            return found
        return self._from_sources(pack, lambda source: self._fetch_index(source, pack))

    def bring(self, number: int, blobs: Iterable[int], keep: Keep | None = None, most: int = MOST_BYTES) -> None:
        """Fetch blobs of the image's pack of this number that are not held, with what lies between them.

        Args:
            keep: is given each blob as it comes, checked, whether the store had room or not.
            most: bytes of one request.

        Raises:
            NoSource, Stopped. StoreFull: only when nobody else keeps the blobs.
        """
        pack, missing = self._image.manifest.packs[number], set(blobs)
        if not missing:
            return
        coming = frozenset(missing)
        self._reached, self._moved_at = min(missing), time.monotonic()
        self._under_way = (number, None, coming)
        try:
            index = self.index(number)
            self._under_way = (number, index, coming)
            self._from_sources(pack, lambda source: self._fetch_missing(source, number, index, missing, keep, most))
        finally:
            self._under_way = None

    def soon(self, number: int, blobs: Iterable[int]) -> bool:
        """Whether these blobs come soon, by what is being fetched here now. From any thread."""
        under_way = self._under_way
        if under_way is None or under_way[0] != number or time.monotonic() - self._moved_at > _STUCK_SECONDS:
            return False
        _, index, coming = under_way
        if index is None:
            return coming.issuperset(blobs)
        limit = index.offsets[self._reached] + _SOON_BYTES
        return all(blob in coming and index.offsets[blob] <= limit for blob in blobs)

    def needed(self, number: int) -> frozenset[int]:
        """Which blobs of the image's pack of this number the image needs."""
        found = self._needed.get(number)
        if found is None:
            table = self._image.table
            found = frozenset(blob for pack, blob in zip(table.packs, table.blobs, strict=True) if pack == number)
            self._needed = {number: found}  # only the last: it is asked for one pack after the other
        return found

    def whole(self, progress: Callable[[float], None] = lambda part: None) -> None:
        """Fetch all that the image needs, boot first. Raises: NoSource, Stopped, StoreFull."""
        self._store.require(self._image)
        batches = list(self.batches())
        for done, (number, blobs) in enumerate(batches):
            missing = blobs - self._store.held(self._image.manifest.packs[number].name)
            self.bring(number, missing, most=LONG_BYTES)
            progress((done + 1) / len(batches))

    def batches(self, boot_only: bool = False) -> Iterator[tuple[int, set[int]]]:
        """All that the image needs and lacks now in the order in which to fetch it, as (number of the pack, blobs)."""
        order = published.boot_order(self._image.manifest)
        pieces = order if boot_only else (*order, *range(len(self._image.table.packs)))
        seen = [self._store.held(pack.name) for pack in self._image.manifest.packs]
        last, batch = HOLE, set[int]()
        for piece in pieces:
            pack, blob = self._image.table.packs[piece], self._image.table.blobs[piece]
            if pack == HOLE or blob in seen[pack]:
                continue
            seen[pack].add(blob)
            if batch and (pack != last or len(batch) >= _LONG_BATCH):
                yield last, batch
                batch = set()
            last = pack
            batch.add(blob)
        if batch:
            yield last, batch

    def _from_sources(self, pack: Pack, ask: Callable[[PackSource], T]) -> T:
        """Ask one source after the other until one gave everything."""
        if not self._sources:
            raise NoSource(f"pack {pack.name[:12]}…: no source is set; set one", time.monotonic() + _NO_SOURCE_SECONDS)
        for source, health in zip(self._sources, self._health, strict=True):
            if (began := time.monotonic()) < health.not_before:
                continue
            try:
                given = ask(source)
            except Lacks as error:
                if source is self._sources[-1] or time.monotonic() - began > source.patience.lacks_seconds:
                    health.failed(str(error))
            except Away as error:
                self._may_go_on()  # it may be we who cut it
                health.failed(str(error))
            except Damaged as error:
                self._report(f"{source.name}: it gave wrong bytes: {error}")
                health.failed(str(error), lied=True)
                source.cancel()
            else:
                health.worked()
                return given
        self._may_go_on()
        for health in self._health:
            health.nobody_left()
        told = "; ".join(health.reason for health in self._health if health.reason)
        again = min(health.not_before for health in self._health)
        raise NoSource(f"pack {pack.name[:12]}…: no source gives it now: {told}; it is tried again", again)

    def _fetch_index(self, source: PackSource, pack: Pack) -> PackIndex:
        index = PackIndex(pack.name, b"".join(self._parts(source, pack, 0, pack.index_bytes)))
        try:
            self._store.put_index(index)
        except StoreFull:
            self._unkept[pack.name] = index
        return index

    def _fetch_missing(
        self, source: PackSource, number: int, index: PackIndex, missing: set[int], keep: Keep | None, most: int
    ) -> None:
        """Fetch from one source; what came is no longer missing, also when it fails."""
        lacks: Lacks | None = None
        for run in ranges(index, missing, most=most):
            began = time.monotonic()
            try:
                self._fetch_run(source, number, index, run, missing, keep)
            except Lacks as error:
                lacks = error
                if (
                    not error.some
                    or source is self._sources[-1]
                    or time.monotonic() - began > source.patience.lacks_seconds
                ):
                    break
                lacks = self._fetch_without_gaps(source, number, index, run, missing, keep) or lacks
        if lacks is not None and missing:
            raise lacks

    def _fetch_without_gaps(
        self, source: PackSource, number: int, index: PackIndex, run: range, missing: set[int], keep: Keep | None
    ) -> Lacks | None:
        """Fetch of a run what the source has: it may lack only what lies between. Returns: what it said if it lacks."""
        lacks: Lacks | None = None
        began = time.monotonic()
        for part in ranges(index, missing.intersection(run), gap=0):
            try:
                self._fetch_run(source, number, index, part, missing, keep)
            except Lacks as error:
                lacks = error
                if time.monotonic() - began > source.patience.lacks_seconds:
                    break
        return lacks

    def _fetch_run(
        self, source: PackSource, number: int, index: PackIndex, run: range, missing: set[int], keep: Keep | None
    ) -> None:
        came: dict[int, bytes] = {}
        try:
            for blob, content in self._blobs(source, self._image.manifest.packs[number], index, run):
                self._reached, self._moved_at = blob, time.monotonic()
                if blob in missing or blob in self.needed(number):
                    came[blob] = content
                if len(came) >= _BATCH:
                    self._keep(index, came, missing, keep)
                    came = {}
        finally:
            self._keep(index, came, missing, keep)

    def _blobs(self, source: PackSource, pack: Pack, index: PackIndex, run: range) -> Iterator[tuple[int, bytes]]:
        """Give each blob of a run as soon as it is there and right. Raises: Away, Damaged."""
        pending, at = bytearray(), index.offsets[run.start]
        blob = run.start
        for part in self._parts(source, pack, at, index.offsets[run.stop]):
            pending += part
            begun = 0
            while blob < run.stop and (length := index.offsets[blob + 1] - index.offsets[blob]) <= len(pending) - begun:
                content = bytes(memoryview(pending)[begun : begun + length])
                index.check(blob, content)
                yield blob, content
                begun += length
                blob += 1
            del pending[:begun]

    def _parts(self, source: PackSource, pack: Pack, start: int, end: int) -> Iterator[bytes]:
        self.requests += 1
        parts = source.read(self._image.manifest.project, pack.name, start, end)
        self._may_go_on()  # only now: what stops us later cancels it
        for part in parts:
            self.fetched_bytes += len(part)
            self._pace.take(len(part), self._stop)
            self._may_go_on()
            yield part

    def _may_go_on(self) -> None:
        if self._stop.is_set():
            raise Stopped("fetching was stopped")
        if self._paused:
            raise FetchPaused("fetching is paused", time.monotonic())

    def _keep(self, index: PackIndex, came: dict[int, bytes], missing: set[int], keep: Keep | None) -> None:
        if not came:
            return
        try:
            self._store.put(index, came)
        except StoreFull as error:
            if keep is None:
                raise
            if not self.full:
                self._report(f"{error}; what is read is fetched without being kept")
            self.full = str(error)
        if keep is not None:
            keep(index, came)
        missing.difference_update(came)
