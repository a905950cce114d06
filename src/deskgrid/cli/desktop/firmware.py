"""`deskgrid firmware`: switch virtualisation on in this computer's firmware, where it lets itself be told."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import CommandFailed, Exit, show_json, tell
from deskgrid.host.firmware.plan import Feature, FirmwarePlan, Obstacle, plan
from deskgrid.host.firmware.sysfs import carry_out, may_write, read, without_settings

app = typer.Typer(help="This computer's firmware.", no_args_is_help=True)

_SYS = Path("/sys")


@app.callback()
def firmware() -> None:
    """This computer's firmware."""


@app.command("enable-virtualization")
def enable_virtualization(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    directed_io: Annotated[bool, typer.Option("--io", help="Switch on VT-d or AMD's IOMMU too.")] = False,
    password_file: Annotated[
        Path | None, typer.Option("--password-file", help="File with the firmware's password; else it is asked for.")
    ] = None,
    root: Annotated[Path, typer.Option("--root", help="Where sysfs is.")] = _SYS,
    as_json: Json = False,
) -> None:
    """Switch on VT-x or AMD-V in the firmware. Needs root, and a restart to take effect. Linux; Dell, Lenovo, HP."""
    features = (Feature.CPU, Feature.IO) if directed_io else (Feature.CPU,)
    plans = [plan(setup, features) for setup in read(root)] or [FirmwarePlan("", obstacles=(without_settings(root),))]
    if as_json:
        show_json(plans)
    else:
        for one in plans:
            _tell_plan(one)
    if not dry_run:
        for one in plans:
            if one.writes:
                _carry_out(root, one, password_file, quiet=as_json)
    if any(one.obstacles for one in plans):
        raise typer.Exit(Exit.NO)


def _tell_plan(one: FirmwarePlan) -> None:
    for name in one.done:
        tell(f"{name} is on already")
    for write in one.writes:
        tell(f"{write.setting}: {write.old!r} -> {write.new!r} ({write.why})")
    for obstacle in one.obstacles:
        tell(_sentence(obstacle))
    if one.password_of:
        tell(f"needs the password of {one.password_of}")
    if one.pending_reboot:
        tell("earlier changes wait for a restart")


def _sentence(obstacle: Obstacle) -> str:
    return f"{obstacle.sentence} [{obstacle.name}]"


def _carry_out(root: Path, one: FirmwarePlan, password_file: Path | None, quiet: bool) -> None:
    if not may_write(root, one):
        raise CommandFailed(Exit.REFUSED, "firmware settings: this account may not write them; run this as root")
    password = _password(one, password_file) if one.password_of else ""
    results = carry_out(root, one, password)
    for result in results:
        if not quiet or not result.done:
            tell(result.sentence)
    if not all(result.done for result in results):
        raise CommandFailed(Exit.NO, "firmware: not all that was planned was written; see above")
    if not quiet:
        tell("restart this computer for it to take effect")


def _password(one: FirmwarePlan, file: Path | None) -> str:
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(Exit.WRONG, f"password file {file}: {error}") from None
    if not sys.stdin.isatty():
        raise CommandFailed(
            Exit.WRONG, f"password of {one.password_of}: got none, expected --password-file or a terminal"
        )
    return str(typer.prompt(f"Password of {one.password_of}", hide_input=True))
