"""A peer that sends a byte now and then is cut off; one that sends without end is not read to its end."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from deskgrid.host.system.http import AnswerTooLong, Deadline, read_within


@contextlib.contextmanager
def peer(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[http.client.HTTPConnection]:
    """Somebody who answers one request as he likes, until told to stop."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                link, _ = listening.accept()
                with link:
                    link.recv(65536)
                    talk(link, over)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", listening.getsockname()[1], timeout=30)
        try:
            yield connection
        finally:
            over.set()
            connection.close()
            thread.join(30)


def trickle(start: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def talk(link: socket.socket, over: threading.Event) -> None:
        link.sendall(start)
        while not over.wait(0.05):
            link.sendall(b"x")

    return talk


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nx: ", b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["status", "head", "body", "body without a length"],
)
def test_who_trickles_is_cut_off_wherever_it_is(start: bytes) -> None:
    with peer(trickle(start)) as connection:
        deadline = Deadline(connection, 0.5)
        with contextlib.suppress(OSError, http.client.HTTPException), deadline:
            connection.request("GET", "/")
            connection.getresponse().read()
        assert deadline.late


def test_who_answers_in_time_is_not_cut_off_and_may_be_asked_again() -> None:
    def talk(link: socket.socket, over: threading.Event) -> None:
        for _ in range(2):
            link.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            link.recv(65536)

    with peer(talk) as connection:
        for _ in range(2):
            with Deadline(connection, 20.0) as deadline:
                connection.request("GET", "/")
                assert read_within(connection.getresponse(), 2) == b"ok"
            assert not deadline.late


def test_an_answer_without_end_is_refused_at_its_bound() -> None:
    def talk(link: socket.socket, over: threading.Event) -> None:
        link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            link.sendall(b"x" * 65536)

    with peer(talk) as connection:
        connection.request("GET", "/")
        with pytest.raises(AnswerTooLong, match="more than 1000 bytes"):
            read_within(connection.getresponse(), 1000)
