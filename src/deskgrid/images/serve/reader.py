"""Read an image's disk, kernel or initrd: from offsets to pieces, from blobs to plain bytes, with a memory of the last.

Rules:
- What is read was checked: the blob by its sum, the piece by key and length. What can't be had now is `None`, never
  zeros and never an error to the guest; the caller has it fetched and asks again.
- Plain pieces live only in this process's memory, at most so many bytes of them; the least recently used goes first.
- The order in which pieces were read first is remembered: a trial boot's order becomes the next version's boot order.
- One lock: any thread may read, one at a time.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from deskgrid.images.contract import ImageError
from deskgrid.images.format import published
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.format.packs import PackIndex
from deskgrid.images.format.published import HOLE
from deskgrid.images.store.store import Admitted, ChunkStore

PLAIN_BYTES = 24 << 20
_LOOSE_BYTES = 8 << 20
_ZEROS = bytes(1 << 20)
Part = bytes | memoryview
Missing = tuple[int, int]
"""Number of a pack and of a blob in it."""


class Blocks(Protocol):
    """Something that can be served as a disk."""

    size: int

    def read(self, offset: int, length: int) -> list[Part] | None:
        """Return the bytes in parts; None when they are not here yet."""

    def missing(self, offset: int, length: int) -> Sequence[Missing]:
        """Return what must be fetched before they can be read."""


class RawBlocks:
    """A plain file, for a trial boot."""

    def __init__(self, path: Path) -> None:
        """Read `path`."""
        self._file = path.open("rb", buffering=0)
        self.size = path.stat().st_size

    def read(self, offset: int, length: int) -> list[Part] | None:
        """Return the bytes."""
        return [os.pread(self._file.fileno(), length, offset)]

    def missing(self, offset: int, length: int) -> Sequence[Missing]:
        """Nothing is ever missing."""
        return ()


class Pieces:
    """The pieces of one image, for all its streams."""

    def __init__(self, store: ChunkStore, image: Admitted, key: ProjectKey, plain_bytes: int = PLAIN_BYTES) -> None:
        """Read `image` from `store`. Raises: ImageError when the key is another project's."""
        if key.key_id != image.manifest.key_id:
            raise ImageError(
                f"image {published.title(image.manifest)}: got the project key {key.key_id[:8]}…, expected "
                f"{image.manifest.key_id[:8]}…; ask for the key of {image.manifest.project}"
            )
        self._store, self._image, self._key = store, image, key
        self._indexes: list[PackIndex | None] = [None] * len(image.manifest.packs)
        self._plain: OrderedDict[int, bytes] = OrderedDict()
        self._plain_left = plain_bytes
        self.mutex = threading.RLock()
        self._mutex = threading.Lock()
        self._loose: OrderedDict[bytes, bytes] = OrderedDict()
        self.first_reads: dict[int, None] = {}
        """Numbers of pieces in the order in which they were first read."""

        self.disk_reads = 0
        """How many of them are the disk's."""

        self.moved = threading.Event()
        """Set when that has grown."""

    def plain(self, number: int) -> bytes | None:
        """Return a piece that is no hole; None when its blob is not here."""
        found = self._plain.get(number)
        if found is None:
            found = self._opened(number)
            if found is None:
                return None
        else:
            self._plain.move_to_end(number)
        if number not in self.first_reads:
            self.first_reads[number] = None
            if number < self._image.manifest.disk.pieces:
                self.disk_reads += 1
                self.moved.set()
        return found

    def ready(self, number: int) -> bool:
        """Unpack a piece, for the guest to find it; whether its blob is here."""
        return number in self._plain or self._opened(number) is not None

    def _opened(self, number: int) -> bytes | None:
        pack, blob = self._image.table.packs[number], self._image.table.blobs[number]
        index = self._indexes[pack] or self._index(pack)
        if index is None:
            return None
        content = self._store.get(index, blob) or self._loose_blob(index, blob)
        if content is None:
            self._lost(pack, index, blob)
            return None
        found = self._key.open(content, self._image.table.lengths[number])
        self._remember(number, found)
        return found

    def keep(self, index: PackIndex, blobs: Mapping[int, bytes]) -> None:
        """Keep some fetched blobs for a moment, for when the store has no room, not even for their index."""
        for number, pack in enumerate(self._image.manifest.packs):
            if pack.name == index.name:
                self._indexes[number] = index
        with self._mutex:
            for blob, content in blobs.items():
                self._loose[bytes(index.sum(blob))] = content
            while sum(map(len, self._loose.values())) > _LOOSE_BYTES:
                self._loose.popitem(last=False)

    def lacking(self, pack: int, blobs: set[int]) -> set[int]:
        """Return those of a pack's blobs that are not in the store."""
        return blobs - self._store.held(self._image.manifest.packs[pack].name)

    def place(self, number: int) -> Missing | None:
        """Where a piece's blob is; None for a hole."""
        pack = self._image.table.packs[number]
        return None if pack == HOLE else (pack, self._image.table.blobs[number])

    def _index(self, pack: int) -> PackIndex | None:
        found = self._indexes[pack] = self._store.pack_index(self._image.manifest.packs[pack])
        return found

    def _loose_blob(self, index: PackIndex, blob: int) -> bytes | None:
        if not self._loose:
            return None
        with self._mutex:
            return self._loose.get(bytes(index.sum(blob)))

    def _lost(self, pack: int, index: PackIndex, blob: int) -> None:
        """A blob is not here; if it was said to be, it is damaged."""
        if blob in self._store.held(index.name) and self._store.get(index, blob) is None:  # it may just have come
            self._store.discard(index.name, blob)

    def _remember(self, number: int, plain: bytes) -> None:
        self._plain[number] = plain
        self._plain_left -= len(plain)
        while self._plain_left < 0:
            self._plain_left += len(self._plain.popitem(last=False)[1])


