"""A real HTTPS server on the loopback interface that says what a test wants, with a CA of its own."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deskgrid.coordinator.authority import Authority, prepare

Reply = tuple[int, bytes]


class Server:
    """Where it listens, its CA, and what was asked of it. replies: by path; a function of the request's body.

    peers: the port of each asker. hang_up: close each connection after its answer, without having said so.
    """

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.url = ""
        self.asked: list[tuple[str, bytes, str]] = []
        self.peers: list[int] = []
        self.hang_up = False
        self.replies: dict[str, Callable[[bytes], Reply]] = {"/v1/ca": lambda body: (200, self.ca())}

    def ca(self) -> bytes:
        return self.authority.certificate.read_bytes()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve from here to there."""
    folder.mkdir()
    server = Server(prepare(folder, ("localhost", "127.0.0.1"), datetime.now(UTC)))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.peers.append(self.client_address[1])
            server.asked.append((self.path, body, self.headers.get("Authorization", "")))
            status, said = server.replies[self.path](body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)
            self.close_connection = server.hang_up

        do_GET = do_POST

        def log_message(self, *args: object) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.authority.chain, server.authority.key)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    server.url = f"https://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=lambda: http.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
