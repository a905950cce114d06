"""An event loop whose time is virtual: asyncio's own, but nothing is ever waited for.

When nothing is ready, time jumps to the next timer. What would run in a thread runs at once: the simulated world has
one thread, so a story is the same each time.
"""

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from datetime import datetime, timedelta


class _Jumping(selectors.SelectSelector):
    """Instead of waiting, lets time jump."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("the simulated world stands still: nothing is ready and nothing is due")
        self.seconds += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """asyncio's loop in virtual time."""

    def __init__(self, start: datetime) -> None:
        self._jumping = _Jumping()
        self._start, self._now = start, (0.0, start)
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.seconds

    def now(self) -> datetime:
        """The simulated time of day, aware UTC."""
        seconds = self._jumping.seconds
        if self._now[0] != seconds:
            self._now = (seconds, self._start + timedelta(seconds=seconds))
        return self._now[1]

    def at(self, when: datetime, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Call at a time of day; at once when it has passed."""
        return self.call_at((when - self._start).total_seconds(), call)

    def run_in_executor(self, executor: Executor | None, func: Callable[..., object], *args: object) -> asyncio.Future:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done
