"""`deskgrid trust first-look`: all signers played by one process, for a first look on one's own machine."""

from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.office import Json
from deskgrid.cli.output import progress, show_json, tell


def first_look(
    folder: Annotated[Path, typer.Argument(help="Repository and keys go here; further calls publish further images.")],
    images: Annotated[list[Path], typer.Argument(help="Folders of images, as `deskgrid image build` made them.")],
    as_json: Json = False,
) -> None:
    """Publish and sign images with keys of people who are not there: for a first look only.

    It prints what belongs into coordinator.toml and agent.toml. On a grid of your own people hold these keys.
    """
    from deskgrid.demo.signers import Signers

    signers = Signers(folder.absolute())
    made = []
    with progress() as bar:
        for image in images:
            task = bar.add_task(f"publishing {image.name[:12]}…", total=1.0, visible=not as_json)
            made.append(
                str(signers.publish(image, lambda part, task=task: bar.update(task, completed=part)))  # type: ignore[misc]
            )
    table, root = dict(signers.places.coordinator()), str(signers.places.root)
    if as_json:
        show_json({"published": made, "images": table, "root": root})
        return
    for version in made:
        tell(f"published and signed: {version}")
    tell("\n# coordinator.toml\n[images]", style="bold")
    for key, value in table.items():
        tell(f'{key} = "{value}"')
    tell("\n# agent.toml", style="bold")
    tell(f'root = "{root}"')
