"""The process that gives parts of packs to neighbours: `python -m deskgrid.images.neighbour.serve`.

    GET /<project>/packs/<aa>/<pack> HTTP/1.1, with one Range of bytes: what `HttpSource` asks of any web server.

The protocol on its standard streams is in `wire/neighbour.py`.

Rules:
- It lives as long as whoever holds its standard input. It gets processor and disk when nobody else wants them.
- It gives ciphertext out of packs, the same bytes as on the server, and nothing else: no manifest, no index of the
  store, no key (it has none). It reads; it never writes.
- It gives a range only when all its blobs are here and right: each is checked before the first byte goes out. The pack
  is not here at all: 404; something of the range is missing, damaged or longer than 3 MiB: 416. The asker goes on to
  its next source at once.
- It answers private addresses on its own subnets; to all others it closes the door without a word.
- All is bounded: connections, in all and for one address; a request's length and time; how slowly a reader may read;
  bytes per second for all together. Who asked what is not written down anywhere.
"""

import os
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil

from deskgrid.images.format.ranges import ByteRate
from deskgrid.images.neighbour.door import MOST_INSIDE, Address, NeighbourLimiter, Network, own_networks
from deskgrid.images.neighbour.held import HeldPacks, Lacking
from deskgrid.model.values.outside import read_json
from deskgrid.wire.disk import DiskCommand, DiskMessage
from deskgrid.wire.lines import encode
from deskgrid.wire.neighbour import NeighbourCount, NeighbourTask

