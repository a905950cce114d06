"""Parts of packs out of a store's files, for who may not believe the store: all right, or not given.

Rules:
- Nothing is given but what is checked at this moment: the index by the pack's name, each blob by the index. So neither
  holes nor damage get out, and no other record of what is held is needed.
- It reads; it never writes. A file that the store has removed is let go at once.
"""

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from pathlib import Path

from deskgrid.images.format.keys import Damaged
from deskgrid.images.format.packs import MOST_BLOBS, PackIndex, index_bytes

MOST_RANGE_BYTES = 3 << 20
"""The longest index is shorter."""

_INDEXES = 8


class Lacking(Exception):
    """What was asked for is not here. status: of HTTP."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HeldPacks:
    """Reads from a store's pack files; any thread may. A file is held open only for one read."""

    def __init__(self, store: Path) -> None:
        """Read below `store`."""
        self._folder = store / "packs"
        self._mutex = threading.Lock()
        self._indexes: OrderedDict[str, PackIndex] = OrderedDict()

    def part(self, pack: str, start: int, end: int) -> tuple[memoryview, int]:
        """Return the bytes of a pack from start to end, all of them right, and the pack's length. Raises: Lacking."""
        try:
            handle = os.open(self._folder / pack[:2] / pack, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            raise Lacking(404) from None
        try:
            index = self._index(pack, handle)
            return self._checked(index, handle, start, end), index.offsets[index.count]
        except (OSError, Damaged):
            raise Lacking(416) from None
        finally:
            os.close(handle)

    def _index(self, pack: str, handle: int) -> PackIndex:
        """Raises: Damaged, OSError; Lacking when it is not here."""
        with self._mutex:
            if (known := self._indexes.get(pack)) is not None:
                self._indexes.move_to_end(pack)
                return known
        count = int.from_bytes(os.pread(handle, 4, 8), "little")
        if not 0 < count <= MOST_BLOBS:
            raise Lacking(404)
        index = PackIndex(pack, os.pread(handle, index_bytes(count), 0))
        with self._mutex:
            self._indexes[pack] = index
            while len(self._indexes) > _INDEXES:
                self._indexes.popitem(last=False)
        return index

    def _checked(self, index: PackIndex, handle: int, start: int, end: int) -> memoryview:
        """Raises: Damaged, Lacking, OSError."""
        offsets = index.offsets
        if not start < end <= offsets[index.count] or end - start > MOST_RANGE_BYTES:
            raise Lacking(416)
        if end <= len(index.content):
            return memoryview(index.content)[start:end]
        first = max(0, bisect_right(offsets, start) - 1)
        begin = 0 if start < len(index.content) else offsets[first]
        last = bisect_right(offsets, end - 1) - 1
        view = memoryview(os.pread(handle, offsets[last + 1] - begin, begin))
        for blob in range(first, last + 1):
            index.check(blob, view[offsets[blob] - begin : offsets[blob + 1] - begin])
        if begin == 0 and view[: len(index.content)] != index.content:
            raise Lacking(416)
        return view[start - begin : end - begin]
