"""Where chunks begin and end: by content, so that what moves on a disk is still the same chunk.

Rules:
- Zero runs come first: at least eight zero blocks of 4 KiB in a row are a hole, on every file system, whether the
  file has a hole there or zeros. Holes are not stored.
- What lies between holes is cut by FastCDC (2020), 8 KiB on average, 4 to 16 KiB, and each border is moved back to a
  multiple of 4 KiB. File systems move content by whole blocks, so a moved file is still cut the same; and a guest's
  read of a block needs one chunk, not now and then two.
- Small chunks make a small difference between two versions, and a read of 4 KiB unpacks less; packs make up for their
  number.
- The compiled core must be there: the one in Python is 200 times slower.

Source: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems" (2020).
"""

import os
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from deskgrid.images.contract import ImageError

if TYPE_CHECKING:
    from pyfastcdc import FastCDC

MOST_BYTES = 64 << 10
"""The longest chunk that the format allows."""

_BLOCK = 4096
_AVERAGE_BYTES, _LEAST_BYTES, _LONGEST_BYTES = 2 * _BLOCK, _BLOCK, 4 * _BLOCK
_HOLE_BLOCKS = 8
_ZEROS = bytes(_BLOCK * _HOLE_BLOCKS)


class Piece(msgspec.Struct, frozen=True):
    """A part of a disk or file. hole: nothing but zeros."""

    offset: int
    raw_bytes: int
    hole: bool


def cut(content: memoryview, handle: int) -> Iterator[Piece]:
    """Cut a file whole: pieces in order, without gaps.

    Args:
        content: the file, mapped. handle: the open file, to learn where it has holes.

    Raises:
        ImageError: FastCDC's compiled core is not installed.
    """
    cutter = _cutter()
    for start, end, hole in _runs(content, handle):
        if hole:
            yield Piece(start, end - start, True)
            continue
        at = begin = start
        for chunk in cutter.cut_buf(content[start:end]):
            at += chunk.length
            border = at // _BLOCK * _BLOCK if at < end else end
            if border > begin:
                yield Piece(begin, border - begin, False)
                begin = border


@cache
def _cutter() -> "FastCDC":
    from pyfastcdc import FastCDC

    if not FastCDC.__module__.startswith("pyfastcdc.cy"):
        raise ImageError(
            f"pyfastcdc: got {FastCDC.__module__}, expected its compiled core; install a wheel of it, or gcc and "
            "python3-dev before it is installed"
        )
    return FastCDC(_AVERAGE_BYTES, min_size=_LEAST_BYTES, max_size=_LONGEST_BYTES, seed=0)


def _runs(content: memoryview, handle: int) -> Iterator[tuple[int, int, bool]]:
    """Data and holes in turns, as (start, end, hole)."""
    start = end = 0
    for at, stop in _filled(content, handle):
        if at - end >= len(_ZEROS):
            if end > start:
                yield start, end, False
            yield end, at, True
            start = at
        end = stop
    if len(content) - end < len(_ZEROS):
        end = len(content)
    if end > start:
        yield start, end, False
    if len(content) > end:
        yield end, len(content), True


def _filled(content: memoryview, handle: int) -> Iterator[tuple[int, int]]:
    """The blocks that hold something, in order."""
    for start, end in _written(handle, len(content)):
        for at in range(start, end, _BLOCK):
            stop = min(at + _BLOCK, end)
            if content[at:stop] != _ZEROS[: stop - at]:
                yield at, stop


def _written(handle: int, length: int) -> Iterator[tuple[int, int]]:
    """Parts of the file that may hold something, on borders of 4 KiB, in order and apart from each other."""
    at = 0
    while at < length:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(handle, start, os.SEEK_HOLE)
        start = max(at, start // _BLOCK * _BLOCK)
        end = min(length, -(-end // _BLOCK) * _BLOCK)
        yield start, end
        at = end
