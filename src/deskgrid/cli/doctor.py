"""`deskgrid doctor`: what this machine lacks, and the command that mends it."""

import typer
from rich.markup import escape

from deskgrid.cli.office import Json
from deskgrid.cli.output import Exit, console, show_json, tell
from deskgrid.host.doctor import Finding, Level, examine, worst
from deskgrid.host.doctor_facts import gather

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "red"}


def doctor(as_json: Json = False) -> None:
    """Say what this machine lacks to run deskgrid, and the command that mends it. Exit code 1 when something does."""
    findings = examine(gather())
    if as_json:
        show_json(findings)
    else:
        for finding in findings:
            style = _STYLES[finding.level]
            console.print(f"[{style}]{finding.level:<5}[/{style}] {escape(finding.name)}: {escape(finding.sentence)}")
            for command in finding.mend:
                tell(f"        {command}", soft_wrap=True)
    raise typer.Exit(Exit.NO if worst(findings) is Level.BAD else Exit.DONE)


def missing_for_demo() -> list[str]:
    """What stands in the way of the demo, a sentence each."""
    return [_sentence(finding) for finding in examine(gather()) if finding.level is Level.BAD]


def _sentence(finding: Finding) -> str:
    mend = f" Run: {'; '.join(finding.mend)}" if finding.mend else ""
    return f"{finding.sentence}{mend}"
