"""`image init`: a first recipe that has no faults, and never overwrites."""

from pathlib import Path

import pytest

from deskgrid.images.build.starter import write
from deskgrid.images.contract import ImageError
from deskgrid.images.format.recipe import load


def test_a_first_recipe_has_no_faults(tmp_path: Path) -> None:
    recipe, script = write("its-sl6", tmp_path)
    loaded = load(recipe)
    assert loaded.recipe.name == "its-sl6"
    assert loaded.scripts == (script.read_bytes(),)
    assert script.stat().st_mode & 0o777 == 0o755


def test_every_commented_line_of_it_is_valid_too(tmp_path: Path) -> None:
    recipe, _ = write("x", tmp_path)
    (tmp_path / "motd").write_text("")
    (tmp_path / "other.toml").write_text('name = "other"\nsuite = "trixie"\n')
    lines = recipe.read_text().splitlines()
    opened = [line[2:] if line.startswith("# ") and (" = " in line or "[[" in line) else line for line in lines]
    text = "\n".join(opened).replace("mirror.example.org/debian", "mirror.example.org/{snapshot}")
    recipe.write_text(text)
    loaded = load(recipe).recipe
    assert (loaded.users[0].name, loaded.files[0].to, loaded.snapshot) == ("alice", "/etc/motd", "20260901T000000Z")


@pytest.mark.parametrize("there", ["x.toml", "x.sh"])
def test_nothing_is_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    with pytest.raises(ImageError, match="nothing is overwritten"):
        write("x", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize("name", ["../x", "a b", "", "x/y"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="image name: got"):
        write(name, tmp_path)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a folder that can be written"):
        write("x", tmp_path / "gone")
