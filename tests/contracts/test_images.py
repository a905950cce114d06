"""Every image store keeps the contract: the fake, and folders with real files."""

import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from deskgrid.images import manifest
from deskgrid.images.contract import ImageError, ImageStore
from deskgrid.images.fake import FakeStore
from deskgrid.images.manifest import Manifest, Package
from deskgrid.images.recipe import Recipe
from deskgrid.images.store import FolderStore, facts_of
from deskgrid.model.image import ImageFacts, ImageRef

UNKNOWN = ImageRef("gone", "0" * 64)


def place(images: Path, name: str = "demo", text: str = "disk") -> Path:
    """Write an image of a few bytes as `build` would; returns its folder."""
    work = images / "work"
    work.mkdir(parents=True)
    for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD):
        (work / file).write_text(f"{text} {file}")
    content = Manifest(
        name=name,
        memory_bytes=512 << 20,
        disk_bytes=1 << 30,
        cmdline="quiet",
        disk=manifest.measure(work / manifest.DISK),
        kernel=manifest.measure(work / manifest.KERNEL),
        initrd=manifest.measure(work / manifest.INITRD),
        packages=(Package("condor", "23"),),
        recipe=Recipe(name=name, suite="trixie"),
        inputs="a" * 64,
    )
    encoded = manifest.encode(content)
    (work / manifest.FILE).write_bytes(encoded)
    folder = images / name / manifest.digest(encoded)
    folder.parent.mkdir(exist_ok=True)
    work.rename(folder)
    return folder


class Rig:
    """A store with one image, and a way to damage it."""

    def __init__(self, store: ImageStore, facts: ImageFacts, damage: Callable[[], None]) -> None:
        self.store, self.facts, self.damage = store, facts, damage


