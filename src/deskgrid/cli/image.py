"""`deskgrid image`: from a recipe to a bootable disk."""

from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.office import Json
from deskgrid.cli.output import progress, show, show_json, size, tell
from deskgrid.images.build import Built, build, images_folder
from deskgrid.images.store import FolderStore

app = typer.Typer(help="Images: what virtual machines boot from.", no_args_is_help=True)
Folder = Annotated[Path | None, typer.Option("--images", help="Folder of images; the cache's if not given.")]


@app.command("build")
def build_image(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build also when it is in the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Build the image of a recipe."""
    built = build_with_bar(recipe, rebuild)
    if as_json:
        show_json(
            {"name": built.ref.name, "digest": built.ref.digest, "folder": str(built.folder), "fresh": built.fresh}
        )
        return
    tell(f"{built.ref.name} {built.ref.digest[:12]} {'built' if built.fresh else 'was built before'}: {built.folder}")
    tell(f"to offer it to jobs: deskgrid coordinator offer {built.folder}", soft_wrap=True)


@app.command("list")
def images(folder: Folder = None, as_json: Json = False) -> None:
    """List the images in a folder."""
    held = FolderStore(folder or images_folder()).held()
    rows = [(i.ref.name, i.ref.digest[:12], size(i.memory_bytes), size(i.disk_bytes)) for i in held]
    show(held, as_json, ("image", "digest", "memory", "disk"), rows)


def build_with_bar(recipe: Path, rebuild: bool = False) -> Built:
    """Build with a progress bar; without one when the image is there."""
    with progress() as bar:
        task = bar.add_task(f"image of {recipe}", total=1.0)
        return build(
            recipe, progress=lambda part, text: bar.update(task, completed=part, description=text), rebuild=rebuild
        )