MOST_REQUEST_BYTES = 4096
REQUEST_SECONDS, IDLE_SECONDS = 5.0, 30.0
READER_SECONDS, READER_BYTES_PER_SECOND = 10.0, 64 << 10
_PART_BYTES = 16 << 10
_SEND_BUFFER_BYTES = 128 << 10
_REQUEST = re.compile(rb"GET /[A-Za-z0-9][A-Za-z0-9._-]{0,63}/packs/([0-9a-f]{2})/(\1[0-9a-f]{62}) HTTP/1\.1")
_RANGE = re.compile(rb"range:[ \t]*bytes=(\d{1,12})-(\d{1,12})[ \t]*", re.IGNORECASE)
_PHRASES = {206: "Partial Content", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_PHRASES |= {416: "Range Not Satisfiable"}


class Visit:
    """One connection: a request, its answer, and again."""

    def __init__(self, link: socket.socket, packs: HeldPacks, pace: ByteRate, note: Callable[[int], None]) -> None:
        """note: told of bytes that were given."""
        self._link, self._packs, self._pace, self._note = link, packs, pace, note
        self._pending = b""
        self._never = threading.Event()

    def serve(self) -> None:
        """Answer until the other one goes, breaks the rules, or is too slow. Raises: OSError."""
        while (head := self._request()) is not None:
            lines = head.split(b"\r\n")
            asked = _REQUEST.fullmatch(lines[0])
            ranges = [line for line in lines[1:] if line[:6].lower() == b"range:"]
            wanted = _RANGE.fullmatch(ranges[0]) if len(ranges) == 1 else None
            self._pace.take(_PART_BYTES, self._never)  # a refusal is work too
            if asked is None:
                return self._refuse(404 if lines[0].startswith(b"GET /") else 405, last=True)
            if wanted is None:
                return self._refuse(416, last=True)
            start, end = int(wanted[1]), int(wanted[2]) + 1
            try:
                body, length = self._packs.part(asked[2].decode(), start, end)
            except Lacking as lacking:
                self._refuse(lacking.status)
                continue
            self._give(body, f"Content-Range: bytes {start}-{end - 1}/{length}\r\n")
        return None

    def _request(self) -> bytes | None:
        """The head of the next request; None: there is none, or it is too long or too late."""
        until = time.monotonic() + IDLE_SECONDS
        begun = False
        while (end := self._pending.find(b"\r\n\r\n")) < 0:
            if self._pending and not begun:
                begun, until = True, time.monotonic() + REQUEST_SECONDS
            left = until - time.monotonic()
            if left <= 0 or len(self._pending) > MOST_REQUEST_BYTES:
                return None
            self._link.settimeout(left)
            came = self._link.recv(MOST_REQUEST_BYTES)
            if not came:
                return None
            self._pending += came
        head, self._pending = self._pending[:end], self._pending[end + 4 :]
        return head if end <= MOST_REQUEST_BYTES else None

    def _refuse(self, status: int, last: bool = False) -> None:
        self._send(_head(status, 0, "Connection: close\r\n" if last else ""))

    def _give(self, body: memoryview, more: str) -> None:
        """Raises: TimeoutError when the other one reads too slowly."""
        self._send(_head(206, len(body), more))
        waited = 0.0
        for begin in range(0, len(body), _PART_BYTES):
            part = body[begin : begin + _PART_BYTES]
            if begin:
                self._pace.take(len(part), self._never)
            asked_at = time.monotonic()
            self._send(part)
            waited += time.monotonic() - asked_at
            self._note(len(part))
            if waited > READER_SECONDS and (begin + len(part)) / waited < READER_BYTES_PER_SECOND:
                raise TimeoutError

    def _send(self, content: bytes | memoryview) -> None:
        self._link.settimeout(READER_SECONDS)
        self._link.sendall(content)


def _head(status: int, length: int, more: str) -> bytes:
    return f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Length: {length}\r\n{more}\r\n".encode()


class NeighbourServer:
    """Listens, and gives."""

    def __init__(self, serving: NeighbourTask, networks: Callable[[], list[Network]] = own_networks) -> None:
        """Begin. Raises: OSError when it can't listen there."""
        self._packs, self._pace = HeldPacks(Path(serving.store)), ByteRate(serving.bytes_per_second)
        self._door = NeighbourLimiter(networks)
        self._counting = threading.Lock()
        self._given_bytes = 0
        self._listener = _listen(serving.address, serving.port)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def do(self, command: DiskCommand) -> object:
        """Obey a command; return its answer."""
        if command.do == "rate":
            self._pace.set(command.value)
        return NeighbourCount(self._given_bytes, self._door.inside)

    def close(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                link, address = self._listener.accept()
            except ConnectionError:
                continue
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(1.0)  # no more files, or no memory: it passes
                continue
            who = self._door.enter(address[0])
            if who is None:
                _slam(link)
                continue
            threading.Thread(target=self._receive, args=(link, who), name="neighbour", daemon=True).start()

    def _receive(self, link: socket.socket, who: Address) -> None:
        try:
            with link, suppress(OSError):
                link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Visit(link, self._packs, self._pace, self._note).serve()
        finally:
            self._door.leave(who)

    def _note(self, count: int) -> None:
        with self._counting:
            self._given_bytes += count


def _slam(link: socket.socket) -> None:
    """Close it at once, without a rest in the kernel."""
    with link, suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _listen(address: str, port: int) -> socket.socket:
    if address:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=MOST_INSIDE)
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=MOST_INSIDE, dualstack_ipv6=True)
    return socket.create_server(("", port), backlog=MOST_INSIDE)


def give_way() -> None:
    """From now on this process gets what nobody else wants, and is the first to go when memory runs out."""
    with suppress(OSError, AttributeError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with suppress(OSError, AttributeError, psutil.Error):
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main() -> int:
    """Serve until standard input ends. Returns: the exit code; 1 with a sentence when it can't be done."""
    give_way()
    try:
        serving = read_json(sys.stdin.buffer.readline(), type=NeighbourTask)
        service = NeighbourServer(serving)
    except msgspec.MsgspecError as error:
        _tell(DiskMessage(said=f"neighbours: what to serve: {error}"))
        return 1
    except OSError as error:
        where = f"{serving.address or 'any address'} port {serving.port}"
        _tell(DiskMessage(said=f"neighbours: {where}: {error.strerror}; choose another port, or end what uses it"))
        return 1
    _tell(DiskMessage(ready={"port": service.port}))
    for line in sys.stdin.buffer:
        with suppress(msgspec.MsgspecError):
            _tell(DiskMessage(answer=service.do(read_json(line, type=DiskCommand))))
    return 0


def _tell(word: DiskMessage) -> None:
    with suppress(OSError):
        os.write(1, encode(word))


if __name__ == "__main__":
    sys.exit(main())
