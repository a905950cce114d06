"""The store: what it holds is right, bounded, and survives everything."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import PackFolder
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.format.published import wanted
from deskgrid.images.publish.publish import Published
from deskgrid.images.serve.reader import Pieces, StreamBlocks
from deskgrid.images.store import upkeep
from deskgrid.images.store.index import HeldImage, Index
from deskgrid.images.store.store import Admitted, ChunkStore, StoreFull, StoreLimits
from tests.images.chunks.ground import CANARY, KEY, ROOMY, content, published


def _fetch(folder: Path, store: ChunkStore, made: Published, version: str = "1") -> str:
    with store.admit(made.path.read_bytes()) as image:
        Fetcher(store, image, [PackFolder(folder / "server")]).whole()
        _same(folder, store, image, version)
    return image.digest


def _same(folder: Path, store: ChunkStore, image: Admitted, version: str = "1") -> None:
    """All streams of the image read as they were published."""
    pieces = Pieces(store, image, ProjectKey(KEY))
    for stream, file in (("disk", "disk.raw"), ("kernel", "kernel"), ("initrd", "initrd")):
        blocks = StreamBlocks(pieces, image, stream)
        parts = blocks.read(0, blocks.size)
        assert parts is not None
        assert b"".join(parts) == (folder / f"built-{version}" / file).read_bytes()


def _some_pack(store: ChunkStore) -> Path:
    return max(store.folder.glob("packs/*/*"), key=lambda path: path.stat().st_size)


def test_what_was_used_under_a_clock_that_was_ahead_goes_when_it_is_its_turn(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    for digest, used_at in (("a" * 64, 9e9), ("b" * 64, 1e9), ("c" * 64, 1e9 + 1), ("b" * 64, 1e9 + 2)):
        index.add_image(HeldImage(digest, "lab", "demo", digest[0], used_at, 1), [])
    assert [image.version for image in index.images()] == ["a", "c", "b"]
    index.close()


def test_what_is_fetched_reads_as_it_was_published_and_is_the_servers_very_bytes(tmp_path: Path) -> None:
    store, made = ChunkStore(tmp_path / "store", ROOMY), published(tmp_path, content())
    digest = _fetch(tmp_path, store, made)
    for path in store.folder.glob("packs/*/*"):
        assert path.read_bytes() == (tmp_path / "server/lab/packs" / path.parent.name / path.name).read_bytes()
    status = upkeep.status(store)
    assert status.images[0].image.digest == digest and not status.images[0].in_use
    assert upkeep.verify(store).damaged == 0 and upkeep.verify(store).blobs > 20


def test_no_file_of_a_store_shows_the_canary(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "store", ROOMY)
    _fetch(tmp_path, store, published(tmp_path, content()))
    found = [path for path in store.folder.rglob("*") if path.is_file() and CANARY[:20] in path.read_bytes()]
    assert not found and b"canary" in (tmp_path / "built-1/disk.raw").read_bytes()


def test_a_damaged_blob_is_never_read_but_thrown_away_reported_and_fetched_again(tmp_path: Path) -> None:
    said: list[str] = []
    store, made = ChunkStore(tmp_path / "store", ROOMY, said.append), published(tmp_path, content())
    _fetch(tmp_path, store, made)
    pack = _some_pack(store)
    with pack.open("r+b") as file:
        file.seek(pack.stat().st_size // 2)
        file.write(b"damage")
    with store.admit(made.path.read_bytes()) as image:
        blocks = StreamBlocks(Pieces(store, image, ProjectKey(KEY)), image, "disk")
        while (parts := blocks.read(0, blocks.size)) is None:
            Fetcher(store, image, [PackFolder(tmp_path / "server")]).whole()
        assert b"".join(parts) == (tmp_path / "built-1/disk.raw").read_bytes()
    assert len(said) == 1 and "damaged" in said[0]


@pytest.mark.parametrize("what", ["pack half", "pack empty", "index half", "index empty", "index noise", "index gone"])
def test_a_store_opens_whatever_the_power_cut_left_and_what_is_lost_is_fetched_again(tmp_path: Path, what: str) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    _fetch(tmp_path, store, made)
    store.close()
    kind, how = what.split()
    path = _some_pack(store) if kind == "pack" else tmp_path / "store/index.db"
    if how in ("half", "empty"):
        os.truncate(path, path.stat().st_size // 2 if how == "half" else 0)
    elif how == "noise":
        path.write_bytes(random.Random(1).randbytes(20000))
    else:
        path.unlink()
    again = ChunkStore(tmp_path / "store", ROOMY)
    upkeep.verify(again)
    _fetch(tmp_path, again, made)
    assert upkeep.verify(again).damaged == 0


def test_after_the_index_was_lost_nothing_is_fetched_again_that_is_there(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", ROOMY)
    _fetch(tmp_path, store, made)
    store.close()
    (tmp_path / "store/index.db").write_bytes(b"no database" * 999)
    shutil.rmtree(tmp_path / "server/lab")
    said: list[str] = []
    again = ChunkStore(tmp_path / "store", ROOMY, said.append)
    _fetch(tmp_path, again, made)
    assert len(said) == 1 and "made anew" in said[0]


_WRITER = """
import sys
from pathlib import Path
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import PackFolder
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.images.store import upkeep
folder, manifests = Path(sys.argv[1]), sys.argv[2:]
store = ChunkStore(folder / "store", StoreLimits(1 << 30, 0))
print("open", flush=True)
while True:
    for manifest in manifests:
        with store.admit(Path(manifest).read_bytes()) as image:
            Fetcher(store, image, [PackFolder(folder / "server")]).whole()
        store.remove(image.digest)
        upkeep.gc(store)
