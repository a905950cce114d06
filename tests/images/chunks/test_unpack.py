"""A published image taken apart again, and compared with one's own build of it."""

import os
from pathlib import Path

import msgspec
import pytest

from deskgrid.images.contract import ImageError
from deskgrid.images.format.keys import Damaged, ProjectKey, sum_of
from deskgrid.images.format.manifest import Package
from deskgrid.images.format.packs import assemble
from deskgrid.images.format.published import encode
from deskgrid.images.publish.publish import Published, pack_path, publish, source_of
from deskgrid.images.publish.unpack import same_as_built, unpack
from tests.images.built import built_image

KEY = ProjectKey(b"k" * 32)


def published(folder: Path, built: Path) -> tuple[Published, Path]:
    web = folder / "web"
    return publish(source_of(built), web, ("lab", "demo", "1"), KEY), web


def test_what_was_published_comes_apart_again_and_is_one_s_own_build_to_the_byte(tmp_path: Path) -> None:
    built = built_image(tmp_path / "built")
    made, web = published(tmp_path, built)
    done: list[float] = []
    found = unpack(encode(made.manifest), web, KEY, tmp_path / "look", done.append)
    assert done[-1] == 1.0
    for name in ("disk.raw", "kernel", "initrd"):
        assert (tmp_path / "look" / name).read_bytes() == (built / name).read_bytes()
    assert same_as_built(found, built) == []


def test_another_build_is_told_apart(tmp_path: Path) -> None:
    made, web = published(tmp_path, built_image(tmp_path / "built"))
    found = unpack(encode(made.manifest), web, KEY, tmp_path / "look")
    other = built_image(tmp_path / "other", disk=b"another disk\n" * 5000)
    faults = same_as_built(found, other)
    assert any("it says that it was built as" in fault for fault in faults)
    assert any("disk.raw is not the one" in fault for fault in faults)
    assert not any("kernel is not" in fault for fault in faults)


def test_a_damaged_pack_another_key_and_a_folder_that_is_there_are_refused(tmp_path: Path) -> None:
    made, web = published(tmp_path, built_image(tmp_path / "built"))
    content = encode(made.manifest)
    with pytest.raises(ImageError, match="another key"):
        unpack(content, web, ProjectKey(b"x" * 32), tmp_path / "a")
    with pytest.raises(ImageError, match="give a new folder"):
        unpack(content, web, KEY, web)
    (pack,) = (path for path in web.rglob("packs/*/*") if path.is_file())
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Damaged):
        unpack(content, web, KEY, tmp_path / "b")
    pack.unlink()
    with pytest.raises(ImageError, match="No such file"):
        unpack(content, web, KEY, tmp_path / "c")


def test_a_chunk_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    made, web = published(tmp_path, built_image(tmp_path / "built", disk=bytes(4096)))
    name, index = assemble(blobs := [KEY.seal(b"one thing", KEY.name(b"another"))])
    assert sum_of(blobs[0])
    path = pack_path(web, "lab", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(index + blobs[0])
    from array import array

    import msgspec

    from deskgrid.images.format.published import Pack, Stream, Table, encode_order

    evil = msgspec.structs.replace(
        made.manifest,
        packs=(Pack(name, len(index) + len(blobs[0]), 1),),
        table=Table(array("I", [9]), array("H", [0]), array("H", [0])).encode(),
        boot=encode_order(()),
        disk=Stream(9, 1),
        kernel=Stream(0, 0),
        initrd=Stream(0, 0),
    )
    with pytest.raises(Damaged):
        unpack(encode(evil), web, KEY, tmp_path / "look")


def test_another_seed_and_other_packages_are_told_apart(tmp_path: Path) -> None:
    built = built_image(tmp_path / "built")
    (tmp_path / "seed.iso").write_bytes(b"#cloud-config: evil".ljust(4096))
    source = msgspec.structs.replace(source_of(built), seed=tmp_path / "seed.iso", packages=(Package("telnet", "1"),))
    made = publish(source, tmp_path / "web", ("lab", "demo", "1"), KEY)
    found = unpack(encode(made.manifest), tmp_path / "web", KEY, tmp_path / "look")
    assert same_as_built(found, built) == [
        "it lists other packages than your build",
        "seed.iso is not the one of your build",
    ]


def test_a_pipe_in_the_place_of_a_pack_is_refused(tmp_path: Path) -> None:
    made, web = published(tmp_path, built_image(tmp_path / "built"))
    (pack,) = (path for path in web.rglob("packs/*/*") if path.is_file())
    pack.unlink()
    os.mkfifo(pack)
    with pytest.raises(ImageError, match="no plain file"):
        unpack(encode(made.manifest), web, KEY, tmp_path / "look")
