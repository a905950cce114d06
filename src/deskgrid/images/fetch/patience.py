"""How long to bear with a source, and when to ask it again.

Rules:
- Behind the last source there is nobody: it gets much time, and is asked again soon. Any other one (a neighbour, a
  cache) is left quickly for the next, and for longer: a neighbour may be switched off, or mean ill.
- What counts is the time in which we wait for bytes, not that in which we are too slow ourselves.
- One that was away is left alone for a while, twice as long each time, by a little more or less so that a fleet does
  not come back as one; one that gave wrong bytes, for a minute at least. When nobody is left, all are tried again soon.
- Not to have something is no fault, if it is said quickly.
"""

import io
import random
import socket
import time

import msgspec

from deskgrid.model.values.backoff import Backoff

LIAR_SECONDS = 60.0
_SOON_SECONDS = 15.0
_SPREAD = 0.2


class Patience(msgspec.Struct, frozen=True):
    """With one source. connect_seconds: to connect, and greet. silence_seconds: without a byte. head_seconds: until the
    answer begins. After slow_seconds of waiting, slow_bytes_per_second must have come.

    lacks_seconds: it may say so late that it has not got something, and be asked again all the same.
    pause: how long it is left alone.
    """

    connect_seconds: float = 10.0
    silence_seconds: float = 10.0
    head_seconds: float = 20.0
    slow_seconds: float = 30.0
    slow_bytes_per_second: int = 2 << 10
    lacks_seconds: float = 10.0
    pause: Backoff = Backoff(0.5, 15.0)


LAST = Patience()
ANOTHER_FOLLOWS = Patience(2.0, 3.0, 4.0, 5.0, 64 << 10, 0.5, Backoff(10.0, 300.0))


class SourceHealth:
    """When a source may be asked again. not_before: by the steady clock. reason: why it is left alone."""

    def __init__(self, patience: Patience = LAST) -> None:
        self._patience = patience
        self._failures = 0
        self._lied_until = self.not_before = 0.0
        self.reason = ""

    def failed(self, reason: str, lied: bool = False) -> None:
        """It did not give what it was asked for."""
        now = time.monotonic()
        self._failures += 1
        pause = self._patience.pause.seconds(self._failures)
        if lied:
            pause = max(pause, LIAR_SECONDS)
            self._lied_until = now + LIAR_SECONDS
        spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 (no secret)
        self.not_before, self.reason = max(self._lied_until, now + pause * spread), reason

    def worked(self) -> None:
        """It gave what it was asked for."""
        self._failures = 0

    def nobody_left(self) -> None:
        """There is nobody else: try it again soon, if it has not lied."""
        self.not_before = max(self._lied_until, min(self.not_before, time.monotonic() + _SOON_SECONDS))


class Timely(io.RawIOBase):
    """What comes over a connection: each part within `silence_seconds`, and the whole until `until`, if that is set."""

    def __init__(self, raw: io.RawIOBase, connection: socket.socket, patience: Patience) -> None:
        self._raw, self._connection, self._patience = raw, connection, patience
        self.until: float | None = time.monotonic() + patience.head_seconds

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, place: "memoryview") -> int | None:  # type: ignore[override]
        """Raises: TimeoutError."""
        seconds = self._patience.silence_seconds
        if self.until is not None:
            seconds = min(seconds, self.until - time.monotonic())
            if seconds <= 0:
                raise TimeoutError("its answer took too long to begin")
        self._connection.settimeout(seconds)
        return self._raw.readinto(place)

    def close(self) -> None:
        """Let go of the connection."""
        self._raw.close()
        super().close()
