"""A recipe: what an image is made of, read from a TOML file with all its faults named at once.

    name = "demo"                       # the job's vm_name
    suite = "trixie"
    packages = ["gcc"]                  # beside those that every guest needs
    scripts = ["setup"]                 # run as root inside the tree, in this order; beside the recipe
    disk_bytes = "2GiB"
    memory_bytes = "512MiB"             # least memory of a machine
    extra_suites = ["trixie-updates"]   # exactly these beside the suite; unsaid: updates and security of a release
    priorities = {sid = 100}            # of APT's choice between suites; unsaid: as the archive says

    [[files]]
    source = "motd"                     # beside the recipe or below it
    to = "/etc/motd"
    mode = "0644"

    [[users]]                           # accounts without passwords
    name = "alice"
    uid = 1000

`from = "other.toml"` extends another recipe (a path relative to this one):
- name must be said; every other single value is this recipe's if it says one, else the other's; so are `components`,
  `extra_suites` and `priorities`, as wholes;
- packages and scripts are the other's, then this one's; a package twice counts once;
- a file with the same `to`, a user with the same name takes the place of the other's;
- what a recipe names lies beside that recipe. A recipe that extends itself, over however many others, is refused.

`snapshot = "20260901T000000Z"` builds from the archive as it was then; `mirror` says where such an archive is, with
`{snapshot}` where the date goes, and `{archive}` where `debian` or, for security suites, `debian-security` goes. Its
package lists may be older than their validity says.

Rules:
- Files and scripts are named relative to the recipe's folder and can't leave it, not even by a symbolic link.
- Where a file goes is an absolute path without `.` and `..`.
- The environment changes nothing in what a recipe means.
- Faults that types can't tell (what it names is not there, is named twice, does not fit) are looked for in the table as
  it was read, also when it has faults elsewhere, so that all are told at once.
"""

import codecs
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from deskgrid.host.system import toml
from deskgrid.host.system.files import decoded, open_plain
from deskgrid.images.contract import ImageError
from deskgrid.model.values.help import Help
from deskgrid.model.values.names import Name
from deskgrid.model.values.outside import read_toml

PART = r"(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+"
"""A part of a path."""

SLOT_UIDS = range(2001, 2033)
"""The accounts that jobs run as (guest/prepare)."""
GIB = 1 << 30
MIB = 1 << 20


def _words(pattern: str, expected: str, most: int | None = None) -> msgspec.Meta:
    """What a text must look like, and that in words."""
    return msgspec.Meta(pattern=pattern, description=expected, max_length=most)


_BESIDE = "a path beside the recipe such as setup or scripts/setup, without . and .."
_PACKAGE = r"^[a-z0-9][a-z0-9+.-]{1,99}(:[a-z0-9]+)?(/[a-z][a-z0-9-]{0,63})?\Z"
_ADDRESS = r"^(https?://[!-~]+|file:/[!-~]+|copy:/[!-~]+)\Z"
Package = Annotated[str, _words(_PACKAGE, "a package of Debian such as gcc, gcc:arm64 or golang-go/trixie-backports")]
Word = Annotated[str, _words(r"^[a-z][a-z0-9-]{0,63}\Z", "a word such as trixie or main")]
Mirror = Annotated[str, _words(_ADDRESS, "an address that begins with http://, https://, file:/ or copy:/")]
Snapshot = Annotated[str, _words(r"^[0-9]{8}T[0-9]{6}Z\Z", "a time such as 20260901T000000Z")]
Mode = Annotated[str, _words(r"^0?[0-7]{3}\Z", "a mode such as 0644")]
Destination = Annotated[str, _words(rf"^(/{PART})+\Z", "a path such as /etc/motd, without . and ..", 1000)]
Source = Annotated[str, _words(rf"^{PART}(/{PART})*\Z", _BESIDE, 1000)]
Account = Annotated[str, _words(r"^[a-z_][a-z0-9_-]{0,30}\Z", "an account's name such as alice")]
Shell = Annotated[str, _words(r"^(/[A-Za-z0-9._-]+)+\Z", "a program's path such as /bin/sh", 200)]
Priority = Annotated[int, msgspec.Meta(ge=-1, le=1000)]

_MOST_BASES = 8


class RecipeFile(msgspec.Struct, frozen=True):
    """One file that goes into the image, owned by root. source: beside the recipe; to: its path in the image."""

    source: Source
    to: Destination
    mode: Mode = "0644"


class RecipeUser(msgspec.Struct, frozen=True):
    """An account with a home and without a password. groups: further ones; those that are not there are made."""

    name: Account
    uid: Annotated[int, msgspec.Meta(ge=1000, le=59999)]
    groups: tuple[Account, ...] = ()
    shell: Shell = "/bin/sh"


