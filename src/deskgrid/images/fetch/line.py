"""A connection over TCP or TLS that another thread can cut at once, also while it is being made.

Rules:
- Who begins to use it takes its turn; `cut` ends the turns that were taken before, however far they have got: while
  they connect, greet, send, wait or read. Only a name that is being looked up is waited for.
- A turn taken later is not cut by it.
"""

import socket
import ssl
import threading
from contextlib import suppress


class Cut(ConnectionAbortedError):
    """The turn was ended by `cut`."""


class KeptConnection:
    """One connection at a time; for one thread, but `cut` for any."""

    def __init__(self) -> None:
        """Nothing is connected yet."""
        self._mutex = threading.Lock()
        self._turn = 0
        self._socket: socket.socket | None = None

    def turn(self) -> int:
        """Begin: `cut` ends what is done in this turn from now on."""
        with self._mutex:
            return self._turn

    def cut(self) -> None:
        """End all turns that were taken until now."""
        with self._mutex:
            self._turn += 1
            if self._socket is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would unwrap it for the reader

    def use(self, connection: socket.socket | None, turn: int) -> None:
        """From now on it is this connection that `cut` cuts, or none. Raises: Cut when it came before."""
        with self._mutex:
            if self._turn != turn:
                raise Cut("it was cancelled")
            self._socket = connection

    def forget(self) -> None:
        """Call before the connection is closed: its number may be another's soon."""
        with self._mutex:
            self._socket = None

    def connect(
        self, address: tuple[str, int], trust: ssl.SSLContext | None, turn: int, seconds: float
    ) -> socket.socket:
        """Connect to host and port, over TLS when trust is given, each step within `seconds`. Raises: OSError, Cut."""
        fault: OSError | None = None
        for family, kind, protocol, _, where in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(seconds)
                self.use(connection, turn)
                connection.connect(where)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if trust is not None:
                    connection = trust.wrap_socket(
                        connection, server_hostname=address[0], do_handshake_on_connect=False
                    )
                    self.use(connection, turn)
                    connection.do_handshake()
                self.use(connection, turn)
            except OSError as error:
                self.forget()
                connection.close()
                if isinstance(error, Cut):
                    raise
                fault = error
            else:
                return connection
        raise fault or OSError("it has no address")
