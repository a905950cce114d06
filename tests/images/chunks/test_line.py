"""A connection is cut at once, however far it has got. It would be waited for longer than the tests may last."""

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from deskgrid.images.fetch.line import Cut, KeptConnection

LONG_SECONDS = 1000.0


class User:
    """A thread that connects and reads, and how that ended."""

    def __init__(self, line: KeptConnection, address: tuple[str, int], trust: ssl.SSLContext | None = None) -> None:
        self._line, self._address, self._trust, self._turn = line, address, trust, line.turn()
        self._ended: queue.Queue[bytes | OSError] = queue.Queue()
        self.connected = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            with self._line.connect(self._address, self._trust, self._turn, LONG_SECONDS) as connection:
                self.connected.set()
                self._ended.put(connection.recv(1))
        except OSError as error:
            self._ended.put(error)

    def ended(self) -> bytes | OSError:
        return self._ended.get(timeout=60)


def _cut_until_it_ends(line: KeptConnection, user: User, wait_for: Callable[[], object]) -> None:
    wait_for()
    line.cut()
    ended = user.ended()
    assert ended == b"" or isinstance(ended, OSError)


def test_while_it_connects() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        line = KeptConnection()
        user = User(line, full.getsockname())
        _cut_until_it_ends(line, user, lambda: time.sleep(0.2))


def test_while_it_greets_over_tls() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = KeptConnection()
        user = User(line, silent.getsockname(), ssl.create_default_context())
        peer, _ = silent.accept()
        with peer:
            _cut_until_it_ends(line, user, lambda: peer.recv(1))


def test_while_it_reads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = KeptConnection()
        user = User(line, silent.getsockname())
        _cut_until_it_ends(line, user, lambda: user.connected.wait(60))


def test_a_turn_that_was_cut_goes_no_further_and_a_later_one_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = KeptConnection()
        earlier = line.turn()
        kept = line.connect(server.getsockname(), None, earlier, LONG_SECONDS)
        line.forget()
        line.cut()
        for again in (
            lambda: line.use(kept, earlier),
            lambda: line.connect(server.getsockname(), None, earlier, LONG_SECONDS),
        ):
            with pytest.raises(Cut):
                again()
        later = line.turn()
        line.use(kept, later)
        line.connect(server.getsockname(), None, later, LONG_SECONDS).close()
        kept.close()


def test_who_cannot_be_reached_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = server.getsockname()
    line = KeptConnection()
    with pytest.raises(ConnectionRefusedError):
        line.connect(gone, None, line.turn(), LONG_SECONDS)
