"""What a process does before it takes a secret: a project's key, a guest's token.

Rules:
- No core dump, and nobody of the same user may look into it (PR_SET_DUMPABLE 0, RLIMIT_CORE 0).
- The key and what is derived from it lie in one locked page, which is overwritten at the end; when the limits allow,
  all of the process's memory is locked. What was reached is said, not guessed.
- A library that is given a key copies it for the length of a call; that can't be helped from here.

Source: prctl(2), mlock(2), mlockall(2), getrlimit(2).
"""

import ctypes
import mmap
import os
import resource
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_ENOUGH_BYTES = 512 << 20


def forbid_dumps() -> bool:
    """Allow no core dump and no look from outside. Returns: whether the system did so."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not sys.platform.startswith("linux"):
        return False
    return bool(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0)


def lock_everything() -> bool:
    """Keep all memory of this process out of swap, when its limit is high enough. Returns: whether it is so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        soft = hard
    if os.geteuid() != 0 and soft != resource.RLIM_INFINITY and soft < _ENOUGH_BYTES:
        return False
    return bool(ctypes.CDLL(None, use_errno=True).mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


class LockedPage:
    """One page for secrets. locked: whether it is kept out of swap."""

    def __init__(self) -> None:
        """Take a page and lock it if the system lets us."""
        self._page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._page)
        self._used = 0
        where = ctypes.addressof(ctypes.c_char.from_buffer(self._page))
        self.locked = ctypes.CDLL(None, use_errno=True).mlock(ctypes.c_void_p(where), mmap.PAGESIZE) == 0
        with suppress(AttributeError, OSError):
            self._page.madvise(mmap.MADV_DONTDUMP)

    def __call__(self, content: bytes | bytearray) -> memoryview:
        """Put bytes into the page and return where they are."""
        begin, self._used = self._used, self._used + len(content)
        self._view[begin : self._used] = content
        return self._view[begin : self._used]

    def wipe(self) -> None:
        """Overwrite everything."""
        self._view[:] = bytes(len(self._view))
