"""A bad network: a real TLS proxy between agents and coordinator that loses, repeats, delays and reorders requests.

Whole HTTP requests have fates. Each is decided by a seeded source of chance, and counted; when `calm` is set all pass,
when it is `down` none.
"""

import random
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3

FATES = {
    "passes": 6,
    "request is lost": 2,
    "answer is lost": 2,
    "request is late": 2,
    "answer is late": 2,
    "request comes twice": 2,
    "request comes again later": 2,
}
LATEST_SECONDS = 3.0


class BadNetwork:
    """Listens as the coordinator, with its certificate; `url` is what agents call."""

    def __init__(self, url: str, state: Path, seed: int) -> None:
        """Args: url, state: of the coordinator."""
        self.met: Counter[str] = Counter()
        self.calm, self.down = True, False
        self._url, self._chance, self._lock = url, random.Random(seed), threading.Lock()
        self._http = urllib3.PoolManager(ca_certs=str(state / "ca.pem"), retries=False, maxsize=16, timeout=60)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(state / "server.pem", state / "server.key")
        handler = type("Handler", (_Handler,), {"network": self, "context": context})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"https://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._http.clear()

    def fate(self) -> tuple[str, float]:
        with self._lock:
            fate = "passes" if self.calm else self._chance.choices(list(FATES), list(FATES.values()))[0]
            self.met[fate] += not self.calm
            return fate, self._chance.uniform(0.2, LATEST_SECONDS)

    def forward(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        return self._http.request(method, self._url + path, body=body or None, headers=headers)

    def forward_aside(self, after_seconds: float, *request: Any) -> None:
        def later() -> None:
            time.sleep(after_seconds)
            with suppress(urllib3.exceptions.HTTPError):
                self.forward(*request)

        threading.Thread(target=later, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    """One connection of an agent's."""

    protocol_version = "HTTP/1.1"
    network: BadNetwork
    context: ssl.SSLContext

    def setup(self) -> None:
        self.request.settimeout(60)
        self.request = self.context.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        with suppress(OSError, urllib3.exceptions.HTTPError):
            super().handle()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kept = {key: value for key, value in self.headers.items() if key in ("Authorization", "Content-Type")}
        request = (self.command, self.path, body, kept)
        fate, seconds = self.network.fate()
        if self.network.down or fate.endswith("is lost"):
            if fate.startswith("answer"):
                self.network.forward_aside(0, *request)
            self.close_connection = True
            return
        if fate == "request is late":
            time.sleep(seconds)
        elif fate == "request comes twice":
            self.network.forward_aside(0, *request)
        elif fate == "request comes again later":
            self.network.forward_aside(seconds + 1, *request)
        answer = self.network.forward(*request)
        if fate == "answer is late":
            time.sleep(seconds)
        if self.network.down:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        self.wfile.write(answer.data)

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass
