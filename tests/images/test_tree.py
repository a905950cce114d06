"""What mmdebstrap is given beside the recipe's packages: which suites, and what makes accounts in the tree."""

import io
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from deskgrid.images.build.tree import FACTS, SOURCES, USERS, in_plain_words, suites, wanted_packages, write_hook
from deskgrid.images.format.recipe import LoadedRecipe, Recipe, RecipeUser

WRITTEN = """\
deb [signed-by="/a b/keys.gpg"] http://m.example.org/debian trixie main contrib
deb [signed-by="/a b/keys.gpg"] http://m.example.org/debian trixie-updates main contrib
deb http://s.example.org/debian-security trixie-security main contrib
"""


def listed(folder: Path, wanted: str, written: str = WRITTEN) -> list[str]:
    """What APT's list is after the hook."""
    root = folder / "root"
    (root / "etc/apt").mkdir(parents=True)
    (root / "etc/apt/sources.list").write_text(written)
    (folder / "sources").write_bytes(SOURCES.read_bytes())
    (folder / "suites").write_text(wanted)
    subprocess.run(["sh", str(folder / "sources"), str(root)], check=True, timeout=20)
    return (root / "etc/apt/sources.list").read_text().splitlines()


def test_the_suite_alone_is_left_when_no_other_is_asked_for(tmp_path: Path) -> None:
    assert listed(tmp_path, "trixie\n") == WRITTEN.splitlines()[:1]


def test_suites_that_mmdebstrap_knows_stay_as_it_wrote_them_and_others_become_like_the_first(tmp_path: Path) -> None:
    lines = WRITTEN.splitlines()
    assert listed(tmp_path, "trixie\ntrixie-security\ntrixie-backports\n") == [
        lines[0],
        lines[2],
        lines[0].replace("trixie", "trixie-backports"),
    ]


def test_an_archive_of_its_own_has_its_address(tmp_path: Path) -> None:
    found = listed(
        tmp_path, "trixie\nx-security http://q.example.org/s/2026/\n", "deb http://m.example.org/d trixie main\n"
    )
    assert found == ["deb http://m.example.org/d trixie main", "deb http://q.example.org/s/2026/ x-security main"]


def recipe(**more: object) -> Recipe:
    return Recipe(name="x", suite="trixie", **more)  # type: ignore[arg-type]


def test_what_is_unsaid_is_left_to_mmdebstrap() -> None:
    assert suites(recipe(), mirror_is_given=False) is None
    assert suites(recipe(extra_suites=()), mirror_is_given=False) == "trixie\n"


def test_the_environments_mirror_comes_before_the_recipes() -> None:
    dated = recipe(mirror="http://a/{archive}/{snapshot}", snapshot="20260901T000000Z", extra_suites=("t-security",))
    assert suites(dated, mirror_is_given=False) == (
        "trixie http://a/debian/20260901T000000Z\nt-security http://a/debian-security/20260901T000000Z\n"
    )
    assert suites(dated, mirror_is_given=True) == "trixie\nt-security\n"


def test_accounts_are_handed_over_as_data(tmp_path: Path) -> None:
    users = (RecipeUser("alice", 1000, ("a", "b"), "/bin/bash"), RecipeUser("bob", 1001))
    loaded = LoadedRecipe("here", recipe(users=users), (), ())
    write_hook(loaded, tmp_path)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "files.tar").read_bytes())) as tar:
        file = tar.extractfile("usr/lib/deskgrid/build/users.list")
        assert file is not None
        assert file.read() == b"alice:1000:/bin/bash:a,b\nbob:1001:/bin/sh:\n"
    assert "passwd" in wanted_packages(loaded.recipe)


@pytest.mark.parametrize("program", [SOURCES, USERS, FACTS])
def test_what_runs_in_the_tree_parses(program: Path) -> None:
    assert subprocess.run(["sh", "-n", str(program)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("E: users: bob could not be made; is the name taken?; E: hook", "users: bob could not be made"),
        (
            "E: The repository 'http://x y-updates Release' does not have a Release file.",
            "extra_suites: got 'y-updates', which the mirror does not have",
        ),
        (
            " golang-go : Depends: golang-src (>= 2:1.27) but 2:1.24 is to be installed; E: Unable to correct problems",
            "golang-go depends on golang-src (>= 2:1.27) but 2:1.24 is to be installed; if another suite has the right "
            "one, name it too, such as golang-src/",
        ),
        ("E: Release 'sid' for 'golang-go' was not found; E: hook", "packages: got golang-go/sid, which is not there"),
    ],
)
def test_what_mmdebstrap_says_becomes_a_sentence(said: str, expected: str) -> None:
    loaded = LoadedRecipe("here", msgspec.structs.replace(recipe(), extra_suites=("y-updates",)), (), ())
    assert expected in (in_plain_words(said, loaded) or "")
