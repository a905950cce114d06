"""One thread that waits for signs of the owner and calls back, at most ten times a second.

Rules:
- It sleeps in the kernel until a descriptor is ready or the source asks to be looked at (`tick_seconds`).
- A sign is passed on at once; then it rests with deaf ears, for 100 ms unless the source says longer. What happens
  meanwhile waits in the descriptors, and a mouse that reports a thousand times a second wakes us ten times.
- It outlives whatever the source or the callback raise: a thread that died would not see the owner.
"""

import logging
import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

REST_SECONDS = 0.1
_BREATH_SECONDS = 0.01
_FAULT_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Listener:
    """Calls `changed` when `notice` says that there was a sign.

    Args:
        descriptors: each readable when something may have happened.
        notice: looks, empties the descriptors, and says whether there was a sign.
        tick_seconds: how long to wait at most before looking again; None: for ever.
        changed: called from this thread.
        rest_seconds: how long to rest after a sign.
    """

    def __init__(
        self,
        descriptors: Sequence[int],
        notice: Callable[[], bool],
        tick_seconds: Callable[[], float | None],
        changed: Callable[[], None],
        rest_seconds: Callable[[], float] = lambda: REST_SECONDS,
    ) -> None:
        self._notice, self._tick_seconds, self._changed = notice, tick_seconds, changed
        self._rest_seconds = rest_seconds
        self._closing = self._ended = False
        self._lock = threading.Lock()
        self._bell, self._stop = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self._all, self._rest = select.epoll(), select.epoll()
        for descriptor in (self._bell, self._stop, *descriptors):
            self._all.register(descriptor, select.EPOLLIN)
        self._rest.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Make it look now; from any thread."""
        self._ring(self._bell)

    def close(self) -> None:
        """End the thread; after that (unless called from the callback itself) no call is under way."""
        self._closing = True
        self._ring(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _ring(self, bell: int) -> None:
        with self._lock:
            if not self._ended:
                os.eventfd_write(bell, 1)

    def _run(self) -> None:
        stirred = False
        try:
            while not self._closing:
                rest_seconds = self._look()
                if rest_seconds == 0 and not stirred:
                    stirred = bool(self._all.poll(self._tick_seconds()))
                else:  # a sign, or much ado about nothing: deaf for a while, then look again
                    self._rest.poll(rest_seconds or _BREATH_SECONDS)
                    stirred = False
                with suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
        finally:
            with self._lock:
                self._ended = True
                os.close(self._bell)
                os.close(self._stop)
            self._all.close()
            self._rest.close()

    def _look(self) -> float:
        """Look once and tell. Returns how long to rest, 0 when there was no sign."""
        try:
            sign = self._notice()
        except Exception:
            _log.exception("presence: looking for the owner failed; taken for a sign of the owner")
            self._tell()
            return _FAULT_SECONDS
        if not sign or self._closing:
            return 0.0
        self._tell()
        return self._rest_seconds()

    def _tell(self) -> None:
        try:
            self._changed()
        except Exception:
            _log.exception("presence: the callback failed")
