"""Publishing: what lands in the folder, when, and what a second version costs."""

import hashlib
import os
import random
from pathlib import Path

import msgspec
import pytest

from deskgrid.images.contract import ImageError
from deskgrid.images.format import published as published_manifest
from deskgrid.images.format.cut import MOST_BYTES, cut
from deskgrid.images.format.keys import Damaged, ProjectKey, make_key, read_key
from deskgrid.images.format.packs import PackIndex, assemble
from deskgrid.images.format.published import HOLE, boot_order, decode, encode
from deskgrid.images.publish.publish import Published, pack_path, publish
from deskgrid.model.values.names import BadName
from tests.images.chunks.ground import CANARY, KEY, content, published, source

pytestmark = pytest.mark.slow


def _cut(path: Path) -> list[tuple[int, int, bool]]:
    with path.open("rb") as file:
        return [(p.offset, p.raw_bytes, p.hole) for p in cut(memoryview(path.read_bytes()), file.fileno())]


def test_pieces_cover_the_disk_without_gaps_and_holes_are_the_same_whether_written_or_not(tmp_path: Path) -> None:
    disk = content()
    disk = disk[:500000] + bytes(300000) + disk[500000:]
    sparse, dense = tmp_path / "sparse", tmp_path / "dense"
    dense.write_bytes(disk + bytes(1 << 20))
    with sparse.open("wb") as file:
        for at in range(0, len(disk), 4096):
            if any(block := disk[at : at + 4096]):
                os.pwrite(file.fileno(), block, at)
        file.truncate(len(disk) + (1 << 20))
    pieces = _cut(dense)
    assert pieces == _cut(sparse)
    assert [offset + length for offset, length, _ in pieces[:-1]] == [offset for offset, _, _ in pieces[1:]]
    assert pieces[0][0] == 0 and sum(length for _, length, _ in pieces) == len(disk) + (1 << 20)
    assert max(length for _, length, hole in pieces if not hole) <= MOST_BYTES
    assert pieces[-1][2] and any(hole for _, _, hole in pieces[:-1])


@pytest.mark.parametrize("length", [1, 4095, 4096, 32768, 40000])
def test_small_and_empty_files_are_cut_too(tmp_path: Path, length: int) -> None:
    for filling in (b"\0", b"x"):
        (tmp_path / "f").write_bytes(filling * length)
        assert sum(piece[1] for piece in _cut(tmp_path / "f")) == length


def test_the_same_content_is_the_same_blob_in_one_project_and_another_in_the_next() -> None:
    plain = content(kib=16)
    one, again, other = ProjectKey(KEY), ProjectKey(KEY), ProjectKey(bytes(32))
    blob = one.seal(plain, one.name(plain))
    assert blob == again.seal(plain, again.name(plain))
    assert one.open(blob, len(plain)) == plain
    assert other.name(plain) != one.name(plain) and one.key_id != other.key_id
    with pytest.raises(Damaged):
        other.open(blob, len(plain))


def test_a_blob_that_was_moved_under_another_name_does_not_open() -> None:
    key = ProjectKey(KEY)
    one, two = (key.seal(plain, key.name(plain)) for plain in (b"one" * 999, b"two" * 999))
    with pytest.raises(Damaged):
        key.open(two[:32] + one[32:], 2997)


def test_a_blob_that_says_one_content_and_holds_another_does_not_open() -> None:
    key = ProjectKey(KEY)
    with pytest.raises(Damaged, match="not what its name says"):
        key.open(key.seal(b"evil", key.name(b"good")), 4)


def test_a_bomb_is_not_unpacked() -> None:
    key = ProjectKey(KEY)
    bomb = key.seal(bytes(64 << 20), b"n" * 32)
    assert len(bomb) < 70000
    with pytest.raises(Damaged, match="67108864"):
        key.open(bomb, 16384)


def test_other_packed_bytes_of_the_same_content_get_another_nonce() -> None:
    key = ProjectKey(KEY)
    assert key.seal(b"a" * 99, b"n" * 32)[32:44] != key.seal(b"a" * 98, b"n" * 32)[32:44]


def test_a_second_version_writes_only_what_is_new(tmp_path: Path) -> None:
    disk = content()
    first = published(tmp_path, disk)
    at = 100 * 4096  # file systems move content by whole blocks
    second = published(tmp_path, disk[:at] + b"something new " * 512 + bytes(1024) + disk[at:], "2")
    assert second.new_bytes < first.new_bytes / 5
    assert set(first.manifest.packs) < set(second.manifest.packs)


