"""One HTTP connection, with bounds that uvicorn leaves to a proxy: how many there are, and each wait for a client.

Rules:
- There are so many in all, and so many from one address (`places.py`); one more is cut as it is accepted
  (`limiter.py`), and it is said.
- A request's head is small and complete within seconds, or the connection is cut; nothing is answered.
- A request's body is complete within a time as a whole, whatever was answered meanwhile: a refusal that was said before
  the body came does not leave a connection to trickle.
- A connection that waits for its next request is uvicorn's to time out (keep-alive); if its client has not even taken
  the last answer then, it is cut.
"""

import asyncio
import time
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deskgrid.coordinator.http.repository import TRANSPORT
from deskgrid.coordinator.places import Places, Whereabouts

HEAD_BYTES = 512 * 1024
"""What may come before a head is complete; a read may bring a good part of the body along."""
HEAD_SECONDS = 20.0
BODY_SECONDS = 35.0
"""Longer than `api.py` waits, so that it can still say why."""


class ConnectionBounds(msgspec.Struct, frozen=True):
    """each: connections from one address. each_desktop: further ones for each desktop that reports from there.

    greeting_seconds: for a TLS greeting.
    """

    each: int = 2048
    each_desktop: int = 4
    greeting_seconds: float = 10.0


BOUNDS = ConnectionBounds()


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with an end to waiting. places: of all connections of one server."""

    places = Places("connections", 1 << 16, 1 << 16, 0, Whereabouts())
    _has_place = False

    def take_place(self, address: str) -> bool:
        """Take a place, before anything is spent on the connection; False when there is none."""
        self._address = address
        self._has_place = self.places.take(address, time.monotonic())
        return self._has_place

    def leave_place(self) -> None:
        """Give it back, once."""
        if self._has_place:
            self._has_place = False
            self.places.leave(self._address)

    def connection_made(self, transport: Any) -> None:
        """The time for the first head runs."""
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._wait_for(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        self.leave_place()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete."""
        if self._in_head:
            if self._timer is None:
                self._wait_for(HEAD_SECONDS)
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._cut()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is here; the time for the body runs."""
        self._in_head = False
        self._wait_for(BODY_SECONDS)
        super().on_headers_complete()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        """The next head may come."""
        super().on_message_complete()
        self._stop_timer()
        self._in_head = True
        self._head_bytes = 0

    def timeout_keep_alive_handler(self) -> None:
        """Nothing came for long: close, without waiting for a client that does not read."""
        if not self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _wait_for(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._cut)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        self._stop_timer()
        self.transport.abort()


def bounded(most: int, bounds: ConnectionBounds, where: Whereabouts) -> type[BoundedConnection]:
    """The protocol of one server. most: connections in all."""
    places = Places("connections", most, min(bounds.each, most // 2), bounds.each_desktop, where)
    return type("Connection", (BoundedConnection,), {"places": places})
