"""What changed between two images, told for people."""

import msgspec
import pytest

from deskgrid.images.build.contents import TreeEntry
from deskgrid.images.build.differ import Change, Side, cause, compare
from deskgrid.images.format.manifest import FileFacts, Imported, Manifest, Package
from deskgrid.images.format.recipe import Recipe

FACTS = FileFacts(10, "a" * 64)


def manifest(**changed: object) -> Manifest:
    known: dict[str, object] = {
        "name": "demo",
        "memory_bytes": 1 << 29,
        "disk_bytes": 10,
        "cmdline": "",
        "disk": FACTS,
        "kernel": FACTS,
        "initrd": FACTS,
        "packages": (Package("condor", "1"), Package("gcc", "14"), Package("old", "1")),
        "recipe": Recipe(name="demo", suite="trixie"),
        "inputs": "b" * 64,
    }
    return Manifest(**(known | changed))  # type: ignore[arg-type]


FILES = {
    entry.path: entry
    for entry in (
        TreeEntry("etc/a", "file", 0o644, 0, 0, 5, "1" * 64),
        TreeEntry("etc/b", "file", 0o644, 0, 0, 5, "2" * 64),
        TreeEntry("etc/c", "link", 0o777, 0, 0, link="a"),
        TreeEntry("etc/gone", "file", 0o644, 0, 0, 5, "3" * 64),
    )
}
OLD = Side(manifest(), {"gcc:amd64": "x", "condor:amd64": "y"}, FILES)


def test_an_image_is_the_same_as_itself() -> None:
    found = compare(OLD, OLD)
    assert found.same
    assert not (found.added or found.removed or found.changed or found.rebuilt or found.recipe or found.files)


def test_packages_that_came_went_changed_or_were_built_again() -> None:
    packages = (Package("condor", "1"), Package("gcc", "15"), Package("new", "2"))
    found = compare(OLD, Side(manifest(packages=packages), {"gcc:amd64": "z", "condor:amd64": "w"}, FILES))
    assert found.added == (Change("new", "", "2"),)
    assert found.removed == (Change("old", "1", ""),)
    assert found.changed == (Change("gcc", "14", "15"),)
    assert found.rebuilt == ("condor",)
    assert "packages differ: new, old, gcc;" in cause(found)


def test_fields_of_the_recipe_and_sizes() -> None:
    recipe = Recipe(name="demo", suite="trixie", packages=("gcc", "make"), memory_bytes=1 << 30)
    other = manifest(recipe=recipe, memory_bytes=1 << 30, kernel=None, disk=FileFacts(20, "c" * 64))
    found = compare(OLD, Side(other, OLD.sums, FILES))
    assert Change("packages", "", "gcc make") in found.recipe
    assert Change("memory_bytes", "536870912", "1073741824") in found.recipe
    assert found.sizes == (
        Change("memory_bytes", "536870912", "1073741824"),
        Change("disk.raw", "10", "20"),
        Change("kernel", "10", ""),
    )


def test_files_by_content_mode_owner_and_target() -> None:
    new = dict(FILES)
    del new["etc/gone"]
    new["etc/a"] = msgspec.structs.replace(FILES["etc/a"], mode=0o600, uid=7)
    new["etc/b"] = msgspec.structs.replace(FILES["etc/b"], sha256="9" * 64, size=6)
    new["etc/c"] = TreeEntry("etc/c", "link", 0o777, 0, 0, link="b")
    new["etc/new"] = TreeEntry("etc/new", "dir", 0o755, 0, 0)
    found = compare(OLD, Side(manifest(inputs="d" * 64), OLD.sums, new))
    assert found.files == (
        Change("/etc/a", "0644 0:0", "0600 7:0"),
        Change("/etc/b", "5 bytes 22222222", "6 bytes 99999999"),
        Change("/etc/c", "a", "b"),
        Change("/etc/gone", "file", ""),
        Change("/etc/new", "", "dir"),
    )
    assert cause(found).startswith("files differ: /etc/a, /etc/b")


def test_an_imported_image_does_not_say_what_is_in_it() -> None:
    other = manifest(recipe=None, packages=(), imported=Imported("qcow2", FACTS))
    found = compare(OLD, Side(other, {}, None))
    assert found.files is None
    assert Change("form", "", "qcow2") in found.recipe


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (Side(manifest(), {"gcc:amd64": "z"}, FILES), "packages of the same version came from other files: gcc"),
        (Side(manifest(disk=FileFacts(10, "e" * 64)), OLD.sums, FILES), "every file is the same, but the disks differ"),
    ],
)
def test_why_two_builds_are_not_equal_is_one_sentence(new: Side, expected: str) -> None:
    assert cause(compare(OLD, new)) == expected