def _chunks(folder: Path, made: Published) -> dict[bytes, bytes]:
    """All chunks of a version by what they say of themselves, opened as they are in the folder."""
    manifest, table = decode(made.path.read_bytes())
    key, found = ProjectKey(KEY), {}
    for length, pack, blob in zip(table.lengths, table.packs, table.blobs, strict=True):
        if pack != HOLE:
            path = pack_path(folder / "server", "lab", manifest.packs[pack].name)
            content = path.read_bytes()
            index = PackIndex(path.name, content[: manifest.packs[pack].index_bytes])
            start, end = index.span(blob)
            assert index.right(blob, content[start:end])
            found[content[start : start + 32]] = key.open(content[start:end], length)
    return found


def _planted(folder: Path, name: bytes, evil: bytes) -> Path:
    """A pack with one blob that says a name and opens as something else; its own name sorts first."""
    key = ProjectKey(KEY)
    for number in range(1 << 20):
        blob = key.seal(evil + number.to_bytes(3), name)
        pack, index = assemble([blob])
        if pack.startswith("00"):
            break
    path = pack_path(folder / "server", "lab", pack)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(index + blob)
    return path


def test_a_chunk_that_lies_in_the_folder_under_a_wrong_name_is_not_taken_over(tmp_path: Path) -> None:
    disk = bytearray(content())
    first = published(tmp_path, bytes(disk))
    name, plain = next(iter(_chunks(tmp_path, first).items()))
    planted = _planted(tmp_path, name, b"e" * (len(plain) - 3))
    disk[900000:900008] = b"version2"
    second = published(tmp_path, bytes(disk), "2")
    assert second.wrong_chunks == 1
    assert planted.name not in {pack.name for pack in second.manifest.packs}
    assert _chunks(tmp_path, second)[name] == plain
    # The right one lies there too, in a pack whose name sorts later: it is taken over, and nothing is stored twice.
    assert second.new_bytes < first.new_bytes / 5


def test_a_chunk_that_was_damaged_in_the_folder_is_stored_anew(tmp_path: Path) -> None:
    first = published(tmp_path, content())
    pack = first.manifest.packs[0]
    path = pack_path(tmp_path / "server", "lab", pack.name)
    held = bytearray(path.read_bytes())
    held[pack.index_bytes + 50] ^= 1
    path.write_bytes(held)
    second = published(tmp_path, content(), "2")
    assert (second.wrong_chunks, second.new_chunks) == (1, 1)
    assert len(_chunks(tmp_path, second)) > 1


def test_only_what_an_interrupted_publication_of_ours_left_is_taken_away(tmp_path: Path) -> None:
    home, packs = tmp_path / "home", tmp_path / "server/lab/packs"
    unfinished = f".{'a' * 64}.ab12_xyz"
    for folder in (home, packs / "bb"):
        folder.mkdir(parents=True)
        for name in (".bashrc", ".deskgrid-key", unfinished):
            (folder / name).write_text("x")
    (packs / "aa").symlink_to(home)
    published(tmp_path, content())
    assert {path.name for path in home.iterdir()} == {unfinished, ".bashrc", ".deskgrid-key"}
    assert {path.name for path in (packs / "bb").iterdir()} == {".bashrc", ".deskgrid-key"}


def test_a_pipe_in_the_place_of_a_manifest_is_not_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "server/images/lab/demo/1.json"
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises(ImageError, match="publishing to"):
        published(tmp_path, content())


def test_pipes_among_the_packs_are_left_alone(tmp_path: Path) -> None:
    first = published(tmp_path, content())
    os.mkfifo(tmp_path / "server/lab/packs" / first.manifest.packs[0].name[:2] / ("0" * 64))
    assert published(tmp_path, content(), "2").new_bytes == 0


def test_a_disk_that_is_not_what_its_own_manifest_says_is_not_published(tmp_path: Path) -> None:
    made = source(tmp_path / "built", content())
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "built").iterdir()}
    made = msgspec.structs.replace(made, sums=sums)
    names, key = ("lab", "demo", "1"), ProjectKey(KEY)
    assert publish(made, tmp_path / "server", names, key).new_chunks
    with (tmp_path / "built/kernel").open("r+b") as file:
        file.write(b"evil")
    with pytest.raises(ImageError, match="it was changed"):
        publish(made, tmp_path / "server", ("lab", "demo", "2"), key)


