"""Recipes: every fault of a file is named at once, and none can reach out of its folder or the image."""

import os
from pathlib import Path

import pytest

from deskgrid.images.build.tree import preferences, wanted_packages
from deskgrid.images.format.recipe import BadRecipe, Recipe, RecipeFile, load

GOOD = """
name = "its-sl6"
suite = "trixie"
packages = ["gcc", "libstdc++6"]
scripts = ["setup"]
disk_bytes = "4GiB"
memory_bytes = "768 MiB"
components = ["main", "contrib"]
mirror = "https://deb.example.org/debian"

[[files]]
source = "etc/motd"
to = "/etc/motd"
mode = "0600"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc/motd").write_text("hello\n")
    (folder / "setup").write_text("#!/bin/sh\ntrue\n")
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def faults(folder: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(BadRecipe) as caught:
        load(write(folder, text))
    assert caught.value.where == str(folder / "recipe.toml")
    return caught.value.faults


def minimal(more: str) -> str:
    return f'name = "x"\nsuite = "trixie"\n{more}\n'


def test_a_recipe_comes_with_the_content_of_what_it_names(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    assert loaded.recipe == Recipe(
        name="its-sl6",
        suite="trixie",
        packages=("gcc", "libstdc++6"),
        scripts=("setup",),
        disk_bytes=4 << 30,
        memory_bytes=768 << 20,
        components=("main", "contrib"),
        mirror="https://deb.example.org/debian",
        files=(RecipeFile("etc/motd", "/etc/motd", "0600"),),
    )
    assert loaded.files == (b"hello\n",)
    assert loaded.scripts == (b"#!/bin/sh\ntrue\n",)


def test_all_faults_of_a_recipe_are_named_at_once_with_their_paths(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        'name = "no good"\nsuit = "trixie"\npackages = ["gcc", "rm -rf", 3]\nscripts = ["gone", "../x"]\n'
        'disk_bytes = "1MiB"\n[[files]]\nsource = "gone"\nto = "etc/motd"\nmod = "0644"\n'
        '[[files]]\nsource = "etc/motd"\nto = "/a"\n[[files]]\nsource = "etc/motd"\nto = "/a"\n',
    )
    text = "\n".join(found)
    for expected in (
        "name: got 'no good'",
        "suit: unknown, did you mean 'suite'?",
        "suite: missing",
        "packages[1]: got 'rm -rf'",
        "packages[2]: got 3",
        "scripts[0]: got 'gone', expected a file beside the recipe",
        "scripts[1]: got '../x'",
        "disk_bytes: got ",
        "files[0].source: got 'gone', expected a file beside the recipe",
        "files[0].to: got 'etc/motd'",
        "files[0].mod: unknown, did you mean 'mode'?",
        "files[2].to: got '/a' again, expected another path than files[1]'s",
    ):
        assert expected in text, (expected, found)
    assert len(found) == 12


@pytest.mark.parametrize(
    "to",
    ["/../etc/shadow", "/etc/../../x", "etc/x", "/", "/etc/", "//etc/x", "/etc/./x", "/etc/x/..", "/a\\nb", ""],
)
def test_a_file_can_only_go_to_a_plain_absolute_path(tmp_path: Path, to: str) -> None:
    (fault,) = faults(tmp_path, minimal(f'[[files]]\nsource = "etc/motd"\nto = "{to}"'))
    assert fault.startswith("files[0].to: got")


@pytest.mark.parametrize("source", ["../secret", "/etc/passwd", "etc/../../secret", ".", "etc/", ""])
def test_a_source_can_not_leave_the_recipes_folder_by_its_name(tmp_path: Path, source: str) -> None:
    (fault,) = faults(tmp_path, minimal(f'[[files]]\nsource = "{source}"\nto = "/x"'))
    assert fault.startswith("files[0].source: got")


def test_a_source_can_not_leave_the_recipes_folder_by_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("x")
    (inside / "link").symlink_to("../secret")
    (fault,) = faults(inside, minimal('[[files]]\nsource = "link"\nto = "/x"'))
    assert "leads out of the recipe's folder" in fault


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, minimal('[[files]]\nsource = "etc"\nto = "/x"'))
    assert "files[0].source: got 'etc'" in fault


def test_a_pipe_or_a_device_is_no_source_and_no_recipe_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (fault,) = faults(tmp_path, minimal('scripts = ["pipe"]'))
    assert fault.startswith("scripts[0]: got 'pipe'") and fault.endswith("it is no plain file")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(BadRecipe, match="it is no plain file"):
            load(path)
    (fault,) = faults(tmp_path, minimal('from = "pipe"'))
    assert "it is no plain file" in fault


def test_a_script_needs_an_interpreter(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, minimal('scripts = ["etc/motd"]'))
    assert fault == "scripts[0]: got 'etc/motd' without an interpreter, expected a first line like #!/bin/sh"


@pytest.mark.parametrize("mirror", ["ftp://x", "https://a b", "-o Foo=bar", "https://x\\nfoo"])
def test_a_mirror_is_one_address(tmp_path: Path, mirror: str) -> None:
    (fault,) = faults(tmp_path, minimal(f'mirror = "{mirror}"'))
    assert fault.startswith("mirror: got")


@pytest.mark.parametrize("mode", ["4755", "0999", "rw", "644x"])
def test_a_mode_is_three_octal_digits_without_special_bits(tmp_path: Path, mode: str) -> None:
    (fault,) = faults(tmp_path, minimal(f'[[files]]\nsource = "etc/motd"\nto = "/x"\nmode = "{mode}"'))
    assert fault.startswith("files[0].mode: got")


def test_a_missing_recipe_and_one_that_is_no_toml_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadRecipe, match="cannot be read: No such file"):
        load(tmp_path / "gone.toml")
    (fault,) = faults(tmp_path, "name = ")
    assert "not valid TOML" in fault


def test_the_demos_recipe_has_no_faults() -> None:
    assert load(Path(__file__).parents[2] / "recipes/demo.toml").recipe.name == "demo"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (b"#!/bin/sh\r\ntrue\r\n", "with line ends of Windows (CR LF)"),
        (b"#!/bin/sh\ntrue\r\nfalse\r\ntrue\r\n", "with line ends of Windows (CR LF)"),
        (b"\xef\xbb\xbf#!/bin/sh\ntrue\n", "with a byte order mark"),
    ],
)
def test_a_script_that_linux_would_not_run_is_told_before_anything_is_built(
    tmp_path: Path, script: bytes, said: str
) -> None:
    (tmp_path / "own").write_bytes(script)
    (fault,) = faults(tmp_path, minimal('scripts = ["own"]'))
    assert fault.startswith("scripts[0]: got 'own' with ") and said in fault


def test_a_recipe_may_begin_with_a_byte_order_mark_and_have_line_ends_of_windows(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_bytes(b'\xef\xbb\xbfname = "demo"\r\nsuite = "trixie"\r\n')
    assert load(tmp_path / "recipe.toml").recipe.name == "demo"


def test_faults_are_told_in_words_and_never_as_patterns(tmp_path: Path) -> None:
    wrong = 'packages = ["gcc; reboot"]\nmirror = "ftp://x"\nsnapshot = "yesterday"\ncomponents = ["Main"]'
    told = faults(tmp_path, minimal(wrong))
    assert len(told) == 4
    assert not any("regex" in fault for fault in told)
    assert "packages[0]: got 'gcc; reboot', expected a package of Debian such as gcc" in told[0]


def test_a_package_may_name_its_suite_and_suites_have_priorities(tmp_path: Path) -> None:
    suites = 'extra_suites = ["trixie-backports", "sid"]\npriorities = {sid = 100}'
    recipe = load(write(tmp_path, minimal(f'packages = ["golang-go/trixie-backports"]\n{suites}'))).recipe
    assert preferences(recipe) == "Package: *\nPin: release n=sid\nPin-Priority: 100\n"
    assert "golang-go/trixie-backports" in wanted_packages(recipe)
    wrong = 'packages = ["a-b/sid"]\npriorities = {forky = 1}\nextra_suites = ["trixie-updates"]'
    told = faults(tmp_path, minimal(wrong))
    assert [fault.split(",")[0] for fault in told] == ["packages (a-b/sid): got 'sid'", "priorities: got 'forky'"]
