"""Where bytes come from: they are bounded in number and time, also over TLS."""

import socket
import ssl
import threading
import time
from datetime import UTC, datetime
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from deskgrid.coordinator.authority import prepare
from deskgrid.images.trust.desktop.client import source_of
from deskgrid.images.trust.desktop.source import Absent, RepositoryFolderSource, RepositoryServer
from deskgrid.images.trust.errors import Duty
from deskgrid.images.trust.values import TrustConfiguration

from .rig import Quiet, refused, served


def test_a_folder_gives_its_files_and_no_more_bytes_than_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    source = RepositoryFolderSource(tmp_path)
    assert source.get("x", 5) == b"12345"
    refused("too-long", Duty.REPOSITORY, lambda: source.get("x", 4))
    with pytest.raises(Absent):
        source.get("y", 5)
    refused("unreachable", Duty.NETWORK, lambda: RepositoryFolderSource(tmp_path / "none").get("x", 5))
    refused("unreachable", Duty.NETWORK, lambda: RepositoryFolderSource(tmp_path).get(".", 5))


def test_a_web_server_s_folder_may_lie_below_its_root(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/x").write_bytes(b"12345")
    with served(tmp_path) as url:
        for base in (f"{url}/images", f"{url}/images/"):
            source = RepositoryServer(base)
            assert source.get("x", 5) == b"12345"
            refused("too-long", Duty.REPOSITORY, lambda it=source: it.get("x", 4))
            with pytest.raises(Absent):
                source.get("y", 5)


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://x", "file:///etc", "http://", "https:///x", "http://x/?a=b", "http://x/#y"]
)
def test_other_addresses_are_refused(url: str) -> None:
    refused("bad-url", Duty.REQUEST, lambda: RepositoryServer(url))


def test_over_tls_with_the_authority_that_was_named_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web/x").write_bytes(b"12345")
    authority = prepare(tmp_path, ["localhost", "127.0.0.1"], datetime.now(UTC))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.chain, authority.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "web")))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{server.server_address[1]}"
    try:
        place = TrustConfiguration(tmp_path, tmp_path, url, certificates=authority.certificate)
        assert source_of(place).get("x", 5) == b"12345"
        said = refused("unreachable", Duty.NETWORK, lambda: RepositoryServer(url).get("x", 5))
        assert "certificate" in said
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    none = TrustConfiguration(tmp_path, tmp_path, url, certificates=tmp_path / "none")
    refused("no-certificates", Duty.DESKTOP, lambda: source_of(none))


def test_a_server_that_is_silent_in_the_tls_handshake_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = RepositoryServer(f"https://127.0.0.1:{silent.getsockname()[1]}", seconds=0.3)
        began = time.monotonic()
        refused("slow", Duty.NETWORK, lambda: source.get("x", 5))
        assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"],
    ids=["something else", "breaks off"],
)
def test_an_answer_that_is_none_or_breaks_off_is_a_sentence(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        source = RepositoryServer(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=30)
        refused("unreachable", Duty.NETWORK, lambda: source.get("x", 1000))