"""


def test_two_agents_killed_at_random_moments_leave_a_store_that_opens_and_is_right(tmp_path: Path) -> None:
    one, two = published(tmp_path, content()), published(tmp_path, content()[:900000] + content(2), "2")
    argv = [sys.executable, "-c", _WRITER, str(tmp_path), str(one.path), str(two.path)]
    rng = random.Random(5)
    for _ in range(5):
        agents = [subprocess.Popen(argv, stdout=subprocess.PIPE) for _ in range(2)]
        for agent in agents:
            assert agent.stdout is not None and agent.stdout.readline() == b"open\n"
        time.sleep(rng.random() * 0.2)
        for agent in agents:
            assert agent.poll() is None
            agent.send_signal(signal.SIGKILL)
            agent.communicate()
        store = ChunkStore(tmp_path / "store", ROOMY)
        for path in store.folder.rglob("*"):
            assert not path.is_file() or CANARY[:20] not in path.read_bytes()
        upkeep.verify(store)
        _fetch(tmp_path, store, one)
        _fetch(tmp_path, store, two, "2")
        assert upkeep.verify(store).damaged == 0
        store.close()


def test_a_pack_that_another_agent_removed_is_whole_again_when_it_is_fetched_again(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    one, other = ChunkStore(tmp_path / "store", ROOMY), ChunkStore(tmp_path / "store", ROOMY)
    digest = _fetch(tmp_path, one, made)
    assert other.remove(digest)
    _fetch(tmp_path, one, made)
    found = upkeep.verify(ChunkStore(tmp_path / "store", ROOMY))
    assert (found.damaged, found.faults) == (0, ())


def test_an_image_goes_from_the_index_with_its_packs_or_not_at_all(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.db")
    index.add_image(HeldImage("a" * 64, "lab", "demo", "1", 1.0, 1), ["p" * 64])
    with sqlite3.connect(tmp_path / "index.db") as beside:
        beside.execute("CREATE TRIGGER cut BEFORE DELETE ON pack BEGIN SELECT RAISE(ABORT, 'power cut'); END")
    with pytest.raises(sqlite3.IntegrityError, match="power cut"):
        index.forget_image("a" * 64)
    assert [image.version for image in index.images()] == ["1"]
    index.close()


def test_the_least_recently_used_image_goes_first_and_never_one_that_is_leased(tmp_path: Path) -> None:
    made = [published(tmp_path, random.Random(n).randbytes(500_000), str(n)) for n in (1, 2, 3)]
    each = max(one.manifest.blob_bytes for one in made)
    store = ChunkStore(tmp_path / "store", StoreLimits(int(each * 2.5), 0))
    first, second = (_fetch(tmp_path, store, one, str(n + 1)) for n, one in enumerate(made[:2]))
    with store.admit(made[0].path.read_bytes()) as leased:
        assert leased.digest == first
        third = _fetch(tmp_path, store, made[2], "3")
        assert {image.digest for image in store.images()} == {first, third} and second not in {first, third}
        assert store.used_bytes() <= store.limits.budget_bytes
        assert not store.remove(first)
    assert store.remove(first)


def test_a_budget_smaller_than_an_image_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", StoreLimits(100_000, 0))
    with pytest.raises(StoreFull, match=r"lab/demo 1 takes \d+ KiB, and the budget is 97 KiB; raise the budget"):
        _fetch(tmp_path, store, made)
    assert store.used_bytes() == 0


def test_the_disks_floor_is_kept_and_said(tmp_path: Path) -> None:
    made = published(tmp_path, content())
    store = ChunkStore(tmp_path / "store", StoreLimits(1 << 30, 1 << 60))
    with pytest.raises(StoreFull, match="must stay free"):
        _fetch(tmp_path, store, made)


def test_a_disk_that_gets_full_is_a_sentence_and_what_came_is_kept(tmp_path: Path) -> None:
    made, disk = published(tmp_path, content(kib=6000)), tmp_path / "small"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small disk can be made by root only")
    try:
        store = ChunkStore(disk / "store", StoreLimits(1 << 30, 0))
        with pytest.raises(StoreFull, match=r"No space left|must stay free|MiB free"):
            _fetch(tmp_path, store, made)
        assert store.used_bytes() > 0 and upkeep.verify(store).damaged == 0
        store.close()
        ChunkStore(disk / "store", ROOMY).close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_gc_gives_back_what_no_image_needs_and_takes_nothing_that_one_does(tmp_path: Path) -> None:
    disk = content()
    one, two = published(tmp_path, disk), published(tmp_path, disk[:600000] + content(9), "2")
    store = ChunkStore(tmp_path / "store", ROOMY)
    first = _fetch(tmp_path, store, one)
    _fetch(tmp_path, store, two, "2")
    stray = store.folder / "packs/aa"
    stray.mkdir(exist_ok=True)
    (stray / ("a" * 64)).write_bytes(b"stray")
    assert store.remove(first)
    before = store.used_bytes()
    done = upkeep.gc(store)
    assert done.files == 1 and done.blobs > 0 and store.used_bytes() == before - done.bytes
    with store.admit(two.path.read_bytes()) as image:
        _same(tmp_path, store, image, "2")
        held = {pack.name: store.held(pack.name) for pack in image.manifest.packs}
        needs = set(wanted(image.manifest, image.table))
    assert sum(map(len, held.values())) == len(needs)


def test_a_manifest_that_was_changed_on_disk_is_not_used(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path / "store", ROOMY)
    digest = _fetch(tmp_path, store, published(tmp_path, content(kib=64)))
    (store.folder / "images" / f"{digest}.json").write_bytes(b"{}")
    with ExitStack() as stack, pytest.raises(ImageError, match="damaged"):
        stack.enter_context(store.admit(store.manifest_of(digest)))


def test_another_projects_key_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    store, made = ChunkStore(tmp_path / "store", ROOMY), published(tmp_path, content(kib=64))
    with store.admit(made.path.read_bytes()) as image, pytest.raises(ImageError, match="ask for the key of lab"):
        Pieces(store, image, ProjectKey(bytes(32)))


def test_a_manifest_under_anothers_name_is_refused(tmp_path: Path) -> None:
    store, made = ChunkStore(tmp_path / "store", ROOMY), published(tmp_path, content(kib=64))
    with pytest.raises(ImageError, match="expected lab/other 1"), ExitStack() as stack:
        stack.enter_context(store.admit(made.path.read_bytes(), ("lab", "other", "1")))
    assert store.images() == []
