"""Build a recipe twice from nothing, and tell whether both gave the same bytes."""

from pathlib import Path

import msgspec

from deskgrid.host.trees.debstrap import Progress, quiet
from deskgrid.images.build import differ
from deskgrid.images.build.build import Built, build
from deskgrid.images.build.differ import Difference


class BuildVerified(msgspec.Struct, frozen=True):
    """Two builds of one recipe. difference: what is not the same; None when the bytes are. cause: the same, said."""

    one: Built
    two: Built
    difference: Difference | None
    cause: str = ""


def verify(recipe: Path, cache: Path | None = None, progress: Progress = quiet) -> BuildVerified:
    """Build twice and compare. Raises: ImageError."""
    one = build(recipe, cache, lambda part, text: progress(part / 2, f"first build: {text}"), rebuild=True)
    two = build(recipe, cache, lambda part, text: progress(0.5 + part / 2, f"second build: {text}"), rebuild=True)
    if one.ref == two.ref:
        return BuildVerified(one, two, None)
    found = differ.compare(differ.read(one.folder, one.manifest), differ.read(two.folder, two.manifest))
    return BuildVerified(one, two, found, differ.cause(found))
