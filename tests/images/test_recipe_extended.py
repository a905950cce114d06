"""Recipes that extend others, snapshots, further suites, accounts."""

from pathlib import Path

import pytest

from deskgrid.images.format.recipe import BadRecipe, RecipeFile, RecipeUser, address, load

BASE = """
name = "base"
suite = "trixie"
packages = ["gcc", "make"]
scripts = ["setup"]
memory_bytes = "1GiB"
extra_suites = ["trixie-updates"]
[[files]]
source = "motd"
to = "/etc/motd"
[[files]]
source = "motd"
to = "/etc/issue"
[[users]]
name = "alice"
uid = 1000
"""
EXTENSION = """
name = "longer"
from = "../base/base.toml"
packages = ["make", "gfortran"]
scripts = ["setup"]
disk_bytes = "4GiB"
[[files]]
source = "own"
to = "/etc/motd"
mode = "0600"
[[users]]
name = "alice"
uid = 1001
groups = ["staff"]
[[users]]
name = "bob"
uid = 1002
shell = "/bin/bash"
"""


@pytest.fixture
def longer(tmp_path: Path) -> Path:
    for folder in ("base", "longer"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "setup").write_text(f"#!/bin/sh\n# {folder}\n")
    (tmp_path / "base/motd").write_text("from the base\n")
    (tmp_path / "longer/own").write_text("own\n")
    (tmp_path / "base/base.toml").write_text(BASE)
    path = tmp_path / "longer/longer.toml"
    path.write_text(EXTENSION)
    return path


def faults(folder: Path, text: str) -> tuple[str, ...]:
    path = folder / "recipe.toml"
    path.write_text(text)
    with pytest.raises(BadRecipe) as caught:
        load(path)
    return caught.value.faults


def minimal(more: str) -> str:
    return f'name = "x"\nsuite = "trixie"\n{more}\n'


def test_an_extension_has_what_its_base_has_and_its_own(longer: Path) -> None:
    loaded = load(longer)
    recipe = loaded.recipe
    assert (recipe.name, recipe.suite, recipe.memory_bytes, recipe.disk_bytes) == ("longer", "trixie", 1 << 30, 4 << 30)
    assert recipe.packages == ("gcc", "make", "gfortran")
    assert recipe.extra_suites == ("trixie-updates",)
    assert loaded.scripts == (b"#!/bin/sh\n# base\n", b"#!/bin/sh\n# longer\n")
    assert recipe.files == (RecipeFile("own", "/etc/motd", "0600"), RecipeFile("motd", "/etc/issue"))
    assert loaded.files == (b"own\n", b"from the base\n")
    assert recipe.users == (RecipeUser("alice", 1001, ("staff",)), RecipeUser("bob", 1002, shell="/bin/bash"))


def test_what_an_extension_says_once_wins_over_its_base(longer: Path) -> None:
    longer.write_text(
        EXTENSION.replace("disk_bytes", 'suite = "forky"\nextra_suites = []\nmemory_bytes = 268435456\ndisk_bytes')
    )
    recipe = load(longer).recipe
    assert (recipe.suite, recipe.extra_suites, recipe.memory_bytes) == ("forky", (), 256 << 20)


def test_faults_of_both_recipes_are_told_at_once(longer: Path) -> None:
    base = longer.parent.parent / "base/base.toml"
    base.write_text(BASE.replace('"gcc"', '"g c"'))
    longer.write_text(EXTENSION.replace("1002", "5").replace('"own"', '"gone"'))
    with pytest.raises(BadRecipe) as caught:
        load(longer)
    text = "\n".join(caught.value.faults)
    for expected in ("base.toml): packages[0]: got 'g c'", "users[1].uid: got 5", "files[0].source: got 'gone'"):
        assert expected in text
    assert len(caught.value.faults) == 3


def test_an_extension_must_have_a_name_of_its_own(longer: Path) -> None:
    longer.write_text('from = "../base/base.toml"\n')
    with pytest.raises(BadRecipe, match="name: missing"):
        load(longer)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_recipe_that_comes_back_to_itself_is_refused(tmp_path: Path, length: int) -> None:
    for number in range(length):
        other = (number + 1) % length
        (tmp_path / f"{number}.toml").write_text(f'name = "n{number}"\nsuite = "trixie"\nfrom = "{other}.toml"\n')
    with pytest.raises(BadRecipe, match="expected a recipe that does not lead back here"):
        load(tmp_path / "0.toml")