class Recipe(msgspec.Struct, frozen=True):
    """What an image is made of."""

    name: Annotated[Name, Help("the image's name, which jobs ask for")]
    suite: Annotated[Word, Help('Debian\'s release, such as "trixie"')]
    packages: Annotated[tuple[Package, ...], Help("of Debian, beside those that every image needs")] = ()
    files: Annotated[tuple[RecipeFile, ...], Help("copied into the image")] = ()
    scripts: Annotated[tuple[Source, ...], Help("run in its tree, in order")] = ()
    disk_bytes: Annotated[int, msgspec.Meta(ge=GIB, le=2048 * GIB), Help("size of the (sparse) disk")] = 2 * GIB
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 * MIB, le=1024 * GIB), Help("least memory a machine needs")] = (
        512 * MIB
    )
    components: Annotated[tuple[Word, ...], Help("parts of Debian's archive")] = ("main",)
    mirror: Annotated[Mirror | None, Help("where it is; none: where mmdebstrap finds it")] = None
    source_date: Annotated[
        int, msgspec.Meta(ge=0, le=1 << 33), Help("no time stamp in the image is later (for the same bytes)")
    ] = 1735689600
    extra_suites: Annotated[
        tuple[Word, ...] | None,
        Help(
            'packages also come from these, such as "trixie-updates"; none given: from updates and '
            "security if the suite is a release; an empty list: from the suite alone"
        ),
    ] = None
    snapshot: Annotated[Snapshot | None, Help('the archive\'s state to build from, such as "20260901T000000Z"')] = None
    users: Annotated[tuple[RecipeUser, ...], Help("accounts of the image, without passwords")] = ()
    priorities: Annotated[
        dict[Word, Priority],
        Help(
            "how much APT prefers packages of a suite (apt_preferences(5)); unsaid: what the archive "
            'says: 500, or 100 for backports. A package may name its suite itself: "golang-go/trixie-'
            'backports"'
        ),
    ] = {}


class LoadedRecipe(msgspec.Struct, frozen=True):
    """A recipe with the content of its files and scripts, in the recipe's order. where: the recipe's path."""

    where: str
    recipe: Recipe
    files: tuple[bytes, ...]
    scripts: tuple[bytes, ...]


class BadRecipe(ImageError):
    """A recipe with faults. `faults` holds one sentence each, with its path in the file."""

    def __init__(self, where: str, faults: list[str]) -> None:
        self.where, self.faults = where, tuple(faults)
        super().__init__("\n".join(f"{where}: {fault}" for fault in faults))


def load(path: Path) -> LoadedRecipe:
    """Read a recipe, what it names, and what it extends.

    Raises:
        BadRecipe: with all faults at once.
    """
    return _load(path, ())


def address(recipe: Recipe, suite: str) -> str:
    """Return where a suite's archive is, by the recipe's mirror and snapshot; "" where mmdebstrap shall find it."""
    archive = "debian-security" if suite.endswith("-security") else "debian"
    return (recipe.mirror or "").replace("{archive}", archive).replace("{snapshot}", recipe.snapshot or "")


def _load(path: Path, extended_by: tuple[Path, ...]) -> LoadedRecipe:
    faults: list[str] = []
    table = _table(path, faults)
    base = _base(path, table.pop("from", None), extended_by, faults)
    own = _convert(path, table, base, faults) if not faults or table else None
    read = contents(path.parent, table, faults)
    faults += crossed(table)
    if own is None or faults:
        raise BadRecipe(str(path), faults)
    files = tuple(read[file.source] for file in own.files)
    scripts = tuple(read[script] for script in own.scripts)
    loaded = _extended(base, LoadedRecipe(str(path), own, files, scripts), table.keys())
    if not extended_by and (clash := archives(loaded.recipe)):
        raise BadRecipe(str(path), clash)
    return loaded


def _table(path: Path, faults: list[str]) -> dict[str, Any]:
    try:
        with open_plain(path) as file:
            return read_toml(decoded(file.read()))
    except OSError as error:
        faults.append(f"cannot be read: {error.strerror}; expected a TOML file")
    except ValueError as error:
        faults.append(f"not valid TOML: {error}")
    return {}


def _base(path: Path, named: object, extended_by: tuple[Path, ...], faults: list[str]) -> LoadedRecipe | None:
    """Load the recipe that this one extends; its faults become faults of this one's `from`."""
    if named is None:
        return None
    if not isinstance(named, str) or not re.fullmatch(r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,999}", named):
        faults.append(f"from: got {named!r}, expected another recipe's path, relative to this one")
        return None
    chain = (*extended_by, path.resolve())
    other = path.parent / named
    if other.resolve() in chain or len(chain) > _MOST_BASES:
        round_about = " from ".join(step.name for step in (*chain, other))
        faults.append(f"from: got {named!r}: {round_about}; expected a recipe that does not lead back here")
        return None
    try:
        return _load(other, chain)
    except BadRecipe as bad:
        faults += [f"from ({other}): {fault}" for fault in bad.faults]
        return None


def _convert(path: Path, table: dict[str, Any], base: LoadedRecipe | None, faults: list[str]) -> Recipe | None:
    inherited = {"suite": base.recipe.suite} if base else {}
    try:
        return toml.convert(inherited | table, Recipe, str(path))
    except toml.BadSettings as bad:
        known_by_base = any(fault.startswith("from") for fault in faults)
        faults += [fault for fault in bad.faults if not (known_by_base and fault.startswith("suite: missing"))]
        return None


def _extended(base: LoadedRecipe | None, own: LoadedRecipe, said: Any) -> LoadedRecipe:
    """Lay a recipe over the one that it extends. said: the keys that it has."""
    if base is None:
        return own
    files = {file.to: (file, data) for file, data in zip(base.recipe.files, base.files, strict=True)}
    files |= {file.to: (file, data) for file, data in zip(own.recipe.files, own.files, strict=True)}
    users = {user.name: user for user in (*base.recipe.users, *own.recipe.users)}
    single = {key for key in Recipe.__struct_fields__ if key in said} - {"packages", "files", "scripts", "users"}
    recipe = msgspec.structs.replace(
        base.recipe,
        **{key: getattr(own.recipe, key) for key in single},
        packages=tuple(dict.fromkeys((*base.recipe.packages, *own.recipe.packages))),
        files=tuple(file for file, _ in files.values()),
        scripts=(*base.recipe.scripts, *own.recipe.scripts),
        users=tuple(users.values()),
    )
    return LoadedRecipe(own.where, recipe, tuple(data for _, data in files.values()), (*base.scripts, *own.scripts))


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


def archives(recipe: Recipe) -> list[str]:
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
