"""Look after a store: what it holds, whether it is right, and what can go.

Rules:
- `verify` reads everything; what is damaged is thrown away, so that it is fetched again when it is needed.
- `gc` removes what no image needs: packs, blobs within packs (where the file system can give back a part of a file),
  files that an interrupted process left. It takes nothing from an image that is known.
- Both may run beside agents that read and fetch.
"""

import ctypes
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import msgspec

from deskgrid.host.system.locks import locked
from deskgrid.images.contract import ImageError
from deskgrid.images.format import published
from deskgrid.images.format.published import HOLE, Pack
from deskgrid.images.store.index import HeldImage
from deskgrid.images.store.store import Admitted, ChunkStore

_KEEP_SIZE_PUNCH_HOLE = 1 | 2
_ABANDONED_SECONDS = 3600.0


class ImageStatus(msgspec.Struct, frozen=True):
    """An image. held_bytes: of the packs that it uses, others' blobs included."""

    image: HeldImage
    held_bytes: int
    in_use: bool


class StoreStatus(msgspec.Struct, frozen=True):
    """A store as a whole."""

    folder: str
    used_bytes: int
    budget_bytes: int
    free_bytes: int
    floor_bytes: int
    images: tuple[ImageStatus, ...]


class StoreVerified(msgspec.Struct, frozen=True):
    """What `verify` found. faults: sentences."""

    blobs: int
    bytes: int
    damaged: int
    faults: tuple[str, ...]


class Collected(msgspec.Struct, frozen=True):
    """What `gc` removed."""

    packs: int
    blobs: int
    files: int
    bytes: int


def status(store: ChunkStore) -> StoreStatus:
    """Say what a store holds."""
    images = tuple(
        ImageStatus(image, sum(store.packs_of(image.digest).values()), store.in_use(image.digest))
        for image in store.images()
    )
    limits = store.limits
    return StoreStatus(
        str(store.folder), store.used_bytes(), limits.budget_bytes, store.free_bytes(), limits.floor_bytes, images
    )


def verify(store: ChunkStore, progress: Callable[[float], None] = lambda part: None) -> StoreVerified:
    """Read and check all that is held; throw away what is wrong."""
    packs: dict[str, Pack] = {}
    faults = []
    for image in store.images():
        try:
            packs |= {pack.name: pack for pack in published.decode(store.manifest_of(image.digest))[0].packs}
        except ImageError as error:
            faults.append(str(error))
    blobs = length = damaged = 0
    for done, pack in enumerate(packs.values()):
        held = store.held(pack.name)
        index = store.pack_index(pack) if held else None
        if held and index is None:
            faults.append(f"pack {pack.name[:12]}…: its index is damaged; all of it is thrown away")
            damaged += len(held)
            store.drop(pack.name, held)
            held = set()
        for blob in sorted(held):
            assert index is not None
            content = store.get(index, blob)
            blobs += 1
            length += len(content or b"")
            if content is None:
                damaged += 1
                store.discard(pack.name, blob)
                faults.append(f"blob {blob} of pack {pack.name[:12]}… is damaged; it is thrown away")
        progress((done + 1) / len(packs))
    return StoreVerified(blobs, length, damaged, tuple(faults))


def gc(store: ChunkStore) -> Collected:
    """Remove what no image needs."""
    with locked(store.folder / "lock"):
        before = store.used_bytes()
        packs = store.forget_unused()
        images = []
        for held in store.images():
            with suppress(ImageError):
                manifest, table = published.decode(store.manifest_of(held.digest))
                images.append(Admitted(held.digest, manifest, table))
        facts = {pack.name: pack for image in images for pack in image.manifest.packs}
        blobs = 0
        if len(images) == len(store.images()):
            for name, wanted in _needed(images).items():
                blobs += _thin(store, facts[name], store.held(name) - wanted)
        files = _leftovers(store)
        return Collected(len(packs), blobs, files, before - store.used_bytes())


def _thin(store: ChunkStore, pack: Pack, unwanted: set[int]) -> int:
    """Give back the room of blobs within a pack, where that can be done. Returns: how many went."""
    index = store.pack_index(pack)
    if not unwanted or index is None or not hasattr(os, "SEEK_HOLE"):
        return 0
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if fallocate is None:
        return 0
    store.drop(pack.name, unwanted)
    handle = os.open(store.files.path(pack.name), os.O_RDWR | os.O_CLOEXEC)
    try:
        for blob in unwanted:
            start, end = index.span(blob)
            fallocate(handle, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(start), ctypes.c_int64(end - start))
    finally:
        os.close(handle)
    return len(unwanted)


def _leftovers(store: ChunkStore) -> int:
    """Remove files that belong to nothing."""
    known, images = store.packs(), {image.digest for image in store.images()}
    old = time.time() - _ABANDONED_SECONDS
    count = 0
    for path in store.folder.glob("packs/*/*"):
        if path.name not in known:
            store.forget_pack(path.name)
            count += 1
    for path in store.folder.glob("images/*"):
        half_written = path.name.startswith(".") and path.stat().st_mtime < old
        if half_written or (not path.name.startswith(".") and path.stem not in images and not store.in_use(path.stem)):
            path.unlink(missing_ok=True)
            count += 1
    return count


def _needed(images: Iterable[Admitted]) -> dict[str, set[int]]:
    """Which blobs of which packs these images need."""
    found: dict[str, set[int]] = {}
    for image in images:
        of = [found.setdefault(pack.name, set()) for pack in image.manifest.packs]
        for pack, blob in zip(image.table.packs, image.table.blobs, strict=True):
            if pack != HOLE:
                of[pack].add(blob)
    return found
