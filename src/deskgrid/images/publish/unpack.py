"""A published image taken apart again, for a person who wants to know what is in it before signing it.

Rules:
- Only the signed manifest is believed. Every chunk is checked up to it, and must be what its name says.
- It goes into a folder of its own, which must be new; holes stay holes.
"""

from collections.abc import Callable
from pathlib import Path

from deskgrid.host.system.files import open_plain
from deskgrid.images.contract import ImageError
from deskgrid.images.format.keys import NAME_BYTES, Damaged, ProjectKey
from deskgrid.images.format.manifest import DISK, INITRD, KERNEL, SEED, measure, read, reference
from deskgrid.images.format.packs import PackIndex
from deskgrid.images.format.published import HOLE, STREAMS, PublishedManifest, Table, decode, span, title
from deskgrid.images.publish.publish import Publication, pack_path

FILES = dict(zip(STREAMS, (DISK, KERNEL, INITRD, SEED), strict=True))


def unpack(
    content: bytes, root: Path, key: ProjectKey, to: Path, progress: Callable[[float], None] = lambda part: None
) -> Publication:
    """Write disk, kernel, initrd and seed of an image into the new folder `to`.

    Args:
        content: its manifest, as it is signed. root: the folder of the repository, with the packs.

    Raises: ImageError when something is missing, is not what the manifest says, or the folder is there.
    """
    manifest, table = decode(content)
    if manifest.key_id != key.key_id:
        raise ImageError(f"image {title(manifest)}: it was published under another key than this; give that one")
    packs = _Packs(manifest, root, key)
    done, whole = 0, sum(getattr(manifest, name).bytes for name in STREAMS) or 1
    try:
        to.mkdir(mode=0o700)
        for name in STREAMS:
            if getattr(manifest, name).bytes:
                _write(to / FILES[name], name, manifest, table, packs)
            done += getattr(manifest, name).bytes
            progress(done / whole)
    except OSError as error:
        raise ImageError(f"unpacking {title(manifest)} into {to}: {error.strerror}; give a new folder") from None
    kernel, initrd, seed = (to / FILES[name] if getattr(manifest, name).bytes else None for name in STREAMS[1:])
    return Publication(
        to / DISK,
        kernel,
        initrd,
        manifest.cmdline,
        manifest.memory_bytes,
        manifest.packages,
        manifest.source,
        seed=seed,
    )


def same_as_built(found: Publication, built: Path) -> list[str]:
    """What is not the same in an unpacked image and in one's own build; nothing: all is. Raises: ImageError."""
    ref = reference(built.resolve())
    held = read(built, ref)
    faults = []
    if found.digest != ref.digest:
        faults.append(f"it says that it was built as {found.digest}, your build is {ref.digest}")
    said, true = (found.cmdline, found.memory_bytes), (held.cmdline, held.memory_bytes)
    if said != true:
        faults.append(f"got the kernel command line and memory {said}, expected {true}")
    if sorted(found.packages) != sorted(held.packages):
        faults.append("it lists other packages than your build")
    files = held.files()
    for stream, name in FILES.items():
        path = getattr(found, stream)
        if (measure(path) if path is not None else None) != files.get(name):
            faults.append(f"{name} is not the one of your build")
    return faults


def _write(path: Path, name: str, manifest: PublishedManifest, table: Table, packs: "_Packs") -> None:
    where = span(manifest, table, name)
    with path.open("wb") as file:
        file.truncate(where.offsets[-1])
        for at, offset in enumerate(where.offsets[:-1]):
            number = where.first + at
            if table.packs[number] != HOLE:
                file.seek(offset)
                file.write(packs.chunk(table.packs[number], table.blobs[number], table.lengths[number]))


class _Packs:
    """The packs of an image, in a folder that is not believed."""

    def __init__(self, manifest: PublishedManifest, root: Path, key: ProjectKey) -> None:
        self._manifest, self._root, self._key = manifest, root, key
        self._indexes: dict[int, PackIndex] = {}

    def chunk(self, pack: int, blob: int, raw_bytes: int) -> bytes:
        """A chunk in the clear. Raises: ImageError, OSError."""
        facts = self._manifest.packs[pack]
        with open_plain(pack_path(self._root, self._manifest.project, facts.name)) as file:
            if pack not in self._indexes:
                self._indexes[pack] = PackIndex(facts.name, file.read(facts.index_bytes))
            index = self._indexes[pack]
            start, end = index.span(blob)
            file.seek(start)
            sealed = file.read(end - start)
        index.check(blob, sealed)
        plain = self._key.open(sealed, raw_bytes)
        if self._key.name(plain) != sealed[:NAME_BYTES]:
            raise Damaged(f"pack {facts.name[:12]}…: blob {blob} is not what its name says; don't sign this image")
        return plain
