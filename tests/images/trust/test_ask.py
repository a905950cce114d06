"""Trust asked from another process, as an agent does, which never imports python-tuf itself."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deskgrid.images.trust.ask import Place, Question, ask, latest, revoked, verified_manifest
from deskgrid.images.trust.errors import Fault
from deskgrid.images.trust.words import Version

from .rig import DAY, NOW, ONE, TWO, Grid, refused, served


@pytest.fixture
def place(grid: Grid, home: Path) -> Place:
    (grid.shelf.folder / "shipped.json").write_bytes(grid.bootstrap)
    return Place(home, grid.shelf.folder / "shipped.json", str(grid.shelf.folder))


def test_an_agent_gets_a_verified_manifest_the_latest_version_and_what_is_revoked(grid: Grid, place: Place) -> None:
    content = grid.publish(ONE, b"\x00\xff" * 1000)
    grid.publish(TWO)
    grid.revoke("einstein-approver", TWO)
    assert verified_manifest(place, ONE, NOW) == content
    assert revoked(place, [ONE, TWO], NOW) == {TWO: "it has a hole"}
    said = refused("revoked", Fault.SIGNERS, lambda: latest(place, ONE, NOW))
    assert said.count("[revoked]") == 1


def test_over_http(grid: Grid, place: Place) -> None:
    content = grid.publish(ONE)
    with served(grid.shelf.folder) as url:
        there = Place(place.folder, place.bootstrap, url)
        assert verified_manifest(there, ONE, NOW) == content
        assert latest(there, ONE, NOW) == ONE
    found = ask(Question(there, "refresh", NOW)).freshness
    assert found is not None
    assert "can't be reached" in found.offline


def test_what_is_wrong_comes_back_with_whose_fault_it_is(grid: Grid, place: Place) -> None:
    grid.publish(ONE)
    refused("expired-timestamp", Fault.REPOSITORY, lambda: verified_manifest(place, ONE, NOW + DAY))
    refused("bad-name", Fault.REQUEST, lambda: verified_manifest(place, Version("..", "x", "1"), NOW))
    none = Place(place.folder, place.bootstrap.with_name("none"), place.repository)
    refused("no-root", Fault.DESKTOP, lambda: verified_manifest(none, ONE, NOW))
    wrong = Place(place.folder, place.bootstrap, "gopher://x")
    refused("bad-url", Fault.REQUEST, lambda: verified_manifest(wrong, ONE, NOW))


def test_what_was_revoked_is_told_also_when_nothing_is_fresh(grid: Grid, place: Place) -> None:
    grid.publish(ONE)
    grid.revoke("einstein-approver", ONE)
    assert ONE in revoked(place, [ONE], NOW)
    assert revoked(place, [ONE], NOW + 900 * DAY) == {ONE: "it has a hole"}


def test_a_check_that_takes_too_long_is_given_up(grid: Grid, place: Place) -> None:
    grid.publish(ONE)
    refused("slow", Fault.NETWORK, lambda: ask(Question(place, "refresh", datetime.now(UTC)), within_seconds=0.001))


def test_a_check_that_dies_is_a_sentence_and_its_reason_is_logged(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    question = Question(place, "refresh", NOW.replace(tzinfo=None))  # no time without its zone is understood
    refused("no-answer", Fault.DESKTOP, lambda: ask(question))
    assert "check ended with" in caplog.text


def test_asking_and_the_command_line_import_nothing_heavy() -> None:
    code = (
        "import sys, deskgrid.images.trust.ask, deskgrid.cli.trust\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tuf', 'securesystemslib', 'pkcs11')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