def test_a_chain_of_recipes_has_an_end(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.toml").write_text(f'name = "n{number}"\nsuite = "trixie"\nfrom = "{number + 1}.toml"\n')
    with pytest.raises(BadRecipe, match="from: got"):
        load(tmp_path / "0.toml")


@pytest.mark.parametrize("named", ["3", '""', '"/etc/passwd"', '"gone.toml"', '"a\\nb"'])
def test_what_can_not_be_extended_is_a_fault(tmp_path: Path, named: str) -> None:
    (fault,) = faults(tmp_path, f'name = "x"\nfrom = {named}\n')
    assert fault.startswith("from")


def test_a_snapshot_needs_a_mirror_that_keeps_old_states(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, minimal('snapshot = "20260901T000000Z"'))
    assert fault.startswith("snapshot: got '20260901T000000Z' with mirror None")
    (fault,) = faults(tmp_path, minimal('mirror = "http://example.org/{snapshot}/"'))
    assert fault.startswith("mirror: got {snapshot} in it but no snapshot")
    (fault,) = faults(tmp_path, minimal('mirror = "http://example.org/{date}/"'))
    assert fault.startswith("mirror: got")
    (fault,) = faults(tmp_path, minimal('snapshot = "2026-09-01"\nmirror = "http://example.org/{snapshot}/"'))
    assert fault.startswith("snapshot: got '2026-09-01'")


def test_a_snapshots_address_has_the_date_and_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    mirror = "http://snapshot.example.org/archive/{archive}/{snapshot}/"
    path.write_text(minimal(f'snapshot = "20260901T000000Z"\nmirror = "{mirror}"\nextra_suites = ["trixie-security"]'))
    recipe = load(path).recipe
    assert address(recipe, "trixie") == "http://snapshot.example.org/archive/debian/20260901T000000Z/"
    assert address(recipe, "trixie-security") == "http://snapshot.example.org/archive/debian-security/20260901T000000Z/"


def test_a_security_suite_is_in_another_archive_than_the_mirrors(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, minimal('mirror = "http://example.org/debian"\nextra_suites = ["trixie-security"]'))
    assert fault.startswith("extra_suites[0]: got 'trixie-security', which is in an archive of its own")


@pytest.mark.parametrize("suites", ['["trixie"]', '["a", "a"]'])
def test_each_suite_is_named_once(tmp_path: Path, suites: str) -> None:
    (fault,) = faults(tmp_path, minimal(f"extra_suites = {suites}"))
    assert "again, expected each suite once" in fault


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ('name = "Alice"\nuid = 1000', "users[1].name: got 'Alice'"),
        ('name = "a:b"\nuid = 1000', "users[1].name: got 'a:b'"),
        ('name = "bob"\nuid = 0', "users[1].uid: got 0"),
        ('name = "bob"\nuid = 2001', "users[1].uid: got 2001, expected none of 2001 to 2032: jobs run as these"),
        ('name = "bob"\nuid = 1234', "users[1].uid: got 1234 again, expected another number than users[0]'s"),
        ('name = "zoe"\nuid = 1000', "users[1].name: got 'zoe' again, expected another name than users[0]'s"),
        ('name = "bob"\nuid = 1000\nshell = "sh"', "users[1].shell: got 'sh'"),
        ('name = "bob"\nuid = 1000\ngroups = ["a,b"]', "users[1].groups[0]: got 'a,b'"),
        ('name = "bob"\nuid = 1000\npassword = "x"', "users[1].password: unknown"),
    ],
)
def test_an_account_that_can_not_be_made_is_a_fault(tmp_path: Path, user: str, expected: str) -> None:
    (fault,) = faults(tmp_path, minimal(f'[[users]]\nname = "zoe"\nuid = 1234\n[[users]]\n{user}'))
    assert fault.startswith(expected)
