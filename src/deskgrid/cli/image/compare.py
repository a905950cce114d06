"""`deskgrid image diff` and `deskgrid image build --verify`: what is not the same in two images."""

from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import Exit, progress, show, show_json, tell
from deskgrid.images.build import differ
from deskgrid.images.build.build import images_folder
from deskgrid.images.build.differ import Change, Difference
from deskgrid.images.build.listing import find_image
from deskgrid.images.build.verify import verify as build_twice

_SHOWN_FILES = 40
Image = Annotated[str, typer.Argument(help="An image's folder, or name or name@digest of one in the cache.")]


def diff(
    old: Image,
    new: Image,
    all_files: Annotated[bool, typer.Option("--files", help="Show every file that changed.")] = False,
    folder: Annotated[Path | None, typer.Option("--images", help="Folder of images; the cache's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Show what changed from one image to another: packages, recipe, files."""
    images = folder or images_folder()
    sides = []
    for one in (find_image(text, images) for text in (old, new)):
        assert one.manifest is not None
        sides.append(differ.read(one.folder, one.manifest))
    found = differ.compare(*sides)
    if as_json:
        show_json(found)
        return
    show_difference(found, all_files)


def verify(recipe: Path, as_json: bool) -> None:
    """Build twice, compare, and end with code 1 when the images are not equal."""
    with progress() as bar:
        task = bar.add_task(f"image of {recipe}", total=1.0)
        done = build_twice(recipe, progress=lambda part, text: bar.update(task, completed=part, description=text))
    if as_json:
        same = {"equal": done.difference is None, "cause": done.cause}
        show_json({**same, "one": done.one.ref, "two": done.two.ref, "difference": done.difference})
    elif done.difference is None:
        tell(f"{done.one.ref.name}: both builds have the digest {done.one.ref.digest}")
    else:
        tell(f"{done.one.ref.name}: the two builds differ: {done.cause}")
        show_difference(done.difference, all_files=False)
    if done.difference is not None:
        raise typer.Exit(Exit.NO)


def show_difference(found: Difference, all_files: bool) -> None:
    """Print a difference for people."""
    if found.same:
        tell("the two images are the same")
        return
    _table("recipe", found.recipe)
    _table("sizes", found.sizes)
    packages = (("added", found.added), ("removed", found.removed), ("changed version", found.changed))
    for what, changes in packages:
        _table(f"packages {what}: {len(changes)}", changes)
    if found.rebuilt:
        tell(f"same version, other file: {' '.join(found.rebuilt)}")
    if found.files is None:
        tell("files: one of the images does not say what is in it; it was imported, or built by an older version")
        return
    _table(f"files: {len(found.files)}", found.files if all_files else found.files[:_SHOWN_FILES])
    if len(found.files) > _SHOWN_FILES and not all_files:
        tell(f"… and {len(found.files) - _SHOWN_FILES} more: --files shows all")


def _table(title: str, changes: tuple[Change, ...]) -> None:
    if changes:
        show(changes, False, (title, "was", "is"), [(change.what, change.old, change.new) for change in changes])
