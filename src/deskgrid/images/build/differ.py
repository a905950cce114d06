"""What changed between two images, for people: packages, recipe, files.

Rules:
- Only what the images say of themselves is looked at; their disks are not opened.
- A package whose version is the same but whose .deb is another one was built again: that is said too.
- Of files: content, kind, mode, owner and target count, times don't.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from deskgrid.images.build import contents, sbom
from deskgrid.images.build.contents import TreeEntry
from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest


class Change(msgspec.Struct, frozen=True):
    """What was and what is; "" where there was or is none."""

    what: str
    old: str
    new: str


class Difference(msgspec.Struct, frozen=True):
    """What changed. recipe, sizes: by field. files: None when one of the images does not say what is in it."""

    same: bool
    added: tuple[Change, ...]
    removed: tuple[Change, ...]
    changed: tuple[Change, ...]
    rebuilt: tuple[str, ...]
    recipe: tuple[Change, ...]
    sizes: tuple[Change, ...]
    files: tuple[Change, ...] | None


class Side(msgspec.Struct, frozen=True):
    """One of the two images. sums: of packages by name:architecture. files: None when it does not say."""

    manifest: Manifest
    sums: Mapping[str, str]
    files: Mapping[str, TreeEntry] | None


def read(folder: Path, held: Manifest) -> Side:
    """Read what an image says of itself. Raises: ImageError."""
    try:
        sums = sbom.sums(_checked(folder / manifest.SBOM, held.sbom)) if held.sbom else {}
        files = contents.decode(_checked(folder / manifest.CONTENTS, held.contents)) if held.contents else None
    except OSError as error:
        raise ImageError(f"image {held.name}: {error.filename}: {error.strerror}; build it again") from None
    return Side(held, sums, files)


def compare(old: Side, new: Side) -> Difference:
    """Return what changed from one image to the other."""
    before = {package.name: package.version for package in old.manifest.packages}
    after = {package.name: package.version for package in new.manifest.packages}
    return Difference(
        same=old.manifest == new.manifest,
        added=tuple(Change(name, "", after[name]) for name in sorted(after.keys() - before.keys())),
        removed=tuple(Change(name, before[name], "") for name in sorted(before.keys() - after.keys())),
        changed=tuple(
            Change(name, before[name], after[name])
            for name in sorted(before.keys() & after.keys())
            if before[name] != after[name]
        ),
        rebuilt=tuple(sorted(_rebuilt(old, new, before, after))),
        recipe=tuple(_recipe(old.manifest, new.manifest)),
        sizes=tuple(_sizes(old.manifest, new.manifest)),
        files=None if old.files is None or new.files is None else tuple(_files(old.files, new.files)),
    )


def cause(difference: Difference) -> str:
    """Say in one sentence why two builds of one recipe are not equal."""
    moved = [change.what for change in (*difference.added, *difference.removed, *difference.changed)]
    if moved:
        return f"packages differ: {_some(moved)}; the archive changed between the two builds: try again"
    if difference.rebuilt:
        return f"packages of the same version came from other files: {_some(difference.rebuilt)}"
    if difference.files:
        names = _some([change.what for change in difference.files])
        return f"files differ: {names}; a package or a script writes what changes"
    return "every file is the same, but the disks differ"


def _checked(path: Path, facts: manifest.FileFacts | None) -> bytes:
    if facts is not None and manifest.measure(path) != facts:
        raise ImageError(f"{path}: got other content than the image had when it was built; build it again")
    return path.read_bytes()


def _rebuilt(old: Side, new: Side, before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    both = ((key, old.sums[key], new.sums[key]) for key in old.sums.keys() & new.sums.keys())
    names = {key.split(":")[0] for key, was, now in both if was and now and was != now}
    return {name for name in names if before.get(name) == after.get(name)}


def _recipe(old: Manifest, new: Manifest) -> list[Change]:
    before, after = _table(old), _table(new)
    return [
        Change(key, _text(before.get(key)), _text(after.get(key)))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _table(held: Manifest) -> dict[str, Any]:
    told = held.recipe if held.recipe is not None else held.imported
    table: dict[str, Any] = msgspec.to_builtins(told)
    return table


def _text(value: object) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return " ".join(value)
    return "" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _sizes(old: Manifest, new: Manifest) -> list[Change]:
    before, after = old.files(), new.files()
    found = [Change("memory_bytes", str(old.memory_bytes), str(new.memory_bytes))]
    for name in (manifest.DISK, manifest.KERNEL, manifest.INITRD):
        was, now = before.get(name), after.get(name)
        found.append(Change(name, str(was.size_bytes) if was else "", str(now.size_bytes) if now else ""))
    return [change for change in found if change.old != change.new]


def _files(old: Mapping[str, TreeEntry], new: Mapping[str, TreeEntry]) -> list[Change]:
    found = []
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path), new.get(path)
        if was != now:
            found.append(Change(f"/{path}", _seen(was, now), _seen(now, was)))
    return found


def _seen(one: TreeEntry | None, other: TreeEntry | None) -> str:
    """What is to be said of a file beside the other one: what differs."""
    if one is None:
        return ""
    if other is None or one.kind != other.kind:
        return one.kind
    said = []
    if (one.sha256, one.link) != (other.sha256, other.link):
        said.append(one.link or f"{one.size} bytes {one.sha256[:8]}")
    if one.mode != other.mode:
        said.append(f"{one.mode:04o}")
    if (one.uid, one.gid) != (other.uid, other.gid):
        said.append(f"{one.uid}:{one.gid}")
    return " ".join(said)


def _some(names: object) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
