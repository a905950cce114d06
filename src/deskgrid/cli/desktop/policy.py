"""`deskgrid policy`: what this desktop allows, which layer says so, whether that is what was meant, and what it gives.

Rules:
- The layers are read as the agent reads them; nothing is written.
- `test` and `simulate` ask the very functions that decide on a desktop (`core/policy/availability.py`).
"""

import json
import os
from collections.abc import Sequence
from datetime import date, tzinfo
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from deskgrid.agent.clock import local_now
from deskgrid.agent.policy.files import POLICY_FOLDER, PolicyFiles
from deskgrid.agent.settings import AgentSettings
from deskgrid.cli.connect import Json
from deskgrid.cli.desktop.agent import Settings as SettingsOption
from deskgrid.cli.desktop.agent import meant
from deskgrid.cli.output import CommandFailed, Exit, complain, console, show_json, tell
from deskgrid.core.desktop.cases import Case, Deviation, differences
from deskgrid.core.policy.layers import Effective
from deskgrid.core.policy.refusals import Name
from deskgrid.core.policy.week import Day, Slot, days
from deskgrid.host.system import toml
from deskgrid.host.system.files import decoded
from deskgrid.model.hours import window
from deskgrid.model.policy import ROWS, Policy
from deskgrid.model.values.outside import read_plain_json
from deskgrid.model.values.text import counted, plain

app = typer.Typer(help="What this desktop allows, and why.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Option("--folder", envvar="DESKGRID_POLICY", help=f"Folder of the layers' files. Default: {POLICY_FOLDER}."),
]
Why = Annotated[bool, typer.Option("--why", help="What each setting means, from which file it is, what is ignored.")]
LETTERS = {"": "#", Name.WORKING_HOURS: "w", Name.CLOSED_HOURS: "c", Name.DAY_CLOSED: "d"}
STYLES = {"#": "green", "+": "yellow", "w": "red", "c": "magenta", "d": "blue", "-": "bright_black"}
MEANINGS = {
    "#": "gives",
    "+": "gives for a part",
    "w": "working hours, somebody logged in",
    "c": "closed hours",
    "d": "closed day",
    "-": "another refusal",
}


class CaseResult(msgspec.Struct, frozen=True):
    """What came of one case."""

    file: str
    name: str
    passed: bool
    differences: tuple[Deviation, ...]


@app.command()
def show(folder: Folder = None, settings: SettingsOption = None, why: Why = False, as_json: Json = False) -> None:
    """The policy that holds on this desktop, and which layer set what."""
    effective = _effective(folder, settings)
    if as_json:
        show_json(effective)
    else:
        _print(effective, why)
    for fault in effective.faults:
        complain(fault)
    if effective.faults:
        raise typer.Exit(Exit.NO)


@app.command()
def test(
    files: Annotated[list[Path], typer.Argument(help="JSON files of policy cases.")],
    folder: Folder = None,
    settings: SettingsOption = None,
    as_json: Json = False,
) -> None:
    """Try cases on the policy that holds here: facts in, decision out. Exit code 1 when one is decided otherwise."""
    policy = _effective(folder, settings).policy
    cases = [(path, case) for path in files for case in read_cases(path)]
    tried = []
    for path, case in cases:
        found = differences(case, policy, _zone(case.given.zone or policy.zone or "UTC", str(path)))
        tried.append(CaseResult(str(path), case.name, not found, found))
    if as_json:
        show_json(tried)
    else:
        for one in tried:
            tell(f"{'pass' if one.passed else 'FAIL'}  {one.name}")
            for each in one.differences:
                tell(f"      {each.key}: expected {_plainly(each.expected)}, got {_plainly(each.got)}")
        failed = sum(not one.passed for one in tried)
        tell(f"{counted(len(tried), 'case')}, {f'{failed} decided otherwise' if failed else 'all as expected'}")
    if not all(one.passed for one in tried):
        raise typer.Exit(Exit.NO)


@app.command()
def simulate(
    week: Annotated[bool, typer.Option("--week", help="Seven days; it is what is drawn anyway.")] = True,
    logged_in: Annotated[
        list[str] | None,
        typer.Option("--logged-in", help="Hours in which somebody is logged in: 'Mon-Fri 08:30-17:30'. Repeatable."),
    ] = None,
    begin: Annotated[str, typer.Option("--from", help="The first day, such as 2026-03-23.  [default: today]")] = "",
    folder: Folder = None,
    settings: SettingsOption = None,
    as_json: Json = False,
) -> None:
    """Draw which hours of a week this desktop would give at most: idle, healthy, and with this calendar."""
    policy = _effective(folder, settings).policy
    now = local_now()
    zone = _zone(policy.zone, "zone") if policy.zone else now.tzinfo
    assert zone is not None
    try:
        first = date.fromisoformat(begin) if begin else now.astimezone(zone).date()
        if not 1970 <= first.year < 2900:
            raise ValueError(f"--from: got {first}, expected a day from 1970 to 2899")
        hours = [window(text).text for text in logged_in or []]
    except ValueError as error:
        raise CommandFailed(Exit.WRONG, str(error)) from None
    drawn = days(policy, hours, first, 7, zone)
    if as_json:
        show_json({"hours": round(sum(day.hours for day in drawn), 2), "days": drawn})
        return
    _draw(drawn)


