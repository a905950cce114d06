"""Fetching: from whom, how, and that bad sources cost nothing but time."""

import random
import threading
import time
from pathlib import Path

import pytest

from deskgrid.images.chunks.fetch import Fetcher, Stopped, Unreachable
from deskgrid.images.chunks.packs import PackIndex, assemble
from deskgrid.images.chunks.ranges import Pace, ranges
from deskgrid.images.chunks.source import Origin, open_source
from deskgrid.images.chunks.store import ChunkStore
from deskgrid.images.chunks.upkeep import verify
from deskgrid.images.contract import ImageError
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
        with pytest.raises(Unreachable, match="too early") as caught:
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


def test_stopping_ends_a_request_that_hangs_at_once(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    with web(tmp_path / "server") as server, store.admit(made.path.read_bytes()) as image:
        fetcher = Fetcher(store, image, [open_source(server.origin)])
        server.behave = "stalls"
        ended: list[object] = []

        def fetch() -> None:
            try:
                fetcher.whole()
            except ImageError as error:
                ended.append(error)

        thread = threading.Thread(target=fetch)
        thread.start()
        assert server.stalled.wait(20)
        fetcher.stop()
        thread.join(5)
        assert not thread.is_alive() and isinstance(ended[0], Stopped)


def test_the_rate_is_kept_and_can_be_changed_while_it_runs() -> None:
    pace, stop = Pace(1_000_000), threading.Event()
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
        with pytest.raises(Unreachable, match="no source is set"):
            Fetcher(store, image, []).whole()
        Fetcher(store, image, [open_source(origin(tmp_path))]).whole()
