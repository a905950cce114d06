"""Packs: many blobs in one immutable file, with an index in front that says what each must be.

    magic       8 bytes   "DGPACK1\\n"
    count       4 bytes   how many blobs (all numbers: little-endian, unsigned)
    entries     36 bytes each: the blob's sum (32), its length (4)
    blobs       one after the other, in the order of the entries

Rules:
- A pack's name is the BLAKE3 of its index (magic, count, entries): whoever knows the name can check the index, and
  with the index every blob alone. So any part of a pack can come from anywhere.
- The same blobs in the same order are the same pack. A pack never changes.
- Bounds are checked before memory is taken.
"""

import struct
from array import array
from collections.abc import Sequence
from itertools import accumulate

from blake3 import blake3

from deskgrid.images.format.cut import MOST_BYTES
from deskgrid.images.format.keys import OVERHEAD_BYTES, SUM_BYTES, Damaged, sum_of
from deskgrid.model.values.text import counted

PACK_BYTES = 16 << 20
"""A pack's length, about."""

_MAGIC = b"DGPACK1\n"
_HEAD = struct.Struct("<8sI")
_ENTRY = struct.Struct(f"<{SUM_BYTES}sI")
MOST_BLOB_BYTES = MOST_BYTES + OVERHEAD_BYTES + 1024
"""The longest blob: what does not compress grows by a few bytes."""

MOST_BLOBS = 65535


def index_bytes(count: int) -> int:
    """How long the index of so many blobs is."""
    return _HEAD.size + _ENTRY.size * count


class PackIndex:
    """What is in a pack, checked against its name. offsets: where each blob begins; one more: the pack's end."""

    __slots__ = ("content", "count", "name", "offsets")

    def __init__(self, name: str, content: bytes) -> None:
        """Check an index. Raises: Damaged."""
        if blake3(content).hexdigest() != name:
            raise Damaged(f"pack {name[:12]}…: its index is not its own; fetch it again")
        magic, count = _HEAD.unpack_from(content) if len(content) >= _HEAD.size else (b"", 0)
        if magic != _MAGIC or not 0 < count <= MOST_BLOBS or len(content) != index_bytes(count):
            raise Damaged(
                f"pack {name[:12]}…: got an index of {len(content)} bytes, "
                f"expected {counted(count, 'entry', 'entries')}"
            )
        lengths = [length for _, length in _ENTRY.iter_unpack(memoryview(content)[_HEAD.size :])]
        if max(lengths) > MOST_BLOB_BYTES or min(lengths) <= OVERHEAD_BYTES:
            raise Damaged(f"pack {name[:12]}…: got a blob of {max(lengths)} bytes, expected at most {MOST_BLOB_BYTES}")
        self.name, self.content, self.count = name, bytes(content), count
        self.offsets = array("I", accumulate(lengths, initial=len(content)))

    def sum(self, ordinal: int) -> bytes:
        """What the sum of a blob must be."""
        at = _HEAD.size + ordinal * _ENTRY.size
        return self.content[at : at + SUM_BYTES]

    def span(self, ordinal: int) -> tuple[int, int]:
        """Where a blob begins and ends."""
        return self.offsets[ordinal], self.offsets[ordinal + 1]

    def check(self, ordinal: int, blob: bytes | memoryview) -> None:
        """Check a blob from anywhere. Raises: Damaged."""
        if sum_of(blob) != self.sum(ordinal):
            raise Damaged(f"pack {self.name[:12]}…: blob {ordinal} is damaged or another's; fetch it again")

    def right(self, ordinal: int, blob: bytes) -> bool:
        """Whether a blob from anywhere is the one that belongs there."""
        return sum_of(blob) == self.sum(ordinal)


def assemble(blobs: Sequence[bytes]) -> tuple[str, bytes]:
    """Return the name and the index of a pack of these blobs."""
    index = _HEAD.pack(_MAGIC, len(blobs)) + b"".join(_ENTRY.pack(sum_of(blob), len(blob)) for blob in blobs)
    return blake3(index).hexdigest(), index
