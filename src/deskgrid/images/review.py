"""What an approver should know of a published version, beside the one that was approved before it.

Rules, told first
- Told is all by which a machine of it would differ: packages, the kernel's command line, memory, the sizes of what it
  boots from, which image was built, how many chunks are new.
- A manifest that can't be read, or has in it what deskgrid never writes, is refused: nobody can know what he approves.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.images.chunks.manifest import (
    HOLE,
    PublishedManifest,
    Stream,
    Table,
    boot_order,
    decode,
    encode,
    title,
)
from deskgrid.images.contract import ImageError
from deskgrid.images.manifest import Package
from deskgrid.images.trust.words import readable
from deskgrid.model.counted import counted


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
        *(_fact(what, text, was.get(what)) for what, text in _told(new).items() if text or was.get(what)),
        _chunks(old, old_table, new, table),
        *_packages(old.packages if old else None, new.packages),
    )


_TOLD_APART = ("table", "packs", "packages", "boot", "version")
_NAMES = {
    "source": "built image",
    "key_id": "key of the project",
    "cmdline": "kernel command line",
    "memory_bytes": "memory",
    "says": "its machines say",
}


def _told(manifest: PublishedManifest) -> dict[str, str]:
    """All fields of a manifest for people, also those that later versions of deskgrid add."""
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__ if name not in _TOLD_APART}
    return {
        **{_NAMES.get(name, name.replace("_", " ")): _text(name, value) for name, value in fields.items()},
        "boot order": f"{counted(len(boot_order(manifest)), 'chunk')}",
    }


def _text(name: str, value: object) -> str:
    if isinstance(value, Stream):
        return f"{value.bytes} bytes"
    if isinstance(value, tuple):
        return readable(", ".join(msgspec.json.encode(each).decode() for each in value), 8192)
    return f"{readable(str(value), 4096)}{' bytes' if name.endswith('_bytes') else ''}"


def _fact(what: str, new: str, old: str | None) -> str:
    changed = f"{old} → {new}" if old is not None and old != new else new
    return f"{what}: {changed}{', the same' if old == new else ''}"


def _chunks(old: PublishedManifest | None, old_table: Table | None, new: PublishedManifest, table: Table) -> str:
    known = _places(old, old_table) if old is not None and old_table is not None else {}
    here = _places(new, table)
    fresh = here.keys() - known.keys()
    new_bytes, all_bytes = sum(here[place] for place in fresh), sum(here.values())
    return (
        f"chunks: {len(fresh)} of {len(here)} are new, {new_bytes} of {all_bytes} bytes; "
        f"{len(known.keys() - here.keys())} are gone"
    )


def _places(manifest: PublishedManifest, table: Table) -> dict[tuple[str, int], int]:
    """The chunks of an image by what names them, with their lengths."""
    return {
        (manifest.packs[pack].name, blob): length
        for length, pack, blob in zip(table.lengths, table.packs, table.blobs, strict=True)
        if pack != HOLE
    }


def _packages(before: Sequence[Package] | None, after: Sequence[Package]) -> tuple[str, ...]:
    new = _versions(after)
    if before is None:
        return (
            f"the first version, with {counted(len(new), 'package')}" if new else "it lists no packages: look into it",
        )
    old = _versions(before)
    return (
        *(f"+ {name} {new[name]}" for name in sorted(new.keys() - old.keys())),
        *(f"- {name} {old[name]}" for name in sorted(old.keys() - new.keys())),
        *(f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]),
    ) or ("the same packages",)


def _versions(packages: Sequence[Package]) -> dict[str, str]:
    return {readable(package.name): readable(package.version) for package in sorted(packages)}
