"""How commands find the coordinator: by its settings file, which names its state folder and port."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.output import Exit, Failed
from deskgrid.coordinator.client import NoAnswer, OperatorClient, Refused
from deskgrid.coordinator.settings import CoordinatorSettings, read_settings

DEFAULT = Path("/etc/deskgrid/coordinator.toml")

Settings = Annotated[
    Path, typer.Option("--settings", envvar="DESKGRID_COORDINATOR", help="The coordinator's settings file.")
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


def load(path: Path) -> CoordinatorSettings:
    """The coordinator's settings; the defaults when the default file is not there."""
    if path == DEFAULT and not path.exists():
        return CoordinatorSettings()
    return read_settings(path)


@contextmanager
def office(path: Path) -> Iterator[OperatorClient]:
    """A client of the coordinator; what it refuses becomes a sentence and an exit code."""
    settings = load(path)
    try:
        client = OperatorClient(f"https://{settings.names[0]}:{settings.port}", settings.state_dir)
        try:
            yield client
        finally:
            client.close()
    except NoAnswer as error:
        raise Failed(Exit.UNREACHABLE, str(error)) from None
    except Refused as error:
        code = {400: Exit.WRONG, 404: Exit.ABSENT, 502: Exit.UNREACHABLE, 503: Exit.UNREACHABLE}.get(error.status)
        raise Failed(code or Exit.REFUSED, str(error)) from None
