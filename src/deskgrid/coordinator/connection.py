"""One HTTP connection, with bounds that uvicorn leaves to a proxy: a head that is too long, or that never comes.

Rules, told first:
- A request's head is small and complete within seconds, or the connection is cut; nothing is answered.
- A connection that waits for its next request is uvicorn's to time out (keep-alive).
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deskgrid.coordinator.repository import TRANSPORT

HEAD_BYTES = 512 * 1024
"""What may come before a head is complete; a read may bring a good part of the body along."""
HEAD_SECONDS = 20.0


class BoundedConnection(HttpToolsProtocol):
    """uvicorn's protocol with an end to waiting for a head."""

    def connection_made(self, transport: Any) -> None:
        """The time for the first head runs."""
        super().connection_made(transport)
        self._in_head = True
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(HEAD_SECONDS, self._cut)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes before a head is complete."""
        if self._in_head:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_SECONDS, self._cut)
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._cut()
                return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        """The head is here."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]

    def on_message_complete(self) -> None:
        """The next head may come."""
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = 0

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self) -> None:
        self._stop_timer()
        self.transport.abort()
