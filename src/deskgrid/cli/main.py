"""`deskgrid`: puts the commands together and turns what went wrong into one sentence and an exit code."""

import io
import logging
import os
import sys
from typing import Annotated

import typer

from deskgrid import __version__
from deskgrid.agent.enrol import EnrolError
from deskgrid.agent.run import AgentError
from deskgrid.cli import demo
from deskgrid.cli.desktop import agent, doctor, firmware, owner, policy
from deskgrid.cli.grid import coordinator, operator, pool
from deskgrid.cli.image import image
from deskgrid.cli.output import CommandFailed, Exit, complain, errors, show_text
from deskgrid.cli.trust import trust
from deskgrid.coordinator.client import CoordinatorRefused, NoAnswer
from deskgrid.host.system import logs
from deskgrid.host.system.start import set_umask
from deskgrid.host.system.toml import BadSettings
from deskgrid.host.trees.debstrap import BuildFailed
from deskgrid.host.trees.entry import NoWay
from deskgrid.images.contract import ImageError
from deskgrid.images.format.recipe import BadRecipe
from deskgrid.model.values.names import BadName
from deskgrid.pool.config import ForeignFile
from deskgrid.pool.contract import PoolError
from deskgrid.pool.embedded.pool import EmbeddedError

log = logging.getLogger("deskgrid.cli")

app = typer.Typer(
    name="deskgrid",
    help="Idle desktops become an HTCondor pool of virtual machines, without their owners noticing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("status")(owner.status)
app.command("pause")(owner.pause)
app.command("resume")(owner.resume)
app.command("finish")(owner.finish)
app.command("page")(owner.page)
app.command("session")(owner.session)
app.add_typer(pool.app, name="pool")
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(agent.app, name="agent")
app.add_typer(image.app, name="image")
app.add_typer(trust.app, name="trust")
app.add_typer(policy.app, name="policy")
app.add_typer(operator.token_app, name="token")
app.add_typer(operator.desktop_app, name="desktop")
app.add_typer(operator.vm_app, name="vm")
app.add_typer(operator.why_app, name="why")
app.command("images")(operator.images)
app.command("story")(operator.story)
app.command("doctor")(doctor.doctor)
app.add_typer(firmware.app, name="firmware")
app.command("demo")(demo.demo)

UsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]
"""Typer's own complaint about argv; Typer exports only this subclass."""

CODES: dict[type[Exception], Exit] = {
    BadName: Exit.WRONG,
    BadSettings: Exit.WRONG,
    BadRecipe: Exit.WRONG,
    ForeignFile: Exit.REFUSED,
    EnrolError: Exit.REFUSED,
    AgentError: Exit.REFUSED,
    NoAnswer: Exit.UNREACHABLE,
    CoordinatorRefused: Exit.REFUSED,
    ImageError: Exit.NO,
    BuildFailed: Exit.NO,
    NoWay: Exit.NO,
    EmbeddedError: Exit.NO,
    PoolError: Exit.UNREACHABLE,
}


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")] = False,
) -> None:
    """What stands before a command."""
    logs.set_up(logging.INFO if verbose else logging.WARNING)
    if version:
        show_text(__version__)
        raise typer.Exit


def main() -> None:
    """Run a command and exit with its code."""
    set_umask()
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Run a command; return its exit code."""
    try:
        code = app(argv, standalone_mode=False, prog_name="deskgrid")
        return int(code or 0)
    except (typer.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except UsageError as error:
        shown = io.StringIO()
        error.show(shown)
        errors.out(shown.getvalue().rstrip())
        return Exit.WRONG
    except CommandFailed as failed:
        return _say(str(failed), failed.code)
    except tuple(CODES) as error:
        return _say(str(error), next(code for kind, code in CODES.items() if isinstance(error, kind)))
    except OSError as error:  # of a file or a disk, where nobody could say it better
        log.info("what it was about", exc_info=True)
        what = f"{_short(error.filename)}: " if error.filename else ""
        return _say(f"{what}{error.strerror or error}", Exit.NO)


def _short(name: object) -> str:
    text = os.fsdecode(name) if isinstance(name, str | bytes) else str(name)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-50:]}"


def _say(text: str, code: Exit) -> int:
    complain(text)
    return code
