"""`deskgrid trust first-look`: all signers played by one process, for a first look on one's own machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.grid.pool import find_pool
from deskgrid.cli.output import CommandFailed, Exit, progress, show_json, tell
from deskgrid.host.system.paths import config_folder
from deskgrid.images.build.build import images_folder
from deskgrid.images.build.listing import find_image


def first_look(
    folder: Annotated[Path, typer.Argument(help="Repository and keys go here; further calls publish further images.")],
    images: Annotated[list[str], typer.Argument(help="Images, by name in the cache or by folder.")],
    write: Annotated[
        bool,
        typer.Option("--write", help="Write settings that say: every command of this account means this grid."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish and sign images with keys of people who are not there: for a first look only.

    It prints what belongs into coordinator.toml and agent.toml, or writes it. On a grid of your own people hold these
    keys.
    """
    from deskgrid.demo import first_look as settings
    from deskgrid.demo.signers import Signers

    if write and os.geteuid() == 0:
        raise CommandFailed(
            Exit.WRONG, "got root, expected an ordinary user: root's settings are those of the whole computer"
        )
    pool = find_pool(None) if write else None
    signers = Signers(folder.absolute())
    made = []
    with progress() as bar:
        for image in (find_image(name, images_folder()).folder for name in images):
            task = bar.add_task(f"publishing {image.parent.name}…", total=1.0, visible=not as_json)
            made.append(
                str(signers.publish(image, lambda part, task=task: bar.update(task, completed=part)))  # type: ignore[misc]
            )
    table, root = dict(signers.places.coordinator()), str(signers.places.root)
    if as_json:
        show_json({"published": made, "images": table, "root": root})
        return
    for version in made:
        tell(f"published and signed: {version}")
    if pool is not None:
        try:
            for path in settings.write(config_folder(), folder.absolute(), pool):
                tell(f"written {path}")
        except settings.NotOurs as error:
            raise CommandFailed(Exit.REFUSED, str(error)) from None
        return
    tell("\n# coordinator.toml\n[images]", style="bold")
    for key, value in table.items():
        tell(f'{key} = "{value}"')
    tell("\n# agent.toml", style="bold")
    tell(f'root = "{root}"')
