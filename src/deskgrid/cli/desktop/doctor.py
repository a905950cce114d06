"""`deskgrid doctor`: what this machine lacks, and the command that mends it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from deskgrid.agent.owner.status import read_status
from deskgrid.agent.settings import AgentSettings, ca_file, status_file
from deskgrid.cli.connect import Json
from deskgrid.cli.desktop.agent import Settings as AgentFile
from deskgrid.cli.desktop.agent import meant
from deskgrid.cli.output import Exit, console, show_json, tell
from deskgrid.host.doctor.facts import AgentFacts, Finding, Level
from deskgrid.host.doctor.findings import examine, worst
from deskgrid.host.doctor.gather import gather
from deskgrid.host.doctor.trial import TRIAL_SECONDS
from deskgrid.host.system import toml
from deskgrid.hypervisor.confine import cgroup
from deskgrid.pool import doctor as pool
from deskgrid.pool.tools.reach import Reach

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "red"}


class Purpose(StrEnum):
    """What this computer is to be looked at for."""

    AUTO = "auto"
    DESKTOP = "desktop"
    ALL = "all"


def doctor(
    settings: AgentFile = None,
    purpose: Annotated[
        Purpose,
        typer.Option("--for", help="desktop: leave out what only images and the demo need; auto: if an agent is here."),
    ] = Purpose.AUTO,
    trial: Annotated[bool, typer.Option(help="Boot a tiny guest on each accelerator; takes seconds.")] = True,
    as_json: Json = False,
) -> None:
    """Say what this machine lacks to run deskgrid, and the command that mends it. Exit code 1 when something does."""
    agent = _agent(settings)
    desktop = purpose is Purpose.DESKTOP or (purpose is Purpose.AUTO and agent is not None)
    findings = (*examine(gather(agent=agent, trial_seconds=TRIAL_SECONDS if trial else 0), desktop), way(_seen(agent)))
    if not desktop and (seen := pool.ask(Reach(timeout_seconds=10))) is not None:
        findings = (*findings, *pool.examine(seen))
    if as_json:
        show_json(findings)
    else:
        for finding in findings:
            style = _STYLES[finding.level]
            console.print(Text.assemble((f"{finding.level:<5}", style), f" {finding.name}: {finding.sentence}"))
            for command in finding.mend:
                tell(f"        {command}", soft_wrap=True)
    raise typer.Exit(Exit.NO if worst(findings) is Level.BAD else Exit.DONE)


def _agent(settings: Path | None) -> AgentFacts | None:
    """What the agent's settings say, if there are any. Raises: BadSettings, for a file that was named or is wrong."""
    if settings is None and not meant(None).exists():
        return None
    chosen = toml.read(meant(settings), AgentSettings)
    return AgentFacts(chosen.state, chosen.coordinator, ca_file(chosen.state))


def _seen(agent: AgentFacts | None) -> cgroup.GroupsSeen | None:
    """The group of the agent that runs here, if one does."""
    now = read_status(status_file(agent.state)) if agent is not None else None
    return cgroup.see(now.pid) if now is not None and Path(f"/proc/{now.pid}/cgroup").exists() else None


def way(seen: cgroup.GroupsSeen | None) -> Finding:
    """Whether VMs of the agent that runs here give way to the owner."""
    if seen is None:
        return Finding("gives-way", Level.OK, "Whether VMs give way was not looked at: no agent runs here.")
    if seen.gives_way is None:
        sentence = "Nothing here shares out the CPU by groups: VMs give way by the idle class of their threads."
        return Finding("gives-way", Level.OK, sentence)
    if seen.gives_way:
        return Finding("gives-way", Level.OK, f"VMs give way to people's sessions: {seen.levels[0].path} is idle.")
    sentence = (
        "Groups share out the CPU here, and the agent's is not idle among them: VMs get its share of the CPU beside "
        "people's sessions, whatever class their threads have. The agent needs an idle slice (docs/limits.md)."
    )
    return Finding("gives-way", Level.WARN, sentence, ("systemctl set-property deskgrid.slice CPUWeight=idle",))


def missing_for_demo() -> list[str]:
    """What stands in the way of the demo, a sentence each."""
    found = examine(gather(trial_seconds=0))
    return [_sentence(finding) for finding in found if finding.level is Level.BAD]


def _sentence(finding: Finding) -> str:
    mend = f" Run: {'; '.join(finding.mend)}" if finding.mend else ""
    return f"{finding.sentence}{mend}"