def read_cases(path: Path) -> tuple[Case, ...]:
    """Cases of a file: a list, or one. Raises: BadSettings with all faults."""
    try:
        content = read_plain_json(decoded(path.read_bytes()))
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else f"not valid JSON: {error}"
        raise toml.BadSettings(str(path), [f"cannot be read: {what}; expected a list of cases"]) from None
    tables = content if isinstance(content, list) else [content]
    cases, faults = [], []
    for number, table in enumerate(tables):
        where = f"case {number + 1}"
        if isinstance(table, dict):
            where = f"{where} ({table.get('name', 'without a name')})"
        try:
            cases.append(_case(table, where))
        except toml.BadSettings as error:
            faults += [f"{where}: {fault}" for fault in error.faults]
    if faults or not tables:
        raise toml.BadSettings(str(path), faults or ["got no case, expected at least one"])
    return tuple(cases)


def _case(table: Any, where: str) -> Case:
    if not isinstance(table, dict):
        raise toml.BadSettings(where, [f"got {table!r}, expected a table of name, given and expect"])
    case = toml.convert(table, Case, where)
    faults = []
    try:
        toml.convert({**msgspec.to_builtins(Policy()), **case.given.policy}, Policy, where)
    except toml.BadSettings as error:
        faults = [f"given.policy.{fault}" for fault in error.faults]
    try:
        differences(case, Policy(), _zone(case.given.zone or "UTC", "given.zone"))
    except (ValueError, CommandFailed) as error:
        faults = faults or [f"given: {error}"]
    if all(getattr(case.expect, key) is msgspec.UNSET for key in case.expect.__struct_fields__):
        faults.append(f"expect: got nothing, expected at least one of {', '.join(case.expect.__struct_fields__)}")
    if faults:
        raise toml.BadSettings(where, faults)
    return case


def _effective(folder: Path | None, settings: Path | None) -> Effective:
    """The layers of this desktop; without settings, those of the folder alone."""
    chosen, file = None, meant(settings)
    if settings is not None or file.exists():
        chosen = toml.read(file, AgentSettings)
    there = folder or (POLICY_FOLDER if chosen is None else chosen.policy_folder)
    if folder is not None and not folder.is_dir():
        raise CommandFailed(
            Exit.WRONG, f"{folder}: no such folder; expected one with grid.toml, group.toml or desktop.toml"
        )
    state = chosen.state if chosen is not None else there / "no-state"
    if state.is_dir() and not os.access(state, os.R_OK | os.X_OK):
        tell(f"the owner's layer in {state} cannot be read by this account; it can only tighten what follows")
        state = there / "no-state"
    files = PolicyFiles(there, state, file if chosen is not None else None, keep=False)
    try:
        return files.settled()
    finally:
        files.close()


def _zone(name: str, where: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise CommandFailed(
            Exit.WRONG, f'{where}: got {name!r}, expected an IANA zone such as "Europe/Berlin"'
        ) from None


def _print(effective: Effective, why: bool) -> None:
    table = Table("setting", "value", "set by", *(["what it means"] if why else []), box=None, pad_edge=False)
    for chapter, rows in groupby(zip(ROWS, effective.settings, strict=True), key=lambda pair: pair[0].chapter):
        table.add_row(Text(chapter, "bold"))
        for row, setting in rows:
            cells = [f"  {row.name}", value_text(row.name, setting.value), ", ".join(setting.layers)]
            table.add_row(*map(Text, map(plain, [*cells, *([row.help] if why else [])])))
    console.print(table)
    if why:
        for layer, source in effective.sources:
            tell(f"{layer}: {source}")
        for one in effective.ignored:
            tell(f"ignored: {one.name} = {value_text(one.name, one.value)} of {one.source}. {one.sentence}")
    elif effective.ignored:
        names = ", ".join(dict.fromkeys(one.name for one in effective.ignored))
        tell(f"ignored, since it would loosen what an earlier layer says: {names}; `--why` tells more")


def value_text(name: str, value: Any) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    if name.endswith("_bytes"):
        return f"{value / (1 << 30):g} GiB" if value >= 1 << 30 else f"{value / (1 << 20):g} MiB"
    if "_seconds" in name:
        return f"{value:g} s"
    if name.endswith("_percent") or name == "memory_pressure_max":
        return f"{value:g} %"
    if isinstance(value, float):
        return f"{value * 100:g} %"
    return str(value) or "the desktop's own"


def _plainly(value: object) -> str:
    return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)


def _draw(drawn: Sequence[Day]) -> None:
    colours = console.color_system is not None
    console.print(Text(" " * 12 + "".join(f"{hour:<4}" for hour in range(0, 24, 2))))
    used: list[str] = []
    for day in drawn:
        letters = [letter_of(slot) for slot in day.slots]
        used += letters
        line = Text(f"{day.date:%a %d %b}  ")
        for letter in letters:
            line.append("█" if colours and letter != " " else letter, STYLES.get(letter, ""))
        line.append(f"  {day.hours:g} h")
        console.print(line, soft_wrap=True)
    console.print()
    for letter in (letter for letter in MEANINGS if letter in used):
        console.print(Text.assemble(("█" if colours else letter, STYLES[letter]), f"  {MEANINGS[letter]}"))
    total, week = sum(day.hours for day in drawn), sum(slot.minutes for day in drawn for slot in day.slots) / 60
    tell(f"{total:g} of {week:g} hours, from {drawn[0].date} to {drawn[-1].date}")


def letter_of(slot: Slot) -> str:
    """How half an hour is drawn."""
    if slot.minutes == 0:
        return " "
    if slot.given == slot.minutes:
        return "#"
    return "+" if slot.given else LETTERS.get(slot.refusal, "-")
