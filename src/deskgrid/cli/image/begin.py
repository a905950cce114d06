"""`deskgrid image init` and `deskgrid image import`: where an image begins."""

from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import progress, show_json, tell
from deskgrid.host.system.toml import parse_bytes
from deskgrid.images.build import disk_import, starter
from deskgrid.images.contract import ImageError


def init(
    name: Annotated[str, typer.Argument(help="The image's name, which jobs ask for.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write.")] = Path(),
) -> None:
    """Write a commented recipe and its script to begin with."""
    recipe, script = starter.write(name, folder)
    tell(f"{recipe} and {script} are written; edit them, then: deskgrid image build {recipe}")


def import_disk(
    disk: Annotated[Path, typer.Argument(help="A disk with cloud-init: qcow2, raw, vmdk, vdi, vhdx or vpc.")],
    name: Annotated[str, typer.Option("--name", help="The image's name, which jobs ask for.")],
    memory: Annotated[str, typer.Option("--memory", help="Least memory of a machine that runs it.")] = "1GiB",
    install: Annotated[
        list[str] | None,
        typer.Option("--install", help="Package that cloud-init shall install at each start, such as condor."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an image of any disk with cloud-init; it boots by BIOS."""
    try:
        memory_bytes = parse_bytes(memory)
    except ValueError as error:
        raise ImageError(f"--memory: {error}") from None
    with progress() as bar:
        task = bar.add_task(f"image of {disk}", total=1.0, visible=not as_json)
        built = disk_import.import_disk(
            disk,
            name,
            memory_bytes,
            tuple(install or ()),
            progress=lambda part, text: bar.update(task, completed=part, description=text),
        )
    if as_json:
        show_json({"name": built.ref.name, "digest": built.ref.digest, "folder": str(built.folder)})
        return
    tell(f"{built.ref.name} {built.ref.digest[:12]} imported: {built.folder}")
