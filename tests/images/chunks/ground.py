"""Small disks with something of everything, a folder that is published to, and web servers that behave or don't."""

import random
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deskgrid.coordinator.authority import Authority
from deskgrid.images.fetch.source import Origin
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.publish.publish import Publication, Published, publish
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore, StoreLimits

KEY = bytes(range(32))
CANARY = b"a canary that nobody may find in the clear "
ROOMY = StoreLimits(1 << 30, 0)


def content(seed: int = 1, kib: int = 1536) -> bytes:
    """Noise, text, zeros long and short, and the canary; always the same."""
    rng = random.Random(seed)
    words = [rng.randbytes(6).hex().encode() for _ in range(200)]
    parts, length = [CANARY * 40], 0
    while length < kib << 10:
        kind = rng.randrange(4)
        part = (
            rng.randbytes(rng.randrange(1, 60000)),
            b" ".join(rng.choices(words, k=4000)),
            bytes(rng.randrange(1, 200000)),
            CANARY * rng.randrange(1, 400),
        )[kind]
        parts.append(part)
        length += len(part)
    return b"".join(parts)[: kib << 10]


def source(folder: Path, disk: bytes, first_reads: tuple[int, ...] = ()) -> Publication:
    """Files to publish. The disk gets a long hole at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "disk.raw").open("wb") as file:
        file.write(disk)
        file.truncate(len(disk) + (4 << 20))
    (folder / "kernel").write_bytes(content(77, 64))
    (folder / "initrd").write_bytes(CANARY * 100)
    return Publication(
        folder / "disk.raw", folder / "kernel", folder / "initrd", "console=ttyS0", 1 << 28, (), "0" * 64, first_reads
    )


def published(folder: Path, disk: bytes, version: str = "1", first_reads: tuple[int, ...] = ()) -> Published:
    """Publish a disk into `folder`/server."""
    made = source(folder / f"built-{version}", disk, first_reads)
    return publish(made, folder / "server", ("lab", "demo", version), ProjectKey(KEY))


def origin(folder: Path) -> Origin:
    """The folder that was published to, as a source."""
    return Origin(f"file://{folder / 'server'}")


def order(store: ChunkStore, digest: str, *sources: Origin, prefetch: Prefetch = Prefetch.NOT) -> ServeOrder:
    """What a process that serves is told."""
    return ServeOrder(str(store.folder), store.limits, digest, sources, prefetch)


class Web:
    """A web server of packs. Faults: name a fault in `behave` for the requests that come next.

    stalled: somebody waits for an answer that does not come while the server runs.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.behave, self.ranges = root, "", []
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.origin = Origin(f"http://127.0.0.1:{self.server.server_address[1]}")
        self.stalled, self.over = threading.Event(), threading.Event()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        begin, end = (int(word) for word in request.headers["Range"].removeprefix("bytes=").split("-"))
        self.ranges.append(range(begin, end + 1))
        whole = (self.root / request.path.lstrip("/")).read_bytes()
        part = whole[begin : end + 1]
        if self.behave == "away":
            request.send_error(503)
            return
        if self.behave == "lies":
            part = bytes(len(part))
        if self.behave == "swaps":
            part = whole[: len(part)]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {begin}-{end}/{len(whole)}")
        request.send_header("Content-Length", str(len(part) if self.behave != "endless" else 1 << 40))
        request.end_headers()
        if self.behave == "breaks off":
            request.wfile.write(part[: len(part) // 2])
            request.connection.close()
            request.close_connection = True
            return
        if self.behave == "stalls":
            self.stalled.set()
            self.over.wait()
            return
        request.wfile.write(part)
        if self.behave == "endless":
            for _ in range(64):
                request.wfile.write(bytes(65536))
            request.close_connection = True


@contextmanager
def web(root: Path, authority: Authority | None = None) -> Iterator[Web]:
    """A running web server; over TLS with an authority."""
    made = Web(root)
    if authority is not None:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(authority.chain, authority.key)
        made.server.socket = secure.wrap_socket(made.server.socket, server_side=True)
        made.origin = Origin(made.origin.url.replace("http", "https"), str(authority.certificate))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.over.set()
        made.server.shutdown()
        made.server.server_close()
