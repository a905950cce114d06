"""Neighbours: real processes that give each other parts of packs; what they refuse; and those that mean ill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path

import psutil
import pytest

from bench.machine import inside
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.patience import ANOTHER_FOLLOWS, LAST, Patience
from deskgrid.images.fetch.source import Origin, PackSource, open_source, open_sources
from deskgrid.images.format.packs import MOST_BLOBS, index_bytes
from deskgrid.images.neighbour.door import MOST_FOR_ONE, MOST_INSIDE, NeighbourLimiter, own_networks
from deskgrid.images.neighbour.held import MOST_RANGE_BYTES
from deskgrid.images.publish.publish import Published
from deskgrid.images.store.store import ChunkStore
from deskgrid.images.store.upkeep import verify
from deskgrid.model.values.backoff import Backoff
from deskgrid.wire.neighbour import NeighbourTask
from tests.images.chunks.beside import ARGV, FAST, Giver, ask, get, giver
from tests.images.chunks.ground import KEY, ROOMY, content, origin, published, web
from tests.waiting import comes_true

pytestmark = pytest.mark.slow


def patient(*origins: Origin) -> list[PackSource]:
    """Sources with which one bears for long: what is tried here is not how fast this machine is."""
    return [open_source(one) for one in origins]


def filled(folder: Path, name: str, made: Published, *sources: Origin) -> ChunkStore:
    """A store that has fetched all of an image."""
    store = ChunkStore(folder / name, ROOMY)
    with store.admit(made.path.read_bytes()) as image:
        Fetcher(store, image, patient(*(sources or (origin(folder),)))).whole()
    return store


def whole(store: ChunkStore, made: Published) -> bool:
    return verify(store).damaged == 0 and store.used_bytes() == made.manifest.blob_bytes


# What it gives


def test_a_desktop_fetches_all_from_its_neighbour_and_nothing_from_the_origin(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    filled(tmp_path, "a", made)
    with giver(tmp_path / "a") as beside, web(tmp_path / "server") as server:
        store = filled(tmp_path, "b", made, beside.origin, server.origin)
        assert whole(store, made) and server.ranges == []
        assert comes_true(lambda: beside.given().given_bytes >= made.manifest.blob_bytes)


def test_what_a_neighbour_lacks_comes_from_the_origin(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    partial = ChunkStore(tmp_path / "a", ROOMY)
    with partial.admit(made.path.read_bytes()) as image:
        Fetcher(partial, image, [open_source(origin(tmp_path))]).bring(0, range(20))
    with giver(tmp_path / "a") as beside, web(tmp_path / "server") as server:
        store = filled(tmp_path, "b", made, beside.origin, server.origin)
        assert whole(store, made) and server.ranges


def test_a_blob_that_is_damaged_on_the_neighbours_disk_is_not_given(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = filled(tmp_path, "a", made)
    pack = made.manifest.packs[0]
    index = store.pack_index(pack)
    assert index is not None
    begin, end = index.span(3)
    with store.files.path(pack.name).open("r+b") as file:
        file.seek(begin + 40)
        file.write(b"damaged")
    with giver(tmp_path / "a") as beside:
        assert get(beside.port, pack.name, f"{begin}-{end - 1}").startswith(b"HTTP/1.1 416 ")
        begin, end = index.span(4)
        assert get(beside.port, pack.name, f"{begin}-{end - 1}").startswith(b"HTTP/1.1 206 ")
        said: list[str] = []
        other = ChunkStore(tmp_path / "b", ROOMY)
        with other.admit(made.path.read_bytes()) as image:
            sources = [open_source(beside.origin), open_source(origin(tmp_path))]
            Fetcher(other, image, sources, report=said.append).whole()
        assert whole(other, made) and said == [], "nobody called anybody a liar"


def test_it_gives_any_part_of_a_pack_as_a_web_server_does(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = filled(tmp_path, "a", made)
    pack = made.manifest.packs[0]
    on_server = next((tmp_path / "server").glob(f"lab/packs/*/{pack.name}")).read_bytes()
    index = store.pack_index(pack)
    assert index is not None
    edge = pack.index_bytes
    parts = [
        (0, edge),
        (0, 1),
        (edge - 1, edge + 1),
        (0, edge + 5000),
        (edge, index.offsets[1]),
        (edge + 7, edge + 90_000),
    ]
    with giver(tmp_path / "a") as beside:
        source = open_source(beside.origin)
        for start, end in parts:
            assert b"".join(source.read("lab", pack.name, start, end)) == on_server[start:end]


# What it refuses


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /lab/packs/{aa}/{pack} HTTP/1.1", 206),
        (b"HEAD /lab/packs/{aa}/{pack} HTTP/1.1", 405),
        (b"PUT /lab/packs/{aa}/{pack} HTTP/1.1", 405),
        (b"GET /lab/packs/{aa}/{pack} HTTP/1.0", 404),
        (b"GET /lab/packs/00/{pack} HTTP/1.1", 404),
        (b"GET /lab/packs/{aa}/{pack}/../../index.db HTTP/1.1", 404),
        (b"GET /../packs/{aa}/{pack} HTTP/1.1", 404),
        (b"GET /index.db HTTP/1.1", 404),
        (b"GET /images/{digest}.json HTTP/1.1", 404),
        (b"GET /lab/images/{digest}.json HTTP/1.1", 404),
        (b"GET http://127.0.0.1/lab/packs/{aa}/{pack} HTTP/1.1", 405),
        (b"GET /lab/packs/{other} HTTP/1.1", 404),
        (b"\x16\x03\x01 is TLS", 405),
    ],
)
def test_it_gives_parts_of_packs_and_nothing_else(tmp_path: Path, request_line: bytes, status: int) -> None:
    made = published(tmp_path, content(kib=128))
    store = filled(tmp_path, "a", made)
    pack = made.manifest.packs[0].name
    (digest,) = (image.digest for image in store.images())
    words = {b"{aa}": pack[:2], b"{pack}": pack, b"{digest}": digest, b"{other}": "ab/ab" + 62 * "0"}
    for word, text in words.items():
        request_line = request_line.replace(word, text.encode())
    with giver(tmp_path / "a") as beside:
        answer = ask(beside.port, request_line, b"Range: bytes=0-99\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert KEY not in answer


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Range: bytes=0-\r\n",
        b"Range: bytes=-5\r\n",
        b"Range: bytes=0-1,4-5\r\n",
        b"Range: bytes=0-1\r\nRange: bytes=2-3\r\n",
        b"Range: bytes=5-4\r\n",
        b"Range: bytes=0-99999999999\r\n",
        b"Range: bytes=99999999998-99999999999\r\n",
        b"Range: bytes=0-%d\r\n" % MOST_RANGE_BYTES,
    ],
)
def test_only_one_bounded_range_is_given(tmp_path: Path, header: bytes) -> None:
    made = published(tmp_path, content(kib=128))
    filled(tmp_path, "a", made)
    pack = made.manifest.packs[0].name
    with giver(tmp_path / "a") as beside:
        answer = ask(beside.port, f"GET /lab/packs/{pack[:2]}/{pack} HTTP/1.1".encode(), header)
    assert answer.startswith(b"HTTP/1.1 416 ")


def test_the_longest_index_is_given_whole() -> None:
    assert index_bytes(MOST_BLOBS) <= MOST_RANGE_BYTES


def test_a_request_that_has_no_end_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    with giver(tmp_path) as beside, socket.create_connection(("127.0.0.1", beside.port), timeout=30) as link:
        with suppress(ConnectionError):
            for _ in range(64):
                link.sendall(b"GET /" + bytes(4096))
                time.sleep(0.01)
            assert link.recv(1) == b""
        assert comes_true(lambda: beside.given().connections == 0)


def test_one_address_cannot_take_all_places_and_a_place_is_free_again(tmp_path: Path) -> None:
    (tmp_path / "packs").mkdir()
    with giver(tmp_path) as beside:
        links = [socket.create_connection(("127.0.0.1", beside.port), timeout=30) for _ in range(MOST_FOR_ONE)]
        assert comes_true(lambda: beside.given().connections == MOST_FOR_ONE)
        assert get(beside.port, "ab" + 62 * "0", "0-9") == b""
        links.pop().close()
        assert comes_true(lambda: beside.given().connections == MOST_FOR_ONE - 1)
        assert get(beside.port, "ab" + 62 * "0", "0-9").startswith(b"HTTP/1.1 404 ")
        for link in links:
            link.close()


def test_the_rate_holds_for_all_together_and_can_be_changed(tmp_path: Path) -> None:
    made = published(tmp_path, content(kib=3000))
    filled(tmp_path, "a", made)
    with giver(tmp_path / "a", rate=made.manifest.blob_bytes // 3) as beside:
        began = time.monotonic()
        filled(tmp_path, "b", made, beside.origin)
        assert time.monotonic() - began > 2
        beside.rate(FAST)
        filled(tmp_path, "c", made, beside.origin)


@pytest.mark.slow
def test_who_reads_too_slowly_is_cut_off(tmp_path: Path) -> None:
    made = published(tmp_path, content(kib=3000))
    store = filled(tmp_path, "a", made)
    pack = made.manifest.packs[0]
    index = store.pack_index(pack)
    assert index is not None
    with giver(tmp_path / "a") as beside, socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", beside.port))
        end = index.offsets[index.count] - 1
        link.sendall(f"GET /lab/packs/{pack.name[:2]}/{pack.name} HTTP/1.1\r\nRange: bytes=0-{end}\r\n\r\n".encode())
        assert comes_true(lambda: beside.given().connections == 1)
        assert comes_true(lambda: beside.given().connections == 0, 60)
        assert beside.given().given_bytes < made.manifest.blob_bytes


# Who may come in


def test_only_private_addresses_of_our_own_subnets_may_come_in() -> None:
    door = NeighbourLimiter(lambda: [ip_network("10.0.7.0/24"), ip_network("fd00:1::/64"), ip_network("129.70.1.0/24")])
    assert door.enter("10.0.7.9") and door.enter("::ffff:10.0.7.10") and door.enter("fd00:1::5")
    for stranger in ("10.0.8.9", "fd00:2::5", "129.70.1.5", "127.0.0.1", "fe80::1%eth0", "?"):
        assert door.enter(stranger) is None, stranger
    assert door.inside == 3


def test_a_door_knows_its_places() -> None:
    door = NeighbourLimiter(lambda: [ip_network("10.0.7.0/24")])
    inside = [who for number in range(20) if (who := door.enter(f"10.0.7.{number}")) is not None]
    assert len(inside) == MOST_INSIDE == door.inside
    door.leave(inside[0])
    assert door.enter("10.0.7.99") is not None


def test_this_computers_own_subnets_are_known() -> None:
    assert ip_network("127.0.0.0/8") in own_networks()


# Its life


def test_it_ends_with_whoever_started_it_and_then_nothing_listens(tmp_path: Path) -> None:
    with giver(tmp_path) as beside:
        assert get(beside.port, "ab" + 62 * "0", "0-9").startswith(b"HTTP/1.1 404 ")
    assert beside.process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", beside.port), timeout=30)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        late = Giver(NeighbourTask(str(tmp_path), FAST, "127.0.0.1", taken.getsockname()[1]))
        late.close()
    assert "choose another port" in late.first.said and late.process.returncode == 1


def test_an_order_that_is_none_is_said() -> None:
    done = subprocess.run(ARGV, input=b"{}\n", capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and b"what to serve" in done.stdout


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux only")
def test_it_takes_only_what_nobody_else_wants(tmp_path: Path) -> None:
    with giver(tmp_path) as beside:
        assert os.sched_getscheduler(beside.process.pid) == os.SCHED_IDLE
        process = psutil.Process(beside.process.pid)
        assert process.nice() == 19 and process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
        threads = [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
        assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}


# Those that mean ill, or go


def test_a_neighbour_that_is_killed_in_mid_transfer_is_left_for_the_next_source(tmp_path: Path) -> None:
    made = published(tmp_path, content(kib=3000))
    filled(tmp_path, "a", made)
    store = ChunkStore(tmp_path / "b", ROOMY)
    with giver(tmp_path / "a", rate=200_000) as beside, web(tmp_path / "server") as server:
        with store.admit(made.path.read_bytes()) as image:
            fetcher = Fetcher(store, image, [open_source(beside.origin), open_source(server.origin)])
            thread = threading.Thread(target=fetcher.whole)
            thread.start()
            assert comes_true(lambda: fetcher.fetched_bytes > 100_000)
            assert server.ranges == []
            beside.process.send_signal(signal.SIGKILL)
            thread.join(60)
        assert not thread.is_alive() and whole(store, made) and server.ranges
        assert sum(map(len, server.ranges)) < made.manifest.blob_bytes, "what had come is not fetched again"


@contextmanager
def rogue(answer: Callable[[socket.socket], None]) -> Iterator[Origin]:
    """A neighbour that answers as it likes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def receive(link: socket.socket) -> None:
        with link, suppress(OSError):
            answer(link)

    def accept() -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                threading.Thread(target=receive, args=(link,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield Origin(f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        listener.close()


def wrong_bytes(link: socket.socket) -> None:
    while head := link.recv(4096):
        start, end = head.split(b"bytes=")[1].split(b"\r\n")[0].split(b"-")
        length = int(end) - int(start) + 1
        link.sendall(
            b"HTTP/1.1 206 Partial\r\nContent-Range: bytes %b-%b/99999999\r\nContent-Length: %d\r\n\r\n"
            % (start, end, length)
        )
        link.sendall(os.urandom(length))


def endless_head(link: socket.socket) -> None:
    link.recv(4096)
    link.sendall(b"HTTP/1.1 206 Partial\r\n")
    while True:
        link.sendall(b"X: " + b"y" * 60000 + b"\r\n")


def endless_body(link: socket.socket) -> None:
    link.recv(4096)
    link.sendall(b"HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        link.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def elsewhere(link: socket.socket) -> None:
    link.recv(4096)
    link.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")


def another_part(link: socket.socket) -> None:
    link.recv(4096)
    link.sendall(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 7-8/9\r\nContent-Length: 2\r\n\r\nxx")


def nonsense(link: socket.socket) -> None:
    link.sendall(os.urandom(100_000))


@pytest.mark.parametrize("ill", [wrong_bytes, endless_head, endless_body, elsewhere, another_part, nonsense])
def test_a_neighbour_that_means_ill_costs_time_and_nothing_else(
    tmp_path: Path, ill: Callable[[socket.socket], None]
) -> None:
    made, said = published(tmp_path, content(kib=512)), list[str]()
    store = ChunkStore(tmp_path / "store", ROOMY)
    with rogue(ill) as bad, store.admit(made.path.read_bytes()) as image:
        fetcher = Fetcher(store, image, [open_source(bad), open_source(origin(tmp_path))], report=said.append)
        fetcher.whole()
        assert fetcher.fetched_bytes < 3 * made.manifest.blob_bytes, "nothing endless was read"
    assert whole(store, made)
    assert bool(said) == (ill is wrong_bytes), "who lies is told of"


def slow_head(link: socket.socket) -> None:
    link.recv(4096)
    for byte in b"HTTP/1.1 206 Partial Content" * 100:
        link.sendall(bytes([byte]))
        time.sleep(0.05)


def slow_body(link: socket.socket) -> None:
    head = link.recv(4096)
    start, end = head.split(b"bytes=")[1].split(b"\r\n")[0].split(b"-")
    link.sendall(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes %b-%b/9\r\n" % (start, end))
    link.sendall(b"Content-Length: %d\r\n\r\n" % (int(end) - int(start) + 1))
    while True:
        link.sendall(b"x")
        time.sleep(0.05)


def silent(link: socket.socket) -> None:
    link.recv(4096)
    link.recv(4096)


@pytest.mark.parametrize("ill", [slow_head, slow_body, silent])
def test_a_neighbour_that_dawdles_is_left_soon_and_for_long(
    tmp_path: Path, ill: Callable[[socket.socket], None]
) -> None:
    made = published(tmp_path, content(kib=512))
    store = ChunkStore(tmp_path / "store", ROOMY)
    hasty = Patience(2.0, 0.5, 0.6, 0.7, 64 << 10, 0.5, Backoff(30.0, 300.0))
    with rogue(ill) as bad, store.admit(made.path.read_bytes()) as image:
        fetcher = Fetcher(store, image, [open_source(bad, hasty), open_source(origin(tmp_path))])
        fetcher.whole()
        assert fetcher.requests < 10, "it was asked once or twice, and then left alone"
    assert whole(store, made)


def test_only_the_last_source_is_waited_for_long() -> None:
    origins = [Origin(f"http://127.0.0.{number}/") for number in (1, 2, 3)]
    assert [one.patience for one in open_sources(origins)] == [ANOTHER_FOLLOWS, ANOTHER_FOLLOWS, LAST]
    assert [one.patience for one in open_sources(origins[:1])] == [LAST] and open_sources([]) == []
    assert ANOTHER_FOLLOWS.head_seconds < 5 and ANOTHER_FOLLOWS.connect_seconds < 5


def test_what_lies_between_wanted_blobs_may_be_lacking(tmp_path: Path) -> None:
    """Requests are joined over gaps; a neighbour that has all but the gaps is asked without them."""
    made = published(tmp_path, content())
    every_other = range(0, 40, 2)
    partial = ChunkStore(tmp_path / "a", ROOMY)
    with partial.admit(made.path.read_bytes()) as image:
        fetcher = Fetcher(partial, image, [open_source(origin(tmp_path))])
        for blob in every_other:
            fetcher.bring(0, [blob])
    with giver(tmp_path / "a") as beside, web(tmp_path / "server") as server:
        store = ChunkStore(tmp_path / "b", ROOMY)
        with store.admit(made.path.read_bytes()) as image:
            Fetcher(store, image, patient(beside.origin, server.origin)).bring(0, every_other)
        assert set(every_other) <= store.held(made.manifest.packs[0].name) and server.ranges == []


def test_who_lacks_one_pack_is_asked_for_the_next_at_once(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    (tmp_path / "empty").mkdir()
    full = filled(tmp_path, "a", made)
    with giver(full.folder) as beside, giver(tmp_path / "empty") as empty:
        store = ChunkStore(tmp_path / "b", ROOMY)
        with store.admit(made.path.read_bytes()) as image:
            fetcher = Fetcher(store, image, patient(empty.origin, beside.origin, origin(tmp_path)))
            fetcher.index(0)
            requests = fetcher.requests
            fetcher.bring(0, range(5))
            assert fetcher.requests == requests + 2, "the empty one was asked again, and had no pause"


# Two computers


def nodad(address: str) -> tuple[str, ...]:
    return ("nodad",) if ":" in address else ()  # an address of IPv6 that may be used at once


@pytest.fixture
def lab() -> Iterator[str]:
    """Three network namespaces on one wire: a giver, one on its subnet, one that comes from elsewhere."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip(8)")
    name = f"dg{os.getpid()}"

    def ip(*words: str, check: bool = True, place: str = "") -> None:
        before = inside(name + place) if place else []
        subprocess.run([*before, "ip", *words], check=check, capture_output=True, timeout=60)

    places = {
        "a": ("10.77.1.1/24", "fd77::1/64", "11.77.1.1/24"),
        "b": ("10.77.1.2/24", "fd77::2/64", "11.77.1.2/24"),
        "c": ("10.77.2.3/24",),
    }
    try:
        ip("netns", "add", f"{name}w")
        ip("link", "add", "name", "wire", "type", "bridge", place="w")
        ip("link", "set", "dev", "wire", "up", place="w")
        for place, addresses in places.items():
            ip("netns", "add", name + place)
            end = ("name", "eth", "netns", name + place)
            ip("link", "add", "name", f"to-{place}", "type", "veth", "peer", *end, place="w")
            ip("link", "set", "dev", f"to-{place}", "master", "wire", "up", place="w")
            for address in addresses if socket.has_dualstack_ipv6() else [one for one in addresses if "." in one]:
                ip("address", "add", address, "dev", "eth", *nodad(address), place=place)
            ip("link", "set", "dev", "eth", "up", place=place)
        ip("route", "add", "10.77.2.0/24", "dev", "eth", place="a")
        ip("route", "add", "10.77.1.0/24", "dev", "eth", place="c")
    except (OSError, subprocess.SubprocessError):
        for place in ("w", *places):
            ip("netns", "delete", name + place, check=False)
        pytest.skip("network namespaces can't be made here")
    yield name
    for place in ("w", *places):
        ip("netns", "delete", name + place, check=False)


def test_between_computers_only_private_addresses_of_the_subnet_are_answered(tmp_path: Path, lab: str) -> None:
    made = published(tmp_path, content(kib=128))
    filled(tmp_path, "a", made)
    pack = made.manifest.packs[0].name
    asking = (
        "import sys; from deskgrid.images.fetch.source import Origin, open_source\n"
        f"print(len(b''.join(open_source(Origin(sys.argv[1])).read('lab', '{pack}', 0, 100))))"
    )

    def asked(place: str, host: str) -> subprocess.CompletedProcess[str]:
        url = f"http://{host}:{beside.port}"
        argv = [*inside(lab + place), sys.executable, "-c", asking, url]
        return subprocess.run(argv, capture_output=True, timeout=60, check=False, text=True)

    beside = Giver(NeighbourTask(str(tmp_path / "a"), FAST), tuple(inside(f"{lab}a")))
    try:
        for host in ("10.77.1.1", *(["[fd77::1]"] if socket.has_dualstack_ipv6() else [])):
            near = asked("b", host)
            assert near.stdout.strip() == "100", near.stderr
        for place, host in (("b", "11.77.1.1"), ("c", "10.77.1.1")):
            far = asked(place, host)
            assert far.returncode != 0 and "Away" in far.stderr and "timed out" not in far.stderr, far.stderr
    finally:
        beside.close()
