"""Waiting in tests: long enough for a slow and busy machine. How fast something is, the benchmarks say."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOON_SECONDS = 60.0


def comes_true(holds: Callable[[], object], seconds: float = SOON_SECONDS, step_seconds: float = 0.01) -> bool:
    """Wait until it holds, so long at most; return whether it does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(step_seconds)
    return True


def eventually(
    holds: Callable[[], object], what: object = "", seconds: float = SOON_SECONDS, step_seconds: float = 0.01
) -> None:
    """Wait until it holds; it must."""
    assert comes_true(holds, seconds, step_seconds), what or f"it did not come to hold in {seconds:.0f} s"


class Calls:
    """Counts calls, and waits for them."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._new = threading.Condition()

    def __call__(self) -> None:
        with self._new:
            self.times.append(time.monotonic())
            self._new.notify_all()

    def wait(self, count: int = 1) -> bool:
        with self._new:
            return self._new.wait_for(lambda: len(self.times) >= count, SOON_SECONDS)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: a socket's may have 107 letters, and the names of pytest's folders are long."""
    with tempfile.TemporaryDirectory(prefix="dg-", dir="/tmp") as name:
        yield Path(name)
