"""Places that are bounded: who gets one when all want one; and the connections that have them."""

import contextlib
import socket
from pathlib import Path

import pytest

from deskgrid.coordinator.http.connection import ConnectionBounds
from deskgrid.coordinator.places import Places, Whereabouts
from tests.waiting import SOON_SECONDS

from .running import context, service


def test_one_address_has_a_share_places_are_kept_for_who_holds_leases_and_being_full_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    where = Whereabouts(lambda name: name == "worker")
    places = Places("connections", 8, 2, 3, where)
    assert [places.take("a", 0.0) for _ in range(3)] == [True, True, False]
    where.note("worker", "b")
    where.note("idler", "c")
    assert [places.take("c", 1.0) for _ in range(5)] == [True, True, True, True, False]
    assert [places.take("b", 2.0) for _ in range(3)] == [True, True, False]
    assert (places.taken, places.refused) == (8, 3)
    assert len([r for r in caplog.records if "connections" in r.message]) == 1
    places.leave("c")
    assert not places.take("d", 70.0)
    assert places.take("b", 70.0)
    where.drop("worker")
    assert where.desktops("b") == 0
    assert places.full == "connections: 7 of 8 are taken, the others are kept; 4 were refused since the start"


def test_a_connection_more_than_an_address_may_have_is_cut_and_the_operator_is_told(tmp_path: Path) -> None:
    with service(tmp_path, bounds=ConnectionBounds(each=3)) as here:
        port = int(here.at.url.rsplit(":", 1)[1])
        assert here.operator.status().problems == ()
        opened = []
        with pytest.raises(OSError):
            for _ in range(6):
                plain = socket.create_connection(("127.0.0.1", port))
                plain.settimeout(5)
                opened.append(context(here.state).wrap_socket(plain, server_hostname="localhost"))
                opened[-1].sendall(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n")
                if not opened[-1].recv(100):
                    raise ConnectionResetError
        (told,) = here.operator.status().problems
        assert told.startswith("connections: 127.0.0.1 has 3, its share")
        for one in opened:
            one.close()


def test_a_connection_that_greets_nobody_is_cut(tmp_path: Path) -> None:
    with service(tmp_path, bounds=ConnectionBounds(greeting_seconds=0.5)) as here:
        port = int(here.at.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.settimeout(SOON_SECONDS)
            assert plain.recv(100) == b""
        assert here.operator.status().problems == ()


def test_silent_connections_count_before_their_greeting_are_said_and_take_nothing_from_another_address(
    tmp_path: Path,
) -> None:
    with service(tmp_path, bounds=ConnectionBounds(each=3)) as here, contextlib.ExitStack() as opened:
        port = int(here.at.url.rsplit(":", 1)[1])

        def silent() -> socket.socket:
            link = opened.enter_context(socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.9", 0)))
            link.settimeout(SOON_SECONDS)
            return link

        first, _, _, fourth = (silent() for _ in range(4))
        with contextlib.suppress(ConnectionResetError):
            assert fourth.recv(1) == b"", "it is cut at once"
        (told,) = here.operator.status().problems
        assert told.startswith("connections: 127.0.0.9 has 3, its share")
        first.close()
        for _ in range(500):
            link = silent()
            link.settimeout(0.05)
            try:
                link.recv(1)
            except TimeoutError:
                return  # the place was given back
            except ConnectionResetError:
                continue
        raise AssertionError("the place of a connection that never greeted was not given back")
