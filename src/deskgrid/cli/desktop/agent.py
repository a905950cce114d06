"""`deskgrid agent`: what an administrator and an owner do on a desktop."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.agent.enrol import enrol as enrol_desktop
from deskgrid.agent.run import check
from deskgrid.agent.settings import AgentSettings
from deskgrid.cli.output import CommandFailed, Exit, tell
from deskgrid.host.system import toml
from deskgrid.host.system.files import decoded
from deskgrid.host.system.paths import SYSTEM, settings_file
from deskgrid.host.system.programs import KEPT, environment, python

app = typer.Typer(help="The process on each desktop.", no_args_is_help=True)

FILE = "agent.toml"
Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        envvar="DESKGRID_AGENT",
        help=f"The agent's settings file. Default: ~/.config/deskgrid/{FILE}, else {SYSTEM / FILE}.",
    ),
]


def meant(settings: Path | None) -> Path:
    """The agent's settings file: the one that is named, or else the one that is there."""
    return settings or settings_file(FILE)


@app.command()
def enrol(
    text_file: Annotated[
        str, typer.Option("--text-file", help="File with the enrolment text; '-': standard input.")
    ] = "-",
    settings: Settings = None,
) -> None:
    """Make this desktop a member: exchange an enrolment text for a credential of its own."""
    chosen = toml.read(meant(settings), AgentSettings)
    try:
        text = sys.stdin.read() if text_file == "-" else decoded(Path(text_file).read_bytes())
    except (OSError, ValueError) as error:
        raise CommandFailed(Exit.WRONG, f"enrolment text {text_file}: {error}") from None
    enrol_desktop(chosen.coordinator, chosen.desktop, text, chosen.state)
    tell(f"{chosen.desktop} is enrolled at {chosen.coordinator}")


@app.command()
def run(settings: Settings = None) -> None:
    """Run the agent until SIGTERM or Ctrl-C. Never as root."""
    file = meant(settings)
    check(toml.read(file, AgentSettings))
    verbose = ["--verbose"] if logging.getLogger().isEnabledFor(logging.INFO) else []
    sys.stdout.flush()
    os.execve(sys.executable, python("deskgrid.agent", [str(file), *verbose]), environment(*KEPT))  # noqa: S606
