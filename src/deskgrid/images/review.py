"""What an approver should know of a published version, beside the one that was approved before it.

Rules, told first
- Told is all by which a machine of it would differ: packages, the kernel's command line, memory, the sizes of what it
  boots from, which image was built, how many chunks are new. What is the same is not told, but for a first version.
- A manifest that can't be read is refused: nobody can know what he approves there.
"""

from collections.abc import Sequence

from deskgrid.images.chunks.manifest import HOLE, STREAMS, PublishedManifest, Table, decode
from deskgrid.images.manifest import Package
from deskgrid.images.trust.words import readable

_MIB = 1 << 20


def differences(before: bytes | None, after: bytes) -> Sequence[str]:
    """What is new in a manifest: a sentence each. before: the one approved before, if any. Raises: ImageError."""
    new, table = decode(after)
    old, old_table = decode(before) if before is not None else (None, None)
    return (
        *_facts(old, new),
        _chunks(old, old_table, new, table),
        *_packages(old.packages if old else None, new.packages),
    )


def _facts(old: PublishedManifest | None, new: PublishedManifest) -> list[str]:
    was = {} if old is None else _told(old)
    return [_fact(what, text, was.get(what)) for what, text in _told(new).items()]


def _told(manifest: PublishedManifest) -> dict[str, str]:
    return {
        "built image": manifest.source,
        "kernel command line": readable(manifest.cmdline, 4096),
        "memory": f"{manifest.memory_bytes // _MIB} MiB",
        "key of the project": manifest.key_id,
        **{name: f"{getattr(manifest, name).bytes} bytes" for name in STREAMS},
    }


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
        return (f"the first version, with {len(new)} packages" if new else "it lists no packages: look into it",)
    old = _versions(before)
    return (
        *(f"+ {name} {new[name]}" for name in sorted(new.keys() - old.keys())),
        *(f"- {name} {old[name]}" for name in sorted(old.keys() - new.keys())),
        *(f"{name} {old[name]} → {new[name]}" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]),
    ) or ("the same packages",)


def _versions(packages: Sequence[Package]) -> dict[str, str]:
    return {readable(package.name): readable(package.version) for package in sorted(packages)}
