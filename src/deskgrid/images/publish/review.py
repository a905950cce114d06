"""What an approver should know of a published version, beside the one that was approved before it.

Rules:
- It lists all by which its machines would differ: packages, the kernel's command line, memory, the sizes of what it
  boots from, what it says of itself, which image was built, how many chunks are new, and where other ones stand.
- "The same" is said of what is equal, not of what looks so: whole values are compared, and shown uncut.
- A manifest that can't be read, or has in it what deskgrid never writes, is refused: nobody can know what he approves.
"""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.format.manifest import Package
from deskgrid.images.format.published import (
    HOLE,
    STREAMS,
    PublishedManifest,
    Stream,
    Table,
    boot_order,
    decode,
    encode,
    span,
    title,
)
from deskgrid.model.values.text import counted, plain


def differences(before: bytes | None, after: bytes) -> Sequence[str]:
    """What is new in a manifest: a sentence each. before: the one approved before, if any. Raises: ImageError."""
    new, table = decode(after)
    if encode(new) != after:
        raise ImageError(
            f"manifest of {title(new)}: it has something in it that deskgrid does not write, so nobody would see it; "
            "don't sign it"
        )
    old, old_table = decode(before) if before is not None else (None, None)
    was = {} if old is None else _told(old)
    return (
        *(_fact(what, fact, was.get(what)) for what, fact in _told(new).items() if fact[1] or was.get(what)),
        *_said(old, new),
        _chunks(old, old_table, new, table),
        *(_places(old, old_table, new, table) if old is not None and old_table is not None else ()),
        *_packages(old.packages if old else None, new.packages),
    )


_TOLD_APART = ("table", "packs", "packages", "boot", "version", "says")
_NAMES = {
    "source": "built image",
    "key_id": "key of the project",
    "cmdline": "kernel command line",
    "memory_bytes": "memory",
}
_Fact = tuple[object, str]
"""A value, and how it is shown."""


def _told(manifest: PublishedManifest) -> dict[str, _Fact]:
    """All fields of a manifest for people, also those that later versions of deskgrid add."""
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__ if name not in _TOLD_APART}
    boot = boot_order(manifest)
    return {
        **{_NAMES.get(name, name.replace("_", " ")): (value, _text(name, value)) for name, value in fields.items()},
        "boot order": (boot, counted(len(boot), "chunk")),
    }


def _text(name: str, value: object) -> str:
    if isinstance(value, Stream):
        return f"{value.bytes} bytes"
    if isinstance(value, tuple):
        return plain(", ".join(msgspec.json.encode(each).decode() for each in value))
    return f"{plain(str(value))}{' bytes' if name.endswith('_bytes') else ''}"


def _fact(what: str, new: _Fact, old: _Fact | None) -> str:
    if old is None:
        return f"{what}: {new[1]}"
    if old[0] == new[0]:
        return f"{what}: {new[1]}, the same"
    return f"{what}: {new[1]}, not the same" if old[1] == new[1] else f"{what}: {old[1]} → {new[1]}"


def _chunks(old: PublishedManifest | None, old_table: Table | None, new: PublishedManifest, table: Table) -> str:
    known = _lengths(old, old_table) if old is not None and old_table is not None else {}
    here = _lengths(new, table)
    fresh = here.keys() - known.keys()
    new_bytes, all_bytes = sum(here[place] for place in fresh), sum(here.values())
    return (
        f"chunks: {len(fresh)} of {len(here)} are new, {new_bytes} of {all_bytes} bytes; "
        f"{len(known.keys() - here.keys())} are gone"
    )


def _lengths(manifest: PublishedManifest, table: Table) -> dict[tuple[str, int], int]:
    """The chunks of an image by what names them, with their lengths."""
    return {
        (manifest.packs[pack].name, blob): length
        for length, pack, blob in zip(table.lengths, table.packs, table.blobs, strict=True)
        if pack != HOLE
    }


def _places(old: PublishedManifest, old_table: Table, new: PublishedManifest, table: Table) -> Iterator[str]:
    """Where a file of the image has other chunks: the same ones in another order are another file."""
    for name in STREAMS:
        was, is_ = _laid(old, old_table, name), _laid(new, table, name)
        every = was.keys() | is_.keys()
        other = sum(was.get(at) != is_.get(at) for at in every)
        if every:
            yield f"content of {name}: " + (
                f"{other} of {len(every)} places have other chunks" if other else "the same"
            )


def _laid(manifest: PublishedManifest, table: Table, name: str) -> dict[int, tuple[str, int, int]]:
    """The chunks and holes of one file by where they begin."""
    where = span(manifest, table, name)
    return {
        offset: ("", 0, table.lengths[at])
        if table.packs[at] == HOLE
        else (manifest.packs[table.packs[at]].name, table.blobs[at], table.lengths[at])
        for at, offset in enumerate(where.offsets[:-1], where.first)
    }


def _said(old: PublishedManifest | None, new: PublishedManifest) -> Sequence[str]:
    """What its machines advertise: each attribute that is not the same."""
    was = [(each.name, f"= {each.text}") for each in old.says] if old else []
    changed = [f"its machines say: {line}" for line in _lines(was, [(one.name, f"= {one.text}") for one in new.says])]
    return changed or (("its machines say of themselves: the same",) if new.says else ())


def _packages(before: Sequence[Package] | None, after: Sequence[Package]) -> Sequence[str]:
    if before is None:
        said = f"the first version, with {counted(len(after), 'package')}"
        return (said if after else "it lists no packages: look into it",)
    was = [(one.name, one.version) for one in before]
    return _lines(was, [(one.name, one.version) for one in after]) or ("the same packages",)


def _lines(before: Iterable[tuple[str, str]], after: Iterable[tuple[str, str]]) -> Sequence[str]:
    """What came, what is gone, what is another; several of one name are told together."""
    old, new = _by_name(before), _by_name(after)
    lines = (
        *(f"+ {name} {new[name]}" for name in sorted(new.keys() - old.keys())),
        *(f"- {name} {old[name]}" for name in sorted(old.keys() - new.keys())),
        *(f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]),
    )
    return tuple(map(plain, lines))


def _by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, value in sorted(pairs):
        found.setdefault(name, []).append(value)
    return {name: ", ".join(values) for name, values in found.items()}
