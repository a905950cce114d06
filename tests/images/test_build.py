"""What a build does around the heavy steps: what it makes anew, what it finds again, what it hands to mmdebstrap."""

import struct
import subprocess
import tarfile
import uuid
from pathlib import Path

import msgspec
import pytest

from deskgrid import guest
from deskgrid.host.system.locks import locked
from deskgrid.images.build import disk
from deskgrid.images.build.build import build, find, inputs
from deskgrid.images.build.listing import inspect, listed
from deskgrid.images.build.tree import HOOK, in_plain_words, wanted_packages, write_hook
from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest
from deskgrid.images.format.recipe import LoadedRecipe, load

RECIPE = 'name = "demo"\nsuite = "trixie"\nscripts = ["a script"]\n[[files]]\nsource = "motd"\nto = "/etc/motd"\n'


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedRecipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "motd").write_text("hello\n")
    (tmp_path / "a script").write_text("#!/bin/sh\n")
    return load(tmp_path / "recipe.toml")


def place(images: Path, loaded: LoadedRecipe) -> Path:
    """Put an image of a few bytes there as if it had been built from the recipe."""
    work = images / "work"
    work.mkdir(parents=True)
    for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD):
        (work / file).write_text(file)
    facts = [manifest.measure(work / file) for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD)]
    content = Manifest(
        name="demo",
        memory_bytes=1,
        disk_bytes=2,
        cmdline="",
        packages=(),  # type: ignore[arg-type]
        **dict(zip(("disk", "kernel", "initrd"), facts, strict=True)),  # type: ignore[arg-type]
        recipe=loaded.recipe,
        inputs=inputs(loaded),
    )
    encoded = manifest.encode(content)
    (work / manifest.FILE).write_bytes(encoded)
    folder = images / "demo" / manifest.digest(encoded)
    folder.parent.mkdir()
    return work.rename(folder)


def test_an_image_of_the_same_recipe_and_files_is_found_again(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = place(tmp_path / "images", loaded)
    found = find(loaded, tmp_path / "images")
    assert found is not None
    assert (found.folder, found.fresh, found.ref.digest) == (folder, False, folder.name)


def test_build_takes_it_from_the_cache(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = place(tmp_path / "images", loaded)
    said = []
    built = build(tmp_path / "recipe.toml", cache=tmp_path, progress=lambda part, text: said.append((part, text)))
    assert built.folder == folder
    assert said == [(1.0, "image demo is ready")]


@pytest.mark.parametrize(
    "change",
    [
        {"files": (b"other",)},
        {"scripts": (b"#!/bin/dash\n",)},
        {"recipe": {"disk_bytes": 3 << 30}},
        {"recipe": {"packages": ("gcc",)}},
    ],
)
def test_any_change_of_what_goes_in_makes_another_image(
    tmp_path: Path, loaded: LoadedRecipe, change: dict[str, object]
) -> None:
    place(tmp_path / "images", loaded)
    if "recipe" in change:
        change = {"recipe": msgspec.structs.replace(loaded.recipe, **change["recipe"])}
    other = msgspec.structs.replace(loaded, **change)
    assert inputs(other) != inputs(loaded)
    assert find(other, tmp_path / "images") is None


def test_where_the_recipe_is_does_not_matter(loaded: LoadedRecipe) -> None:
    assert inputs(msgspec.structs.replace(loaded, where="/elsewhere")) == inputs(loaded)


def test_a_half_image_is_not_found(tmp_path: Path, loaded: LoadedRecipe) -> None:
    (place(tmp_path / "images", loaded) / manifest.KERNEL).unlink()
    assert find(loaded, tmp_path / "images") is None


def test_the_second_builder_waits_for_the_first(tmp_path: Path, loaded: LoadedRecipe) -> None:
    place(tmp_path / "images", loaded)
    said: list[str] = []
    holder = locked(tmp_path / "images/.demo.lock")
    holder.__enter__()

    def hear(_: float, text: str) -> None:
        said.append(text)
        if len(said) == 1:
            holder.__exit__(None, None, None)

    build(tmp_path / "recipe.toml", cache=tmp_path, progress=hear)
    assert said == ["waiting for another build of this image", "image demo is ready"]


def test_a_cache_that_can_not_be_used_is_one_sentence(tmp_path: Path, loaded: LoadedRecipe) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ImageError, match="image demo: Not a directory"):
        build(tmp_path / "recipe.toml", cache=tmp_path / "file")


def test_mmdebstrap_gets_a_program_and_a_tar_that_anybody_can_read(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = tmp_path / "hook"
    folder.mkdir(mode=0o700)
    hook = write_hook(loaded, folder)
    assert hook.read_bytes() == HOOK.read_bytes()
    assert [path.stat().st_mode & 0o777 for path in (folder, hook, folder / "files.tar")] == [0o755, 0o755, 0o644]
    with tarfile.open(folder / "files.tar") as tar:
        found = {info.name: (info.mode, info.uid) for info in tar}
    assert found["etc/motd"] == (0o644, 0)
    assert found["usr/lib/deskgrid/init"] == (0o755, 0)
    assert found["usr/lib/deskgrid/build/script-000-a-script"] == (0o755, 0)
    assert not any(name.startswith("/") or ".." in name for name in found)


def test_a_recipe_may_bring_its_own_kernel(loaded: LoadedRecipe) -> None:
    assert guest.KERNEL in wanted_packages(loaded.recipe)
    other = wanted_packages(msgspec.structs.replace(loaded.recipe, packages=("linux-image-amd64", "condor")))
    assert guest.KERNEL not in other
    assert other.count("condor") == 1


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "E: script-000-a-script ended with exit code 3: oh; E: x",
            "scripts[0] (a script) ended with exit code 3: oh;",
        ),
        ("E: Unable to locate package gc; E: y", "packages: got gc, expected packages of Debian trixie; correct "),
        (
            "E: The repository 'http://x y Release' does not have a Release file.",
            "suite: got 'trixie', which the mirror",
        ),
        (
            "E: Failed to fetch http://x/InRelease  Could not resolve 'x'; E: z",
            "Could not resolve 'x'; check the network",
        ),
        ("E: You don't have enough free space in /tmp/x", "no space left in "),
        ("tar: write: No space left on device", "no space left in "),
    ],
)
def test_what_mmdebstrap_says_becomes_a_sentence_about_the_recipe(
    loaded: LoadedRecipe, said: str, expected: str
) -> None:
    assert expected in (in_plain_words(said, loaded) or "")


