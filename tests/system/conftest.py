"""One pool for all system tests of a run: HTCondor, QEMU and the demo's image, as in the demo."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.demo.cast import Cast
from deskgrid.demo.stage import Stage
from deskgrid.host.system.files import own_folder
from deskgrid.host.trees import trees
from deskgrid.images.build.build import Built, build
from deskgrid.pool.embedded.head import HeadSettings

from .grid import Grid, tiny_images

RECIPE = Path(__file__).parents[2] / "recipes/demo.toml"
TINY = {
    "mute": "",  # joined by its own word, but no startd of it is ever seen
    "sound": "dg.spin=",
    "silent": "dg.hello=never",
    "panics": "dg.panic=1",
}


@pytest.fixture(scope="session")
def built() -> Built:
    return build(RECIPE)


@pytest.fixture(scope="session")
def stage(built: Built) -> Iterator[Stage]:
    """A stage with a pool, and images of misbehaving tiny guests beside the demo's, all published and signed."""
    cast = Cast()
    try:
        images = cast.folder / "images"
        own_folder(images, cast.account)
        made = Stage(cast, trees.provide(), built.folder, *tiny_images(images, TINY))
        made.vouch(*made.images)
        made.start_pool(HeadSettings(cycle_seconds=2))
        yield made
    finally:
        cast.close()


@pytest.fixture(scope="module")
def grid(stage: Stage) -> Iterator[Grid]:
    """Agents and coordinator of one module; each starts its own."""
    made = Grid(stage)
    yield made
    made.remove_jobs()
    made.stop_all()
