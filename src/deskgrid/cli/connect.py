"""How commands find the coordinator: by its settings file, which names its state folder and port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.output import CommandFailed, Exit
from deskgrid.coordinator.client import CoordinatorRefused, NoAnswer, OperatorClient
from deskgrid.coordinator.settings import CoordinatorSettings, read_settings
from deskgrid.host.system.paths import SYSTEM, config_folder, settings_file

FILE = "coordinator.toml"

Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar="DESKGRID_COORDINATOR",
        help=f"The coordinator's settings file. Default: ~/.config/deskgrid/{FILE}, else {SYSTEM / FILE}.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def load(path: Path | None) -> CoordinatorSettings:
    """The coordinator's settings; the defaults when none are named and there are none."""
    file = path or settings_file(FILE)
    if path is None and not file.exists():
        return CoordinatorSettings()
    return read_settings(file)


@contextmanager
def coordinator(path: Path | None) -> Iterator[OperatorClient]:
    """A client of the coordinator; what it refuses becomes a sentence and an exit code."""
    settings = load(path)
    try:
        client = OperatorClient(f"https://{settings.names[0]}:{settings.port}", settings.state_dir)
        try:
            yield client
        finally:
            client.close()
    except NoAnswer as error:
        raise CommandFailed(Exit.UNREACHABLE, f"{error}; {_which(path)}") from None
    except CoordinatorRefused as error:
        code = {400: Exit.WRONG, 404: Exit.ABSENT, 502: Exit.UNREACHABLE, 503: Exit.UNREACHABLE}.get(error.status)
        raise CommandFailed(code or Exit.REFUSED, str(error)) from None


def _which(path: Path | None) -> str:
    """Which grid was meant, and by what."""
    if path is None and not (path := settings_file(FILE)).exists():
        own = config_folder() / FILE
        return (
            f"no settings say which grid is meant: name them with --settings, or write {own} "
            "(for a first look: `deskgrid trust first-look --write`)"
        )
    return f"that is the grid of {path}, another one is named with --settings"
