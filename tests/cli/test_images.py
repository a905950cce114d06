"""`deskgrid images` and what `coordinator status` says of them, asked at a coordinator with a signed repository."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deskgrid.cli.output import Exit
from tests.coordinator.lab import Lab
from tests.coordinator.running import Service, service
from tests.waiting import eventually

from .conftest import Command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Lab, Path]]:
    folder = tmp_path_factory.mktemp("images")
    lab = Lab(folder / "lab", datetime.now(UTC))
    lab.publish("einstein/search/1.0")
    lab.publish("einstein/search/2.0")
    lab.propose("einstein/search/3.0")
    with service(folder / "state", images=lab.settings) as running:
        file = folder / "coordinator.toml"
        file.write_text(f'port = {running.at.url.rsplit(":", 1)[1]}\nstate_dir = "{folder / "state"}"\n')
        eventually(lambda: running.operator.images(), "the images")
        yield running, lab, file


def test_the_images_are_a_table_with_what_is_wrong_below(deskgrid: Command, here: tuple[Service, Lab, Path]) -> None:
    said = deskgrid("images", "--settings", here[2])
    assert said.code == 0
    head, *lines = said.out.splitlines()
    assert head.split()[:4] == ["image", "version", "digest", "state"]
    assert [line.split()[:2] for line in lines[:3]] == [["einstein/search", f"{number}.0"] for number in (1, 2, 3)]
    assert "older" in lines[0]
    assert "on offer" in lines[1]
    assert "rita (" in lines[1]
    assert "unsigned" in lines[2]
    assert lines[3].startswith("- einstein/search/3.0 waits for the signature of paul (")
    assert lines[-1].startswith("without news nothing new starts after ")


def test_for_programs_they_are_json(deskgrid: Command, here: tuple[Service, Lab, Path]) -> None:
    found = deskgrid("images", "--json", "--settings", here[2]).json()
    assert isinstance(found, dict)
    assert [version["version"] for version in found["versions"]] == ["1.0", "2.0", "3.0"]
    assert found["problems"] == []


def test_problems_stand_under_the_images_and_in_the_status(deskgrid: Command, here: tuple[Service, Lab, Path]) -> None:
    running, lab, file = here
    key = lab.keys / "einstein.key"
    key.chmod(0o640)
    try:
        eventually(lambda: running.operator.status().image_problems, "the problem")
        for command in (("images",), ("coordinator", "status")):
            assert "got mode 640, expected 600; chmod it" in deskgrid(*command, "--settings", file).out
    finally:
        key.chmod(0o600)
    eventually(lambda: not running.operator.status().image_problems, "no problem")


def test_without_a_repository_the_status_says_that_no_image_is_on_offer(deskgrid: Command, tmp_path: Path) -> None:
    from deskgrid.coordinator.settings import ImageSettings

    with service(tmp_path / "state", images=ImageSettings()) as running:
        file = tmp_path / "coordinator.toml"
        file.write_text(f'port = {running.at.url.rsplit(":", 1)[1]}\nstate_dir = "{tmp_path / "state"}"\n')
        eventually(lambda: running.operator.status().image_problems, "a look")
        said = deskgrid("coordinator", "status", "--settings", file)
        assert "images: no image is on offer, since images.repository is not set" in said.out
        assert deskgrid("images", "--settings", file).code == Exit.DONE