@pytest.fixture(params=["fake", "folder"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Rig:
    folder = place(tmp_path / "images")
    facts = facts_of(folder)
    if request.param == "fake":
        fake = FakeStore(tmp_path / "opened", held=[facts])
        return Rig(fake, facts, lambda: fake.damage(facts.ref))

    def damage() -> None:
        disk = folder / manifest.DISK
        disk.write_text(disk.read_text().upper())

    return Rig(FolderStore(tmp_path / "images", tmp_path / "checked.json"), facts, damage)


def test_what_is_wholly_here_is_held(rig: Rig) -> None:
    assert list(rig.store.held()) == [rig.facts]


def test_fetching_again_does_nothing(rig: Rig) -> None:
    rig.store.fetch(rig.facts.ref)
    rig.store.fetch(rig.facts.ref)
    assert list(rig.store.held()) == [rig.facts]


def test_an_open_image_has_its_files(rig: Rig) -> None:
    rig.store.fetch(rig.facts.ref)
    opened = rig.store.open(rig.facts.ref)
    assert opened.facts == rig.facts
    assert opened.disk.is_file()
    assert opened.kernel is not None and opened.kernel.is_file()
    assert opened.initrd is not None and opened.initrd.is_file()
    rig.store.close(rig.facts.ref)
    rig.store.close(rig.facts.ref)


def test_an_unknown_image_is_refused_with_what_to_do(rig: Rig) -> None:
    for ask in (rig.store.fetch, rig.store.open):
        with pytest.raises(ImageError, match=r"gone 000000000000…: not .+; .+"):
            ask(UNKNOWN)


def test_the_digest_counts_not_only_the_name(rig: Rig) -> None:
    with pytest.raises(ImageError):
        rig.store.fetch(ImageRef(rig.facts.ref.name, "f" * 64))


def test_a_damaged_image_is_never_given_out_nor_held_any_more(rig: Rig) -> None:
    rig.damage()
    with pytest.raises(ImageError, match="damaged"):
        rig.store.fetch(rig.facts.ref)
    with pytest.raises(ImageError, match="damaged"):
        rig.store.open(rig.facts.ref)
    assert list(rig.store.held()) == []


def test_an_image_damaged_after_it_was_checked_is_noticed(rig: Rig) -> None:
    rig.store.fetch(rig.facts.ref)
    rig.damage()
    with pytest.raises(ImageError):
        rig.store.open(rig.facts.ref)


def test_many_threads_may_ask_at_once(rig: Rig) -> None:
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                rig.store.fetch(rig.facts.ref)
                rig.store.open(rig.facts.ref)
                rig.store.held()
                rig.store.close(rig.facts.ref)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


# What only folders can do.


def test_an_image_that_was_copied_again_is_trusted_again(tmp_path: Path) -> None:
    folder = place(tmp_path / "images")
    store, facts = FolderStore(tmp_path / "images"), facts_of(folder)
    disk = folder / manifest.DISK
    good = disk.read_text()
    disk.write_text(good.upper())
    with pytest.raises(ImageError):
        store.fetch(facts.ref)
    disk.unlink()
    disk.write_text(good)
    store.fetch(facts.ref)
    assert list(store.held()) == [facts]


def test_what_was_checked_is_remembered_by_another_process(tmp_path: Path) -> None:
    folder = place(tmp_path / "images")
    facts, memory = facts_of(folder), tmp_path / "checked.json"
    FolderStore(tmp_path / "images", memory).fetch(facts.ref)
    assert memory.stat().st_mode & 0o777 == 0o600
    stamps = msgspec.json.decode(memory.read_bytes())[facts.ref.digest]
    assert set(stamps) == {manifest.DISK, manifest.KERNEL, manifest.INITRD}
    (folder / manifest.DISK).chmod(0)  # it can't be read again, at least by who is not root
    FolderStore(tmp_path / "images", memory).open(facts.ref)


@pytest.mark.parametrize("content", [b"", b"nonsense", b'{"x": 3}', b"[]"])
def test_a_broken_memory_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    facts, memory = facts_of(place(tmp_path / "images")), tmp_path / "checked.json"
    memory.write_bytes(content)
    FolderStore(tmp_path / "images", memory).open(facts.ref)


@pytest.mark.parametrize("file", [manifest.DISK, manifest.KERNEL, manifest.INITRD, manifest.FILE])
def test_an_image_with_a_missing_file_is_not_held(tmp_path: Path, file: str) -> None:
    folder = place(tmp_path / "images")
    facts = facts_of(folder)
    (folder / file).unlink()
    store = FolderStore(tmp_path / "images")
    assert list(store.held()) == []
    with pytest.raises(ImageError):
        store.fetch(facts.ref)


def test_a_file_of_another_length_or_a_link_is_refused_without_reading_it(tmp_path: Path) -> None:
    folder = place(tmp_path / "images")
    facts, disk = facts_of(folder), folder / manifest.DISK
    store = FolderStore(tmp_path / "images")
    disk.rename(tmp_path / "elsewhere")
    disk.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ImageError, match="expected a plain file"):
        store.fetch(facts.ref)
    disk.unlink()
    disk.write_text("short")
    with pytest.raises(ImageError, match=r"got -rw.* of 5 bytes, expected a plain file of"):
        store.fetch(facts.ref)


def test_a_manifest_that_was_changed_is_refused(tmp_path: Path) -> None:
    folder = place(tmp_path / "images")
    facts = facts_of(folder)
    (folder / manifest.FILE).write_bytes((folder / manifest.FILE).read_bytes().replace(b"quiet", b"init=x"))
    store = FolderStore(tmp_path / "images")
    assert list(store.held()) == []
    with pytest.raises(ImageError, match="it was changed"):
        store.fetch(facts.ref)


@pytest.mark.parametrize(
    "ref",
    [
        ImageRef("..", "0" * 64),
        ImageRef("a/b", "0" * 64),
        ImageRef("demo", ".."),
        ImageRef("demo", "../" + "0" * 61),
        ImageRef("demo", "A" * 64),
        ImageRef("/etc", "0" * 64),
        ImageRef("demo\0", "0" * 64),
    ],
)
def test_a_reference_can_not_lead_out_of_the_folder(tmp_path: Path, ref: ImageRef) -> None:
    place(tmp_path / "images")
    store = FolderStore(tmp_path / "images")
    for ask in (store.fetch, store.open):
        with pytest.raises(ImageError, match=r"image (name|digest): got"):
            ask(ref)


def test_folders_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    folder = place(tmp_path / "images")
    for other in ("demo/latest", ".demo.work/x", "bad name/" + "0" * 64):
        (tmp_path / "images" / other).mkdir(parents=True)
        (tmp_path / "images" / other / manifest.FILE).write_bytes((folder / manifest.FILE).read_bytes())
    assert list(FolderStore(tmp_path / "images").held()) == [facts_of(folder)]
    assert list(FolderStore(tmp_path / "nothing").held()) == []


def test_an_image_that_can_be_fetched_comes_to_be_held_by_a_fake(tmp_path: Path) -> None:
    facts = ImageFacts(ImageRef("later", "1" * 64), 1, 2)
    store = FakeStore(tmp_path, fetchable=[facts])
    assert list(store.held()) == []
    with pytest.raises(ImageError, match="fetch it first"):
        store.open(facts.ref)
    store.fetch(facts.ref)
    assert list(store.held()) == [facts]
