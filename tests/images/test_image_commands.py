"""`deskgrid image init|inspect|diff|import|build`, as a person types them."""

import json
import shutil
from pathlib import Path

import pytest

from deskgrid.cli.main import run
from deskgrid.images.build import contents, sbom
from deskgrid.images.build.contents import TreeEntry
from deskgrid.images.build.sbom import Deb
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest, Package
from deskgrid.images.format.recipe import Recipe


def place(images: Path, version: str, mode: int = 0o644) -> Path:
    """An image's folder with one package, as `image build` would make it."""
    work = images / "work"
    work.mkdir(parents=True)
    for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD):
        (work / file).write_text(file + version)
    (work / manifest.SBOM).write_bytes(sbom.document("demo", "trixie", [Deb("gcc", version, "amd64", "gcc", "a" * 64)]))
    entry = TreeEntry("etc/motd", "file", mode, 0, 0, 3, "b" * 64)
    (work / manifest.CONTENTS).write_bytes(contents.encode([entry]))
    facts = {
        file: manifest.measure(work / file) for file in ("disk.raw", "kernel", "initrd", "sbom.json", "files.mtree")
    }
    made = Manifest(
        name="demo",
        memory_bytes=1 << 29,
        disk_bytes=1 << 30,
        cmdline="",
        disk=facts["disk.raw"],
        kernel=facts["kernel"],
        initrd=facts["initrd"],
        packages=(Package("gcc", version),),
        recipe=Recipe(name="demo", suite="trixie"),
        inputs="a" * 64,
        sbom=facts["sbom.json"],
        contents=facts["files.mtree"],
    )
    encoded = manifest.encode(made)
    (work / manifest.FILE).write_bytes(encoded)
    folder = images / "demo" / manifest.digest(encoded)
    folder.parent.mkdir(exist_ok=True)
    return work.rename(folder)


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    return place(tmp_path, "14"), place(tmp_path, "15", mode=0o600)


def test_a_first_recipe_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["image", "init", "mine", "--folder", str(tmp_path)]
    assert run(words) == 0
    assert "deskgrid image build" in capsys.readouterr().out
    assert run(words) == 1
    assert "nothing is overwritten" in capsys.readouterr().err


def test_what_changed_is_shown_for_people_and_for_programs(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = map(str, two)
    assert run(["image", "diff", old, new]) == 0
    said = capsys.readouterr().out
    assert "packages changed version: 1" in said
    assert ("/etc/motd" in said, "0600" in said) == (True, True)
    assert run(["image", "diff", old, new, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["changed"] == [{"what": "gcc", "old": "14", "new": "15"}]
    assert told["files"] == [{"what": "/etc/motd", "old": "0644", "new": "0600"}]


def test_an_image_is_named_by_name_and_the_first_digits(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    images = str(two[0].parent.parent)
    words = [f"demo@{folder.name[:12]}" for folder in two]
    assert run(["image", "diff", *words, "--images", images, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"]
    assert run(["image", "diff", "demo", "demo", "--images", images]) == 0
    assert "the two images are the same" in capsys.readouterr().out
    assert run(["image", "inspect", "gone", "--images", images]) == 1
    assert "there is none in" in capsys.readouterr().err


def test_the_bill_of_materials_is_printed_as_it_was_recorded(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["image", "inspect", str(two[0]), "--sbom"]) == 0
    assert capsys.readouterr().out.encode() == (two[0] / manifest.SBOM).read_bytes()


def test_an_image_whose_lists_were_changed_is_not_compared(
    two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = two[0] / manifest.CONTENTS
    path.write_bytes(path.read_bytes().replace(b"0644", b"0777"))
    assert run(["image", "diff", *map(str, two)]) == 1
    assert "got other content than the image had" in capsys.readouterr().err


def test_faults_of_a_recipe_end_with_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.toml").write_text('name = "x y"\nfrom = "r.toml"\n')
    assert run(["image", "build", str(tmp_path / "r.toml")]) == 2
    said = capsys.readouterr().err
    assert "name: got 'x y'" in said
    assert "lead back here" in said


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_bad_disk_or_memory_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["image", "import", str(tmp_path / "gone"), "--name", "x"]) == 1
    assert "there is no such file" in capsys.readouterr().err
    assert run(["image", "import", str(tmp_path), "--name", "x", "--memory", "lots"]) == 1
    assert "--memory: got 'lots'" in capsys.readouterr().err
