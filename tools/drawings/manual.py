"""The manual's tables, drawn from the code: every setting with type, default and help; every command with its help.

A setting's help stands beside its type (`model/values/help.py`); a test sees that none lacks.
"""

import inspect
from collections.abc import Iterator
from datetime import date, time
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
import typer

from deskgrid.agent.settings import AgentSettings
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.core.policy.refusals import REFUSALS
from deskgrid.host.system.account import Account
from deskgrid.images.format.recipe import Recipe
from deskgrid.model.policy import ROWS, Policy, Tighter
from deskgrid.model.values.help import helps

_NAMES = {
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    Path: "path",
    time: "time of day",
    date: "day",
    Account: "table (uid, gid)",
}


def settings_page() -> str:
    """docs/settings.md."""
    parts = [
        "# Settings",
        "",
        "Drawn from the code by `make docs`. All files are TOML; all faults of a file are named at once. A name that",
        'ends in `_bytes` takes a number or a text such as "2GiB"; a time of day is 08:30:00 or "08:30".',
    ]
    files: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
        ("agent.toml", "`deskgrid agent … --settings agent.toml`", AgentSettings),
        ("coordinator.toml", "`deskgrid coordinator … --settings coordinator.toml`", CoordinatorSettings),
        ("A recipe", "`deskgrid image build RECIPE.toml`", Recipe),
    )
    for title, use, kind in files:
        parts += ["", f"## {title}", "", use, "", "| setting | type | default | what it is |", "|---|---|---|---|"]
        parts += [f"| `{key}` | {type_} | {default} | {text} |" for key, type_, default, text in rows(kind)]
    return "\n".join([*parts, ""])


def rows(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and help of every setting of a struct and of the structs in it."""
    said = helps(kind)
    for field in msgspec.structs.fields(kind):
        inner = _plain(field.type)
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            yield from rows(inner, f"{prefix}{field.encode_name}.")
            continue
        yield (
            prefix + field.encode_name,
            _type(field.type),
            _default(field),
            said.get(field.name, "").replace("|", "\\|"),
        )


def policy_page(page: str) -> str:
    """docs/policy.md with its tables renewed: what lies between two of its marks is drawn from the code."""
    for mark, table in (("settings", _policy_settings()), ("refusals", _refusals())):
        begin, end = f"<!-- {mark}: drawn by `make docs` -->", f"<!-- end of {mark} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{table}\n{end}{rest.partition(end)[2]}"
    return page


def _policy_settings() -> str:
    fields = {field.name: field for field in msgspec.structs.fields(Policy)}
    tighter = {
        Tighter.LESS: "smaller",
        Tighter.MORE: "larger",
        Tighter.NO: "false",
        Tighter.YES: "true",
        Tighter.ADDED: "more of them",
        Tighter.FIXED: "only the grid",
    }
    lines = ["| setting | default | tighter is | what it is |", "|---|---|---|---|"]
    for chapter, rows_ in groupby(ROWS, key=lambda row: row.chapter):
        lines.append(f"| **{chapter}** | | | |")
        lines += [
            f"| `{row.name}` | {_default(fields[row.name])} | {tighter[row.tighter]} | {row.help} |" for row in rows_
        ]
    return "\n".join([*lines, ""])


def _refusals() -> str:
    lines = ["| name | the computer is | running VMs | it ends | said when |", "|---|---|---|---|---|"]
    lines += [f"| `{r.name}` | {r.state} | {r.effect} | {r.ends} | {r.when} |" for r in REFUSALS]
    return "\n".join([*lines, ""])


def commands_page(app: typer.Typer) -> str:
    """docs/commands.md."""
    parts = ["# Commands", "", "Drawn from the code by `make docs`. Those that answer have `--json`.", ""]
    parts += ["| command | what it does |", "|---|---|"]
    root = typer.main.get_command(app)
    parts += [f"| `{usage}` | {text} |" for usage, text in _commands(root, "deskgrid")]
    parts += [
        "",
        "Exit codes: 0 done; 1 the answer is no; 2 wrong use or wrong input; 3 something that is needed cannot",
    ]
    parts += ["be reached; 4 refused; 5 no such thing; 130 interrupted.", ""]
    return "\n".join(parts)


def _commands(command: Any, path: str) -> Iterator[tuple[str, str]]:
    children = getattr(command, "commands", None)
    if children:
        for name, child in children.items():
            yield from _commands(child, f"{path} {name}")
        return
    arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
    options = [f"[{p.opts[0]}]" for p in command.params if p.param_type_name == "option" and p.name != "help"]
    yield " ".join([path, *arguments, *options]), inspect.cleandoc(command.help or "").split("\n")[0]


def _plain(kind: Any) -> Any:
    return _plain(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _type(kind: Any) -> str:
    plain = _plain(kind)
    if get_origin(plain) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(plain))
    if get_origin(plain) in (tuple, list):
        element = _plain(get_args(plain)[0])
        if isinstance(element, type) and issubclass(element, msgspec.Struct):
            return f"list of tables ({', '.join(field.name for field in msgspec.structs.fields(element))})"
        return f"list of {_type(element)}"
    if type(None) in get_args(plain):
        return " or ".join("none" if member is type(None) else _type(member) for member in get_args(plain))
    return _NAMES.get(plain, getattr(plain, "__name__", str(plain)))


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "must be given"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, int) and field.name.endswith("_bytes") and value % (1 << 20) == 0:
        return f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"
    if isinstance(value, tuple):
        return ", ".join(msgspec.json.encode(item).decode().replace('"', "") for item in value) or "none"
    return {"": "empty"}.get(str(value), f"{value}")
