"""`deskgrid agent`: what an administrator and an owner do on a desktop."""

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deskgrid.agent.enrol import enrol as enrol_desktop
from deskgrid.agent.run import check
from deskgrid.agent.settings import AgentSettings
from deskgrid.cli.output import CommandFailed, Exit, show_json, tell
from deskgrid.host.system import toml
from deskgrid.host.system.files import decoded, write_atomic
from deskgrid.host.system.paths import SYSTEM, settings_file
from deskgrid.host.system.programs import KEPT, environment, python
from deskgrid.session.client import NoAgent, ask, places
from deskgrid.wire.local import AskDump, Denial, Dumped

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
def dump(
    output: Annotated[Path | None, typer.Option("--output", help="Where to; default: standard output.")] = None,
    settings: Settings = None,
) -> None:
    """What the agent knows and what came in of late, as JSON, to look for a fault. For root and the agent's account."""
    chosen = toml.read(meant(settings), AgentSettings)
    try:
        answer = ask(places(chosen.local, chosen.state), AskDump())
    except NoAgent as error:
        raise CommandFailed(Exit.ABSENT, str(error)) from None
    if isinstance(answer, Denial):
        raise CommandFailed(Exit.REFUSED, answer.sentence)
    assert isinstance(answer, Dumped)
    try:
        content = Path(answer.path).read_bytes()
        if output is not None:
            write_atomic(output, content, 0o600)
    except OSError as error:
        raise CommandFailed(Exit.REFUSED, f"{error.filename}: {error.strerror}; run as root") from None
    if output is None:
        show_json(msgspec.Raw(content))
    else:
        tell(f"{output}: {len(content)} bytes")


@app.command()
def run(settings: Settings = None) -> None:
    """Run the agent until SIGTERM or Ctrl-C. Never as root."""
    file = meant(settings)
    check(toml.read(file, AgentSettings))
    verbose = ["--verbose"] if logging.getLogger().isEnabledFor(logging.INFO) else []
    sys.stdout.flush()
    os.execve(sys.executable, python("deskgrid.agent", [str(file), *verbose]), environment(*KEPT))  # noqa: S606