def test_publishing_again_changes_nothing_and_other_content_under_the_same_version_is_refused(tmp_path: Path) -> None:
    first = published(tmp_path, content())
    before = first.path.read_bytes()
    assert published(tmp_path, content()).new_bytes == 0
    with pytest.raises(ImageError, match="never changes"):
        published(tmp_path, content(2))
    assert first.path.read_bytes() == before


def test_an_interrupted_publication_leaves_no_version_and_goes_on_where_it_was(tmp_path: Path) -> None:
    made = source(tmp_path / "built", random.Random(3).randbytes(24 << 20))
    calls = []

    def interrupt(part: float) -> None:
        calls.append(part)
        if part > 0.8:
            raise KeyboardInterrupt

    names, server = ("lab", "demo", "1"), tmp_path / "server"
    with pytest.raises(KeyboardInterrupt):
        publish(made, server, names, ProjectKey(KEY), interrupt)
    assert not list(server.glob("images/**/*.json"))
    kept = sum(path.stat().st_size for path in server.glob("lab/packs/*/*"))
    assert kept > 0 and calls == sorted(calls)
    whole = publish(made, tmp_path / "other", names, ProjectKey(KEY)).new_bytes
    assert publish(made, server, names, ProjectKey(KEY)).new_bytes < whole - kept + 100000


def test_kernel_and_initrd_come_first_then_what_a_boot_reads(tmp_path: Path) -> None:
    late = 1_400_000
    made = published(tmp_path, content(), first_reads=(late, 10, late, 1 << 40))
    manifest, table = decode(made.path.read_bytes())
    order = list(boot_order(manifest))
    files = manifest.kernel.pieces + manifest.initrd.pieces
    assert order[:files] == list(range(manifest.disk.pieces, manifest.disk.pieces + files))
    offsets = published_manifest.span(manifest, table, "disk").offsets
    assert [offsets[number] <= late < offsets[number + 1] for number in order[files : files + 1]] == [True]
    firsts = [table.blobs[number] for number in dict.fromkeys(order)]
    assert firsts[:3] == sorted(firsts[:3]) and firsts[0] == 0


def test_nothing_that_is_published_shows_the_canary(tmp_path: Path) -> None:
    published(tmp_path, content())
    for path in (tmp_path / "server").rglob("*"):
        assert not path.is_file() or CANARY[:20] not in path.read_bytes()


@pytest.mark.parametrize(
    "names", [("../up", "demo", "1"), ("lab", "a/b", "1"), ("lab", "demo", ".."), ("metadata", "demo", "1")]
)
def test_names_that_would_leave_the_folder_or_stand_in_its_way_are_refused(
    tmp_path: Path, names: tuple[str, str, str]
) -> None:
    with pytest.raises(BadName):
        publish(source(tmp_path / "b", b"x"), tmp_path / "server", names, ProjectKey(KEY))


def test_a_manifest_of_absurd_numbers_is_refused_with_a_sentence(tmp_path: Path) -> None:
    made = published(tmp_path, content(kib=64)).manifest
    table = decode(encode(made))[1]
    table.packs[next(n for n, pack in enumerate(table.packs) if pack != HOLE)] = 999
    for wrong in (
        msgspec.structs.replace(made, table=table.encode()),
        msgspec.structs.replace(made, table=published_manifest.encode_order(range(100000))),
        msgspec.structs.replace(made, table=b"no frame"),
        msgspec.structs.replace(made, boot=published_manifest.encode_order([1 << 30])),
        msgspec.structs.replace(made, disk=published_manifest.Stream(1 << 43, made.disk.pieces)),
        msgspec.structs.replace(made, disk=published_manifest.Stream(made.disk.bytes, 8 << 20)),
        msgspec.structs.replace(made, project="../.."),
        msgspec.structs.replace(made, format=9),
    ):
        with pytest.raises(ImageError, match=r"got|Expected|not there"):
            decode(encode(wrong))
    with pytest.raises(ImageError, match="at most"):
        decode(bytes(33 << 20))


def test_a_pack_index_is_believed_only_under_its_own_name() -> None:
    blobs = [bytes([n]) * 100 for n in range(1, 4)]
    name, index = assemble(blobs)
    assert PackIndex(name, index).right(1, blobs[1]) and not PackIndex(name, index).right(1, blobs[2])
    with pytest.raises(Damaged):
        PackIndex(name, index[:-1] + b"x")


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    made = make_key(tmp_path / "key")
    assert read_key(tmp_path / "key") == made
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(ImageError, match="644"):
        read_key(tmp_path / "key")
    with pytest.raises(ImageError, match="exists"):
        make_key(tmp_path / "key")
