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

Rules, told first:
- Files and scripts are named relative to the recipe's folder and can't leave it, not even by a symbolic link.
- Where a file goes is an absolute path without `.` and `..`.
- The environment changes nothing in what a recipe means.
"""

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec

from deskgrid.host import toml
from deskgrid.host.files import decoded, open_plain
from deskgrid.images import recipe_faults
from deskgrid.images.contract import ImageError
from deskgrid.model.help import Help
from deskgrid.model.names import Name
from deskgrid.model.outside import read_toml

GIB = 1 << 30
MIB = 1 << 20


def _words(pattern: str, expected: str, most: int | None = None) -> msgspec.Meta:
    """What a text must look like, and that in words."""
    return msgspec.Meta(pattern=pattern, description=expected, max_length=most)


_PART = recipe_faults.PART
_BESIDE = "a path beside the recipe such as setup or scripts/setup, without . and .."
_PACKAGE = r"^[a-z0-9][a-z0-9+.-]{1,99}(:[a-z0-9]+)?(/[a-z][a-z0-9-]{0,63})?\Z"
_ADDRESS = r"^(https?://[!-~]+|file:/[!-~]+|copy:/[!-~]+)\Z"
Package = Annotated[str, _words(_PACKAGE, "a package of Debian such as gcc, gcc:arm64 or golang-go/trixie-backports")]
Word = Annotated[str, _words(r"^[a-z][a-z0-9-]{0,63}\Z", "a word such as trixie or main")]
Mirror = Annotated[str, _words(_ADDRESS, "an address that begins with http://, https://, file:/ or copy:/")]
Snapshot = Annotated[str, _words(r"^[0-9]{8}T[0-9]{6}Z\Z", "a time such as 20260901T000000Z")]
Mode = Annotated[str, _words(r"^0?[0-7]{3}\Z", "a mode such as 0644")]
Destination = Annotated[str, _words(rf"^(/{_PART})+\Z", "a path such as /etc/motd, without . and ..", 1000)]
Source = Annotated[str, _words(rf"^{_PART}(/{_PART})*\Z", _BESIDE, 1000)]
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


class Loaded(msgspec.Struct, frozen=True):
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


def load(path: Path) -> Loaded:
    """Read a recipe, what it names, and what it extends.

    Raises:
        BadRecipe: with all faults at once.
    """
    return _load(path, ())


def address(recipe: Recipe, suite: str) -> str:
    """Return where a suite's archive is, by the recipe's mirror and snapshot; "" where mmdebstrap shall find it."""
    archive = "debian-security" if suite.endswith("-security") else "debian"
    return (recipe.mirror or "").replace("{archive}", archive).replace("{snapshot}", recipe.snapshot or "")


def _load(path: Path, extended_by: tuple[Path, ...]) -> Loaded:
    faults: list[str] = []
    table = _table(path, faults)
    base = _base(path, table.pop("from", None), extended_by, faults)
    own = _convert(path, table, base, faults) if not faults or table else None
    contents = recipe_faults.contents(path.parent, table, faults)
    faults += recipe_faults.crossed(table)
    if own is None or faults:
        raise BadRecipe(str(path), faults)
    files = tuple(contents[file.source] for file in own.files)
    scripts = tuple(contents[script] for script in own.scripts)
    loaded = _extended(base, Loaded(str(path), own, files, scripts), table.keys())
    if not extended_by and (crossed := recipe_faults.archives(loaded.recipe)):
        raise BadRecipe(str(path), crossed)
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


def _base(path: Path, named: object, extended_by: tuple[Path, ...], faults: list[str]) -> Loaded | None:
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


def _convert(path: Path, table: dict[str, Any], base: Loaded | None, faults: list[str]) -> Recipe | None:
    inherited = {"suite": base.recipe.suite} if base else {}
    try:
        return toml.convert(inherited | table, Recipe, str(path))
    except toml.BadSettings as bad:
        known_by_base = any(fault.startswith("from") for fault in faults)
        faults += [fault for fault in bad.faults if not (known_by_base and fault.startswith("suite: missing"))]
        return None


def _extended(base: Loaded | None, own: Loaded, said: Any) -> Loaded:
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
    return Loaded(own.where, recipe, tuple(data for _, data in files.values()), (*base.scripts, *own.scripts))