class StreamBlocks:
    """One stream of an image as a disk."""

    def __init__(self, pieces: Pieces, image: Admitted, stream: str) -> None:
        """Read "disk", "kernel" or "initrd"."""
        self._pieces, self._image = pieces, image
        where = published.span(image.manifest, image.table, stream)
        self._first, self._offsets = where.first, where.offsets
        self._packs = image.table.packs
        self.size = where.offsets[-1]

    def read(self, offset: int, length: int) -> list[Part] | None:
        """Return the bytes in parts; None when some are not here yet. Raises: Damaged when published wrongly."""
        with self._pieces.mutex:
            return self._read(offset, length)

    def _read(self, offset: int, length: int) -> list[Part] | None:
        parts: list[Part] = []
        end = offset + length
        at = bisect_right(self._offsets, offset) - 1
        offsets, first = self._offsets, self._first
        while offset < end:
            begin, stop = offsets[at], min(offsets[at + 1], end)
            if self._packs[first + at] == HOLE:
                parts += _zeros(stop - offset)
            else:
                plain = self._pieces.plain(first + at)
                if plain is None:
                    return None
                parts.append(plain if stop - offset == len(plain) else memoryview(plain)[offset - begin : stop - begin])
            offset = stop
            at += 1
        return parts

    def missing(self, offset: int, length: int) -> Sequence[Missing]:
        """Return what must be here before the bytes can be read (what is here already included)."""
        at = bisect_right(self._offsets, offset) - 1
        found = []
        while at < len(self._offsets) - 1 and self._offsets[at] < offset + length:
            place = self._pieces.place(self._first + at)
            if place is not None:
                found.append(place)
            at += 1
        return found


def _zeros(length: int) -> list[Part]:
    whole, rest = divmod(length, len(_ZEROS))
    return [_ZEROS] * whole + ([memoryview(_ZEROS)[:rest]] if rest else [])
