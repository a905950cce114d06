"""A recipe: what an image is made of, read from a TOML file with all its faults named at once.

    name = "demo"                       # the job's vm_name
    suite = "trixie"
    packages = ["gcc"]                  # beside those that every guest needs
    scripts = ["setup"]                 # run as root inside the tree, in this order; beside the recipe
    disk_bytes = "2GiB"
    memory_bytes = "512MiB"             # least memory of a machine

    [[files]]
    source = "motd"                     # beside the recipe or below it
    to = "/etc/motd"
    mode = "0644"

Rules, told first:
- Files and scripts are named relative to the recipe's folder and can't leave it, not even by a symbolic link.
- Where a file goes is an absolute path without `.` and `..`.
- The environment changes nothing in what a recipe means.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from deskgrid.host import toml
from deskgrid.images.contract import ImageError
from deskgrid.model.names import Name

GIB = 1 << 30
MIB = 1 << 20

Package = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9+.-]{1,99}(:[a-z0-9]+)?\Z")]
Word = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,63}\Z")]
Mirror = Annotated[str, msgspec.Meta(pattern=r"^(https?://[!-~]+|file:/[!-~]+|copy:/[!-~]+)\Z")]
Mode = Annotated[str, msgspec.Meta(pattern=r"^0?[0-7]{3}\Z")]
_PART = r"(?!\.{1,2}(/|\Z))[^/\x00-\x1f\x7f]+"
Destination = Annotated[str, msgspec.Meta(pattern=rf"^(/{_PART})+\Z", max_length=1000)]
Source = Annotated[str, msgspec.Meta(pattern=rf"^{_PART}(/{_PART})*\Z", max_length=1000)]


class RecipeFile(msgspec.Struct, frozen=True):
    """One file that goes into the image, owned by root. source: beside the recipe; to: its path in the image."""

    source: Source
    to: Destination
    mode: Mode = "0644"


class Recipe(msgspec.Struct, frozen=True):
    """What an image is made of.

    name: the image's name, which jobs ask for. suite: Debian's release, such as "trixie". packages: of Debian, beside
    those that every image needs. files: copied into the image. scripts: run in its tree, in order.
    disk_bytes: size of the (sparse) disk. memory_bytes: least memory a machine needs.
    components: parts of Debian's archive. mirror: where it is; none: where mmdebstrap finds it.
    source_date: no time stamp in the image is later (for the same bytes).
    """

    name: Name
    suite: Word
    packages: tuple[Package, ...] = ()
    files: tuple[RecipeFile, ...] = ()
    scripts: tuple[Source, ...] = ()
    disk_bytes: Annotated[int, msgspec.Meta(ge=GIB, le=2048 * GIB)] = 2 * GIB
    memory_bytes: Annotated[int, msgspec.Meta(ge=256 * MIB, le=1024 * GIB)] = 512 * MIB
    components: tuple[Word, ...] = ("main",)
    mirror: Mirror | None = None
    source_date: Annotated[int, msgspec.Meta(ge=0, le=1 << 33)] = 1735689600


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
    """Read a recipe and what it names.

    Raises:
        BadRecipe: with all faults at once.
    """
    faults: list[str] = []
    recipe = None
    try:
        recipe = toml.read(path, Recipe)
    except toml.BadSettings as bad:
        faults += bad.faults
    contents = _contents(path, faults)
    if recipe is None or faults:
        raise BadRecipe(str(path), faults)
    return Loaded(
        str(path),
        recipe,
        tuple(contents[file.source] for file in recipe.files),
        tuple(contents[script] for script in recipe.scripts),
    )


def _contents(path: Path, faults: list[str]) -> dict[str, bytes]:
    """Read what the recipe names, also when it has faults elsewhere; add the faults of what can't be used."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    contents: dict[str, bytes] = {}
    for where, source in _named(table):
        try:
            contents[source] = _read(path.parent, source)
        except OSError as error:
            faults.append(f"{where}: got {source!r}, expected a file beside the recipe: {error.strerror or error}")
            continue
        if where.startswith("scripts") and not contents[source].startswith(b"#!/"):
            faults.append(f"{where}: got {source!r} without an interpreter, expected a first line like #!/bin/sh")
    faults += _repeated(table)
    return contents


def _named(table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Give (path in the recipe, source) of what a perhaps faulty recipe names well enough to be looked for."""
    files, scripts = table.get("files"), table.get("scripts")
    for number, file in enumerate(files if isinstance(files, list) else ()):
        if isinstance(file, dict) and _is_source(file.get("source")):
            yield f"files[{number}].source", file["source"]
    for number, script in enumerate(scripts if isinstance(scripts, list) else ()):
        if _is_source(script):
            yield f"scripts[{number}]", script


def _repeated(table: dict[str, Any]) -> list[str]:
    files = table.get("files")
    seen: dict[str, int] = {}
    faults = []
    for number, file in enumerate(files if isinstance(files, list) else ()):
        to = file.get("to") if isinstance(file, dict) else None
        if not isinstance(to, str):
            continue
        if to in seen:
            faults.append(f"files[{number}].to: got {to!r} again, expected another path than files[{seen[to]}]'s")
        seen.setdefault(to, number)
    return faults


def _is_source(value: object) -> bool:
    return isinstance(value, str) and re.match(rf"{_PART}(/{_PART})*\Z", value) is not None


def _read(folder: Path, source: str) -> bytes:
    root = folder.resolve()
    found = (root / PurePosixPath(source)).resolve()
    if not found.is_relative_to(root):
        raise OSError("it leads out of the recipe's folder")
    return found.read_bytes()
