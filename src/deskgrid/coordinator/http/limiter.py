"""The door: connections are counted from the moment that they are accepted, before a byte of TLS.

Rules:
- A place (`places.py`) is taken first, or the connection is cut; nothing is spent on it. It is given back once, however
  far the connection came.
- Who does not complete the TLS greeting in time is cut.
- That none can be accepted (no descriptors are left) is said once a minute, and tried again.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable

from deskgrid.coordinator.http.connection import BoundedConnection

log = logging.getLogger(__name__)

_AT_ONCE = 64
"""Connections that are accepted before others' turn comes."""
_AGAIN_SECONDS = 0.1
_SAID_SECONDS = 60.0


class ConnectionLimiter:
    """Accepts connections of a listening socket until it is closed; stands where uvicorn has a server of asyncio.

    made: a new connection's protocol.
    """

    def __init__(
        self,
        listening: socket.socket,
        made: Callable[[], BoundedConnection],
        context: ssl.SSLContext | None,
        greeting_seconds: float,
    ) -> None:
        listening.setblocking(False)
        self._listening, self._made, self._context = listening, made, context
        self._greeting_seconds = greeting_seconds
        self._said_at = -_SAID_SECONDS
        self._tasks = {asyncio.create_task(self._accept_all())}

    def close(self) -> None:
        """Accept no more; who has not completed the greeting is cut."""
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until nothing is accepted any more."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept_all(self) -> None:
        loop, accepted = asyncio.get_running_loop(), 0
        while True:
            try:
                link, address = await loop.sock_accept(self._listening)
                self._let_in(link, str(address[0]))
            except Exception as error:  # nothing ends the door but its closing
                self._say(error)
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            accepted += 1
            if accepted % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def _let_in(self, link: socket.socket, address: str) -> None:
        connection = self._made()
        if not connection.take_place(address):
            link.close()
            return
        task = asyncio.create_task(self._greet(link, connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _greet(self, link: socket.socket, connection: BoundedConnection) -> None:
        greeted = False
        try:
            with contextlib.suppress(OSError):  # it went away before we were done
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            timeout = self._greeting_seconds if self._context is not None else None
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, link, ssl=self._context, ssl_handshake_timeout=timeout
            )
            greeted = True
        except OSError as error:  # what strangers send wrong is not worth a line each
            log.debug("connection: no greeting: %s", error)
        finally:
            if not greeted:
                connection.leave_place()

    def _say(self, error: Exception) -> None:
        now = time.monotonic()
        if now - self._said_at >= _SAID_SECONDS:
            self._said_at = now
            log.warning("connections: none can be accepted now, tried again: %s", error)
