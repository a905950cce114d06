"""Unpack ahead of the guest: what a boot reads lies ready in memory when the guest asks for it.

Rules, told first
- It follows the boot order, a bounded number of pieces before what the guest has read; what is not in the store yet
  it waits for a little, then leaves it to whoever needs it.
- It never makes the memory for plain pieces larger, and notes no reads: those are the guest's.
- It sleeps until the guest has read on; it ends with the boot order.
"""

import threading
from collections.abc import Sequence

from deskgrid.images.chunks.reader import Pieces
from deskgrid.images.contract import ImageError

AHEAD_PIECES = 1024
"""At most 16 MiB, mostly 11: less than the plain pieces that are kept."""

_STEP_SECONDS, _STEPS = 0.05, 200


class Warm:
    """See the module."""

    def __init__(self, pieces: Pieces, order: Sequence[int]) -> None:
        """Begin. order: numbers of the disk's pieces, as a boot reads them."""
        self._pieces, self._order = pieces, order
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go, name="warm", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether something of the boot order is still to come."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End at once."""
        self._ending.set()
        self._pieces.moved.set()
        self._thread.join(5)

    def _go(self) -> None:
        waited = 0
        for at, number in enumerate(self._order):
            while at > self._pieces.disk_reads + AHEAD_PIECES and not self._ending.is_set():
                self._pieces.moved.wait()
                self._pieces.moved.clear()
            while not self._ending.is_set() and not self._opened(number) and waited < _STEPS:
                waited += 1
                self._ending.wait(_STEP_SECONDS)
            if self._ending.is_set():
                return

    def _opened(self, number: int) -> bool:
        try:
            with self._pieces.mutex:
                return self._pieces.ready(number)
        except ImageError:
            return True  # who reads it reports it
