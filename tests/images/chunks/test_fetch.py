"""Fetching: from whom, how, and that bad sources cost nothing but time."""

import queue
import random
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deskgrid.coordinator.authority import prepare
from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.fetch import Fetcher, FetchPaused, NoSource, Stopped
from deskgrid.images.fetch.patience import Patience
from deskgrid.images.fetch.source import Origin, PackServer, open_source
from deskgrid.images.format.packs import PackIndex, assemble
from deskgrid.images.format.ranges import ByteRate, ranges
from deskgrid.images.store.store import Admitted, ChunkStore
from deskgrid.images.store.upkeep import verify
from tests.images.chunks.ground import ROOMY, content, origin, published, web


@pytest.mark.parametrize("fault", ["away", "lies", "swaps", "endless", "breaks off"])
def test_a_bad_neighbour_costs_time_only(tmp_path: Path, fault: str) -> None:
    made, said = published(tmp_path, content()), []
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as bad, web(tmp_path / "server") as good:
        bad.behave = fault
        with store.admit(made.path.read_bytes()) as image:
            sources = [open_source(bad.origin), open_source(good.origin)]
            Fetcher(store, image, sources, report=said.append).whole()
    assert verify(store).damaged == 0 and store.used_bytes() == made.manifest.blob_bytes
    assert bool(said) == (fault in ("lies", "swaps")) and all("wrong bytes" in one for one in said)


def test_what_came_before_a_source_broke_off_is_not_fetched_again(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as server, store.admit(made.path.read_bytes()) as image:
        fetcher = Fetcher(store, image, [open_source(server.origin)])
        fetcher.index(0)
        server.behave = "breaks off"
        with pytest.raises(NoSource, match="too early") as caught:
            fetcher.whole()
        assert 0 < caught.value.again_at - time.monotonic() < 20
        held = store.used_bytes()
        assert held > 0
        server.behave, server.ranges = "", []
        Fetcher(store, image, [open_source(server.origin)]).whole()
        assert sum(map(len, server.ranges)) <= made.manifest.blob_bytes - held + 65536


def test_many_chunks_come_in_few_requests(tmp_path: Path) -> None:
    made = published(tmp_path, random.Random(1).randbytes(3 << 20))
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as server, store.admit(made.path.read_bytes()) as image:
        Fetcher(store, image, [open_source(server.origin)]).whole()
        assert made.new_chunks > 150 and len(server.ranges) <= 8


def test_requests_join_what_lies_close_and_are_bounded() -> None:
    name, content_of_index = assemble([bytes(1000)] * 100)
    index = PackIndex(name, content_of_index)
    assert list(ranges(index, [5, 3, 4])) == [range(3, 6)]
    assert list(ranges(index, [1, 3], gap=999)) == [range(1, 2), range(3, 4)]
    assert list(ranges(index, [1, 3], gap=1000)) == [range(1, 4)]
    assert list(ranges(index, range(10), most=4500)) == [range(4), range(4, 8), range(8, 10)]
    assert list(ranges(index, [])) == []


class Fetching:
    """All of an image is fetched in a thread, from a server that would be waited for longer than a test may last."""

    def __init__(self, store: ChunkStore, image: Admitted, origin: Origin) -> None:
        self.fetcher = Fetcher(store, image, [PackServer(origin, Patience(1000, 1000, 1000, 1000))])
        self._ended: queue.Queue[ImageError | None] = queue.Queue()

    def begin(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self.fetcher.whole()
            self._ended.put(None)
        except ImageError as error:
            self._ended.put(error)

    def ended(self) -> ImageError | None:
        return self._ended.get(timeout=60)


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("secure", [False, True])
def test_stopping_ends_a_request_that_hangs_at_once(tmp_path: Path, secure: bool, kept: bool) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    authority = prepare(tmp_path, ["127.0.0.1"], datetime.now(UTC)) if secure else None
    with web(tmp_path / "server", authority) as server, store.admit(made.path.read_bytes()) as image:
        fetching = Fetching(store, image, server.origin)
        if kept:
            fetching.fetcher.index(0)
        server.behave = "stalls"
        fetching.begin()
        assert server.stalled.wait(60)
        fetching.fetcher.stop()
        assert isinstance(fetching.ended(), Stopped)


def test_once_stopped_nobody_is_asked_any_more(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as server, store.admit(made.path.read_bytes()) as image:
        fetching = Fetching(store, image, server.origin)
        fetching.fetcher.stop()
        fetching.begin()
        assert isinstance(fetching.ended(), Stopped) and not server.ranges


def test_pausing_is_not_the_sources_fault_and_asks_nobody_until_it_ends(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as server, store.admit(made.path.read_bytes()) as image:
        fetching = Fetching(store, image, server.origin)
        server.behave = "stalls"
        fetching.begin()
        assert server.stalled.wait(60)
        fetching.fetcher.pause(True)
        assert isinstance(fetching.ended(), FetchPaused)
        server.behave, server.ranges = "", []
        fetching.begin()
        assert isinstance(fetching.ended(), FetchPaused) and not server.ranges
        fetching.fetcher.pause(False)
        fetching.begin()
        assert fetching.ended() is None


def test_the_rate_is_kept_and_can_be_changed_while_it_runs() -> None:
    pace, stop = ByteRate(1_000_000), threading.Event()
    began = time.monotonic()
    for _ in range(10):
        pace.take(100_000, stop)
    assert time.monotonic() - began > 0.6
    pace.set(0)
    began = time.monotonic()
    for _ in range(1000):
        pace.take(1 << 20, stop)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("url", ["ftp://x/", "file:", "http://", "http://user:word@host/", "no address"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ImageError, match="expected http"):
        open_source(Origin(url))


def test_without_any_source_it_says_so(tmp_path: Path) -> None:
    made = published(tmp_path, content(kib=64))
    store = ChunkStore(tmp_path / "store", ROOMY)
    with store.admit(made.path.read_bytes()) as image:
        with pytest.raises(NoSource, match="no source is set"):
            Fetcher(store, image, []).whole()
        Fetcher(store, image, [open_source(origin(tmp_path))]).whole()