def test_what_is_not_understood_is_not_rephrased(loaded: LoadedRecipe) -> None:
    assert in_plain_words("E: something else", loaded) is None


def test_the_hook_parses() -> None:
    assert subprocess.run(["sh", "-n", str(HOOK)], check=False).returncode == 0


def test_the_boot_record_has_one_active_partition_behind_grub() -> None:
    who = disk.identity("x", 5)
    record = disk.boot_record(b"\xeb" * 512, 2 << 30, who)
    assert len(record) == 512
    assert record[510:] == b"\x55\xaa"
    active, kind, start, count = record[446], record[450], *struct.unpack_from("<II", record, 454)
    assert (active, kind, start * 512, (start + count) * 512) == (0x80, 0x83, 1 << 20, 2 << 30)
    assert record[462:510] == bytes(48)
    assert record[0x66:0x68] == b"\x90\x90"


def test_a_disks_identity_depends_on_nothing_but_its_text() -> None:
    assert disk.identity("a", 1) == disk.identity("a", 1)
    assert disk.identity("a", 1).uuid != disk.identity("b", 1).uuid
    assert uuid.UUID(disk.identity("a", 1).uuid) != uuid.UUID(disk.identity("a", 1).hash_seed)


def test_a_listing_shows_also_what_can_not_be_used_and_why(tmp_path: Path, loaded: LoadedRecipe) -> None:
    folder = place(tmp_path / "images", loaded)
    (one,) = listed(tmp_path / "images")
    assert (one.fault, one.ref.name, one.manifest is not None) == ("", "demo", True)
    assert inspect(folder) == one
    (folder / manifest.DISK).write_text("longer than it was")
    (one,) = listed(tmp_path / "images")
    assert "expected a plain file of" in one.fault
    with pytest.raises(ImageError, match="expected a plain file of"):
        inspect(folder)
    with pytest.raises(ImageError):
        inspect(tmp_path / "nothing")
