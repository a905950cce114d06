"""Reports that are held open until there is something to say, so that orders arrive at once.

Rules:
- One for each desktop: a newer one lets the older go. At most `most` in all; none once `close` was called.
- Each has an end of its own; being let go early is no error.
"""

import asyncio


class LongPolls:
    """Reports that wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open = True
        self._waiting: dict[str, asyncio.Future[bool]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def has_place(self) -> bool:
        """Whether one more may wait."""
        return self._open and len(self._waiting) < self._most

    async def wait(self, desktop: str, seconds: float) -> bool:
        """Wait until released or the time is over. Returns whether the time was over."""
        self.release(desktop)
        if not self.has_place or seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        self._waiting[desktop] = future
        timer = loop.call_later(seconds, _resolve, future, True)
        try:
            return await future
        finally:
            timer.cancel()
            if self._waiting.get(desktop) is future:
                del self._waiting[desktop]

    def release(self, desktop: str) -> None:
        """Answer this desktop's report now, if it waits."""
        future = self._waiting.pop(desktop, None)
        if future is not None:
            _resolve(future, False)

    def close(self) -> None:
        """Answer all, and hold no more."""
        self._open = False
        for desktop in list(self._waiting):
            self.release(desktop)


def _resolve(future: asyncio.Future[bool], expired: bool) -> None:
    if not future.done():
        future.set_result(expired)
