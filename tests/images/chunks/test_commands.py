"""`deskgrid image publish` and `deskgrid image store`, as a person types them."""

import json
from pathlib import Path

import pytest

from deskgrid.cli.main import run
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import PackFolder
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest
from deskgrid.images.format.recipe import Recipe
from deskgrid.images.store.store import ChunkStore
from tests.images.chunks.ground import ROOMY, content


def _built(images: Path) -> Path:
    """An image's folder, as `image build` would make it."""
    work = images / "work"
    work.mkdir(parents=True)
    for number, file in enumerate((manifest.DISK, manifest.KERNEL, manifest.INITRD)):
        (work / file).write_bytes(content(number, 200))
    disk, kernel, initrd = (manifest.measure(work / file) for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD))
    recipe = Recipe(name="demo", suite="trixie")
    made = manifest.encode(Manifest("demo", 1 << 29, 1 << 30, "quiet", disk, kernel, initrd, (), recipe, "a" * 64))
    (work / manifest.FILE).write_bytes(made)
    (images / "demo").mkdir()
    return work.rename(images / "demo" / manifest.digest(made))


def test_an_image_is_published_fetched_checked_and_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, key, store = _built(tmp_path / "images"), tmp_path / "key", tmp_path / "store"
    reads = tmp_path / "reads.json"
    reads.write_text("[100000, 0]")
    words = ["image", "publish", str(folder), str(tmp_path / "web"), "--project", "lab", "--version", "1", "--no-trial"]
    words += ["--key", str(key), "--first-reads", str(reads), "--json"]
    assert run([*words, "--new-key"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["new_packs"] == 1 and Path(made["manifest"]).parent == folder  # on the researcher's own side
    assert made["sha256"] == manifest.digest(Path(made["manifest"]).read_bytes())
    assert run(words) == 0 and json.loads(capsys.readouterr().out)["new_bytes"] == 0
    opened = ChunkStore(store, ROOMY)
    with opened.admit(Path(made["manifest"]).read_bytes()) as image:
        Fetcher(opened, image, [PackFolder(tmp_path / "web")]).whole()
    opened.close()
    for command in ("status", "verify", "gc"):
        assert run(["image", "store", command, str(store)]) == 0
        assert run(["image", "store", command, str(store), "--json"]) == 0
    assert "0 damaged" in capsys.readouterr().out


def test_a_folder_that_is_no_store_is_said_to_be_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "store", "status", str(tmp_path)]) == 5
    assert "there is none" in capsys.readouterr().err
