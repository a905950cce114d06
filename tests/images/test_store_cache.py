"""Checking an image leaves nothing of it in the page cache: that memory is the owner's."""

import ctypes
import mmap
import os
from pathlib import Path

from deskgrid.images.format.manifest import measure


def cached_pages(path: Path) -> int:
    """Pages of a file that are in the page cache (mincore(2))."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as view:
        pages = -(-len(view) // mmap.PAGESIZE)
        told = (ctypes.c_ubyte * pages)()
        here = ctypes.c_char.from_buffer(view)
        assert ctypes.CDLL(None).mincore(ctypes.byref(here), ctypes.c_size_t(len(view)), told) == 0
        del here
        return sum(one & 1 for one in told)


def test_a_file_that_was_measured_is_not_in_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    content = os.urandom(1 << 20) * 9
    path.write_bytes(content)
    with path.open("rb") as file:
        os.fsync(file.fileno())
    assert cached_pages(path) > 2000
    assert measure(path).size_bytes == len(content)
    assert cached_pages(path) < 200
