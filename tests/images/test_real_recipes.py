"""The ready recipes: the images that they made, by what they say of themselves. No build, unless there was none."""

import json
import re
from pathlib import Path

import pytest

from deskgrid.images.build import contents
from deskgrid.images.build.build import Built, build
from deskgrid.images.format import manifest
from deskgrid.images.format.recipe import load

RECIPES = Path(__file__).parents[2] / "recipes"
PRIVATE = re.compile(
    r"""( etc/ssh/ssh_host_.* | .*/random-seed | .*credential\.secret | .*/aux-cache | var/log/.*\.(log|gz)(\.\d+)?
    | .*\.key | .*/\.[a-z]*_history | var/lib/apt/lists/.+ | .*/passwords\.d/.+ | .*/tokens\.d/.+ | dev/.+
    | run/.+ | tmp/.+
    | .*gui_rpc_auth\.cfg | .*/instance-id | var/lib/dhcp/.+ )\Z""",
    re.VERBOSE,
)


@pytest.fixture(scope="module")
def built() -> Built:
    return build(RECIPES / "demo.toml")


@pytest.mark.parametrize("name", ["demo", "scientific", "boinc"])
def test_a_ready_recipe_has_no_faults_and_its_files_name(name: str) -> None:
    assert load(RECIPES / f"{name}.toml").recipe.name == name


@pytest.mark.real
def test_nothing_of_one_machine_or_moment_is_in_the_image(built: Built) -> None:
    files = contents.decode((built.folder / manifest.CONTENTS).read_bytes())
    assert [path for path, entry in files.items() if entry.kind == "file" and PRIVATE.match(path)] == []
    assert files["etc/machine-id"].size == 0
    assert len(files) > 5000


@pytest.mark.real
def test_every_package_is_recorded_with_the_sum_of_its_deb(built: Built) -> None:
    told = json.loads((built.folder / manifest.SBOM).read_text())
    named = {(one["name"], one["version"]) for one in told["components"]}
    assert named == {(package.name, package.version) for package in built.manifest.packages}
    assert all(one["hashes"][0]["alg"] == "SHA-256" for one in told["components"])
