"""The faults of a recipe that its types can't tell: what it names is not there, is named twice, or does not fit.

Rules, told first
- Looked for in the table as it was read, also when it has faults elsewhere, so that all are told at once.
- What a recipe names is below its folder; neither `..` nor a symbolic link leads out.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from deskgrid.host.files import open_plain

if TYPE_CHECKING:
    from deskgrid.images.recipe import Recipe

PART = r"(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+"
"""A part of a path."""

SLOT_UIDS = range(2001, 2033)
"""The accounts that jobs run as (guest/prepare)."""


def contents(folder: Path, table: dict[str, Any], faults: list[str]) -> dict[str, bytes]:
    """Read what a recipe names, by its name there; add the faults of what can't be used."""
    found: dict[str, bytes] = {}
    for where, source in _named(table):
        try:
            found[source] = _read(folder, source)
        except OSError as error:
            faults.append(f"{where}: got {source!r}, expected a file beside the recipe: {error.strerror or error}")
            continue
        if where.startswith("scripts") and (fault := _script_fault(found[source])):
            faults.append(f"{where}: got {source!r} {fault}")
    return found


def _script_fault(script: bytes) -> str:
    """What keeps Linux from running a script as it is meant; "" if nothing does."""
    text = script.removeprefix(codecs.BOM_UTF8)
    if not text.startswith(b"#!/"):
        return "without an interpreter, expected a first line like #!/bin/sh"
    if text != script:
        return "with a byte order mark, expected #! as the first letters; save it as UTF-8 without BOM"
    lines = text.split(b"\n")
    ends = sum(line.endswith(b"\r") for line in lines)
    if lines[0].endswith(b"\r") or 2 * ends > len(lines):
        return "with line ends of Windows (CR LF), expected LF alone; save it so, or run: sed -i 's/\\r$//' on it"
    return ""


def crossed(table: dict[str, Any]) -> list[str]:
    """Return what is there twice, or taken."""
    faults = _twice(table, "files", "to", "path") + _twice(table, "users", "name", "name")
    faults += _twice(table, "users", "uid", "number")
    for number, user in _tables(table, "users"):
        uid = user.get("uid")
        if isinstance(uid, int) and uid in SLOT_UIDS:
            first, last = SLOT_UIDS.start, SLOT_UIDS.stop - 1
            faults.append(f"users[{number}].uid: got {uid}, expected none of {first} to {last}: jobs run as these")
    found = table.get("extra_suites")
    suites: list[object] = found if isinstance(found, list) else []
    for number, suite in enumerate(suites):
        if suite == table.get("suite") or suite in suites[:number]:
            faults.append(f"extra_suites[{number}]: got {suite!r} again, expected each suite once")
    return faults


def archives(recipe: "Recipe") -> list[str]:
    """Return what mirror, snapshot and suites of a whole recipe say against each other."""
    faults = []
    mirror = recipe.mirror or ""
    dated = "{snapshot}" in mirror
    if recipe.snapshot and not dated:
        faults.append(
            f"snapshot: got {recipe.snapshot!r} with mirror {recipe.mirror!r}, expected a mirror that keeps old "
            "states, with {snapshot} where the date goes"
        )
    if dated and not recipe.snapshot:
        faults.append("mirror: got {snapshot} in it but no snapshot, expected one such as '20260901T000000Z'")
    if re.search("[{}]", mirror.replace("{snapshot}", "").replace("{archive}", "")):
        faults.append(f"mirror: got {mirror!r}, expected no braces but {{snapshot}} and {{archive}}")
    known = (recipe.suite, *(recipe.extra_suites or ()))
    asked = [(f"packages ({one})", one.partition("/")[2]) for one in recipe.packages if "/" in one]
    asked += [("priorities", suite) for suite in recipe.priorities]
    for where, suite in asked:
        if suite not in known:
            faults.append(f"{where}: got {suite!r}, expected the suite or one of extra_suites ({', '.join(known)})")
    for number, suite in enumerate(recipe.extra_suites or ()):
        if mirror and suite.endswith("-security") and "{archive}" not in mirror:
            faults.append(
                f"extra_suites[{number}]: got {suite!r}, which is in an archive of its own; expected {{archive}} in "
                "the mirror, where debian or debian-security goes"
            )
    return faults


def _named(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give (path in the recipe, source) of what a perhaps faulty recipe names well enough to be looked for."""
    scripts = table.get("scripts")
    for number, file in _tables(table, "files"):
        if _is_source(file.get("source")):
            yield f"files[{number}].source", file["source"]
    for number, script in enumerate(scripts if isinstance(scripts, list) else ()):
        if _is_source(script):
            yield f"scripts[{number}]", script


def _tables(table: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    found = table.get(key)
    for number, item in enumerate(found if isinstance(found, list) else ()):
        if isinstance(item, dict):
            yield number, item


def _twice(table: dict[str, Any], key: str, field: str, what: str) -> list[str]:
    seen: dict[object, int] = {}
    faults = []
    for number, item in _tables(table, key):
        value = item.get(field)
        if not isinstance(value, str | int):
            continue
        if value in seen:
            first = seen[value]
            faults.append(
                f"{key}[{number}].{field}: got {value!r} again, expected another {what} than {key}[{first}]'s"
            )
        seen.setdefault(value, number)
    return faults


def _is_source(value: object) -> bool:
    return isinstance(value, str) and re.match(rf"{PART}(/{PART})*\Z", value) is not None


def _read(folder: Path, source: str) -> bytes:
    root = folder.resolve()
    found = (root / PurePosixPath(source)).resolve()
    if not found.is_relative_to(root):
        raise OSError("it leads out of the recipe's folder")
    with open_plain(found) as file:
        return file.read()
