"""A web server of a repository, run by its path: `web_of_packs.py FOLDER PORT`. Some of its folders mean ill.

Below /FAULT/ it gives packs as that fault has them: `swaps` (another pack's bytes), `moves` (the chunk next to it),
`truncates` (half), `bombs` (what unpacks to a gigabyte), `endless` (more than was asked for). Metadata are right.
"""

import sys
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import zstandard

FAULTS = ("swaps", "moves", "truncates", "bombs", "endless")
ROOT = Path(sys.argv[1]) if __name__ == "__main__" else Path()


def bomb() -> bytes:
    """A gigabyte of zeros, packed."""
    packer = zstandard.ZstdCompressor().compressobj()
    return b"".join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()


def part_of(path: Path, begin: int, end: int, fault: str) -> bytes:
    """What is given for a range of a pack."""
    if fault == "swaps":
        path = min(one for one in path.parents[1].glob("*/*") if one != path)
    if fault == "moves":
        begin, end = begin + 64, end + 64
    with path.open("rb") as file:
        file.seek(begin)
        part = file.read(end - begin).ljust(end - begin, b"\1")
    if fault == "bombs":
        return (BOMB * (1 + len(part) // len(BOMB)))[: len(part)]
    return part


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        first, _, rest = self.path.lstrip("/").partition("/")
        fault, name = (first, rest) if first in FAULTS else ("", self.path.lstrip("/"))
        path = (ROOT / name).resolve()
        if not path.is_relative_to(ROOT.resolve()) or not path.is_file():
            self.send_error(404)
            return
        with suppress(OSError):
            self._give(path, fault)

    def _give(self, path: Path, fault: str) -> None:
        size, asked = path.stat().st_size, self.headers.get("Range")
        if asked is None:
            content = path.read_bytes()
            self.send_response(200)
        else:
            begin, last = (int(word) for word in asked.removeprefix("bytes=").split("-"))
            end = min(last + 1, size)
            content = part_of(path, begin, end, fault)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(1 << 40 if fault == "endless" else len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "truncates" else content)
        if fault == "endless":
            for _ in range(256):
                self.wfile.write(bytes(1 << 16))
        self.close_connection = fault in ("endless", "truncates")

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Says nothing of clients that have left."""

    daemon_threads = True

    def handle_error(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    BOMB = bomb()
    server = Server(("127.0.0.1", int(sys.argv[2])), Handler)
    print("it listens", flush=True)
    server.serve_forever()
