"""A desktop that gives to its neighbours: the real process, and ways to talk to it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deskgrid.images.fetch.source import Origin
from deskgrid.wire.disk import MESSAGES, DiskCommand, DiskMessage
from deskgrid.wire.lines import encode
from deskgrid.wire.neighbour import NeighbourCount, NeighbourTask

ARGV = (sys.executable, "-m", "deskgrid.images.neighbour.serve")
FAST = 1 << 30


class Giver:
    """A process that runs. enter: argv in front, such as that of a network namespace."""

    def __init__(self, serving: NeighbourTask, enter: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen(
            [*enter, *ARGV], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        self._write(msgspec.json.encode(serving) + b"\n")
        self.first = self._word()
        self.port = self.first.ready["port"] if self.first.ready is not None else 0
        self.origin = Origin(f"http://127.0.0.1:{self.port}")

    def given(self) -> NeighbourCount:
        self._write(encode(DiskCommand("status")))
        return msgspec.convert(self._word().answer, NeighbourCount)

    def rate(self, value: int) -> None:
        self._write(encode(DiskCommand("rate", value)))
        self._word()

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()

    def _write(self, line: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def _word(self) -> DiskMessage:
        assert self.process.stdout is not None
        return MESSAGES.decode(self.process.stdout.readline())


@contextmanager
def giver(store: Path, rate: int = FAST, address: str = "127.0.0.1") -> Iterator[Giver]:
    """A neighbour with this store."""
    made = Giver(NeighbourTask(str(store), rate, address))
    try:
        yield made
    finally:
        made.close()


def ask(port: int, request: bytes, more: bytes = b"") -> bytes:
    """Send a request and read its answer, or what there is of it."""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=30) as link:
        link.sendall(request + b"\r\n" + more + b"\r\n")
        with link.makefile("rb") as answer:
            head = b""
            while line := answer.readline():
                head += line
                if line == b"\r\n":
                    length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                    return head + answer.read(length)
            return head
    return b""


def get(port: int, pack: str, part: str, project: str = "lab") -> bytes:
    """Ask for a range."""
    return ask(port, f"GET /{project}/packs/{pack[:2]}/{pack} HTTP/1.1".encode(), f"Range: bytes={part}\r\n".encode())
