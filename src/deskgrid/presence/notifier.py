"""One thread that tells of signs of the owner, at most ten times a second, on any system.

Rules:
- It sleeps until it is rung, or until it is time to look by itself (`tick_seconds`).
- A sign is passed on at once; then it rests for 100 ms. What is rung meanwhile is passed on after the rest: nothing is
  lost.
- It outlives whatever `look` or the callback raise: a thread that died would not see the owner.

`listener` does the same for Linux, where descriptors wake the thread.
"""

import logging
import threading
from collections.abc import Callable

REST_SECONDS = 0.1
_FAULT_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Notifier:
    """Calls `changed` when it was rung or when `look` saw a sign.

    Args:
        changed: called from this thread.
        look: looks for signs that ring nobody; says whether there was one.
        tick_seconds: how long to wait until the next look; None: for ever.
    """

    def __init__(
        self,
        changed: Callable[[], None],
        look: Callable[[], bool] = lambda: False,
        tick_seconds: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._changed, self._look, self._tick_seconds = changed, look, tick_seconds
        self._news = threading.Condition()
        self._rung = self._closing = False
        self._thread = threading.Thread(target=self._run, name="presence-teller", daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """There was a sign; from any thread."""
        with self._news:
            self._rung = True
            self._news.notify()

    def close(self) -> None:
        """End the thread; after that (unless called from the callback itself) no call is under way."""
        with self._news:
            self._closing = True
            self._news.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._news:
                if not self._rung and not self._closing:
                    self._news.wait(self._tick_seconds())
                if self._closing:
                    return
                rung, self._rung = self._rung, False
            rest_seconds = self._turn(rung)
            if rest_seconds:
                with self._news:
                    self._news.wait_for(lambda: self._closing, rest_seconds)

    def _turn(self, rung: bool) -> float:
        """Look and tell. Returns how long to rest, 0 when there was no sign."""
        rest_seconds = REST_SECONDS
        try:
            sign = self._look() or rung
        except Exception:
            _log.exception("presence: looking for the owner failed; taken for a sign of the owner")
            sign, rest_seconds = True, _FAULT_SECONDS
        if not sign:
            return 0.0
        try:
            self._changed()
        except Exception:
            _log.exception("presence: the callback failed")
        return rest_seconds
