"""What is drawn from the code is current, and what is said of commands is true."""

import re
from pathlib import Path

import pytest

from deskgrid.agent.settings import AgentSettings
from deskgrid.cli.main import app
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.images.format.recipe import Recipe
from tools.drawings.manual import commands_page, rows, settings_page

ROOT = Path(__file__).resolve().parents[2]
HINT = "run `make docs`"


def test_the_page_of_settings_is_current() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_page(), HINT


def test_the_page_of_commands_is_current() -> None:
    assert (ROOT / "docs/commands.md").read_text() == commands_page(app), HINT


@pytest.mark.parametrize("kind", [AgentSettings, CoordinatorSettings, Recipe])
def test_every_setting_is_explained(kind: type) -> None:
    assert [key for key, _, _, text in rows(kind) if not text] == []


def test_every_command_in_the_readme_exists() -> None:
    known = set(re.findall(r"^\| `(deskgrid(?: [a-z-]+)+)", commands_page(app), re.MULTILINE))
    said = re.findall(r"^deskgrid ((?:[a-z-]+ ?)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert said
    for line in said:
        words = line.split()
        assert any(" ".join(["deskgrid", *words[:n]]) in known for n in (1, 2)), line


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    rooms = [path.name for path in (ROOT / "src/deskgrid").iterdir() if path.is_dir()]
    for name in re.findall(rf"`((?:{'|'.join(rooms)})/[a-z_/]+(?:\.py)?)`", text):
        assert (ROOT / "src/deskgrid" / name).exists(), name
    for name in re.findall(r"\b(docs/[a-z_-]+\.md|[A-Z]{5,}\.md)\b", text):
        assert (ROOT / name).exists(), name
