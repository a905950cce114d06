"""An end to a conversation over HTTP as a whole: a peer that sends a byte now and then is cut off.

A socket's own timeout begins anew with each byte that comes. Here another thread cuts the connection when the time is
over, whatever it is doing then; only the look-up of a computer's name is waited for.
"""

import http.client
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

_AGAIN_SECONDS = 0.2


class Deadline:
    """Connects if need be, and cuts the connection when it is over, while the `with` lasts."""

    def __init__(self, connection: http.client.HTTPConnection, seconds: float) -> None:
        self._connection, self._seconds = connection, seconds
        self._late, self._done = threading.Event(), threading.Event()
        self._link: socket.socket | None = None

    @property
    def late(self) -> bool:
        """Whether the time was over; then any error, or what looks like an end, comes of that."""
        return self._late.is_set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._cut, name="deadline", daemon=True).start()
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except BaseException:
            self._done.set()
            raise
        self._link = self._connection.sock  # an answer that ends with its connection takes it away from there
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()

    def _cut(self) -> None:
        pause = self._seconds
        while not self._done.wait(pause):
            self._late.set()
            pause = _AGAIN_SECONDS  # it may only be connecting
            link = self._link or self._connection.sock
            if link is not None:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)


def read_within(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """Read an answer's body. Raises: ValueError when it is longer than `most_bytes`; the rest is not read."""
    content = answer.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"an answer of more than {most_bytes} bytes")
    return content
