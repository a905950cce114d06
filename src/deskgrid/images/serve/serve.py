"""The process that serves one image to one VM: `python -m deskgrid.images.serve.serve SOCKET KERNEL INITRD`.

    to it      4 bytes: length (big-endian) of an `ServeOrder` as JSON; the order; 32 bytes: the project's key
               then commands; see `wire/disk.py`, also for the arguments and for what it says

Rules:
- It lives as long as whoever holds its standard input, and no longer; it does not need the agent.
- The key comes in by standard input straight into a locked page: never argv, environment, a file or a log.
- It reads and fills the store, holds the image's lease there, puts kernel and initrd into memory files, and serves all
  three on a Unix socket, to its own user only. It never writes plain bytes to a disk.
- A guest may wait, for minutes if need be, but gets no error because a source is away.
"""

import os
import socket
import struct
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from queue import SimpleQueue

import msgspec

from deskgrid.host.system.harden import LockedPage, forbid_dumps, lock_everything
from deskgrid.host.system.peer import peer, peer_known
from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import Origin, open_sources
from deskgrid.images.format.keys import KEY_BYTES, ProjectKey
from deskgrid.images.format.published import STREAMS, boot_order, span
from deskgrid.images.format.ranges import ByteRate
from deskgrid.images.serve.nbd import Connection
from deskgrid.images.serve.prefetch import PieceFetch, Prefetch, ReadAhead, WaitingRead
from deskgrid.images.serve.reader import PLAIN_BYTES, Part, Pieces, StreamBlocks
from deskgrid.images.store.store import Admitted, ChunkStore, StoreLimits
from deskgrid.model.values.outside import read_json
from deskgrid.wire.disk import COMMANDS, DiskCommand, DiskMessage
from deskgrid.wire.lines import encode

MOST_ORDER_BYTES = 64 << 10
_FILL_BYTES = 4 << 20
_NO_FILE = "-"


class ServeOrder(msgspec.Struct, frozen=True):
    """What to serve. digest: of an image that was admitted. bytes_per_second: 0: no limit."""

    store: str
    limits: StoreLimits
    digest: str
    sources: tuple[Origin, ...] = ()
    prefetch: Prefetch = Prefetch.BOOT
    bytes_per_second: int = 0
    plain_bytes: int = PLAIN_BYTES


class ServeStatus(msgspec.Struct, frozen=True):
    """How it goes. away: why the guest waits; "" when it does not. prefetched: whether all was that should be."""

    fetched_bytes: int
    requests: int
    waited_seconds: float
    away: str
    prefetched: bool
    read_pieces: int


class _Service:
    """Store, fetchers and socket of one image."""

    def __init__(self, order: ServeOrder, key: memoryview, room: LockedPage, listen: str, stack: ExitStack) -> None:
        if not Path(order.store).is_dir():
            raise ImageError(f"store {order.store}: it is not there any more; the image is fetched anew")
        self._pace = ByteRate(order.bytes_per_second)
        self._paused = False
        store = ChunkStore(Path(order.store), order.limits, said)
        stack.callback(store.close)
        self._image: Admitted = stack.enter_context(store.admit(store.manifest_of(order.digest)))
        self._pieces = Pieces(store, self._image, ProjectKey(key, room), order.plain_bytes)
        demand, prefetch = (
            Fetcher(store, self._image, open_sources(order.sources), self._pace, said) for _ in range(2)
        )
        self._demand = demand
        self._fetch = PieceFetch(store, self._pieces, (demand, prefetch), order.prefetch, self._report)
        self._read_ahead: ReadAhead | None = None
        self._filled: SimpleQueue[list[Part] | None] = SimpleQueue()
        stack.callback(self.end)
        self._exports = {name: StreamBlocks(self._pieces, self._image, name) for name in STREAMS}
        self._listener = _listen(listen)
        stack.callback(self._close, listen)
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def fill(self, stream: str, handle: int) -> None:
        """Put all of a stream into a memory file, and close it. Raises: ImageError."""
        blocks = self._exports[stream]
        with os.fdopen(handle, "wb") as file:
            for offset in range(0, blocks.size, _FILL_BYTES):
                length = min(_FILL_BYTES, blocks.size - offset)
                parts = blocks.read(offset, length)
                if parts is None:
                    self._fetch.wait_for(WaitingRead(blocks, offset, length, self._filled.put))
                    parts = self._filled.get()
                if parts is None:
                    raise ImageError(f"image {self._image.digest[:12]}…: its {stream} can't be read; publish it again")
                file.writelines(parts)

    def read_ahead(self) -> None:
        """Begin to unpack what a boot reads, ahead of the guest."""
        order = boot_order(self._image.manifest)
        self._read_ahead = ReadAhead(
            self._pieces, [number for number in order if number < self._image.manifest.disk.pieces]
        )

    def end(self) -> None:
        """End the fetchers, and whatever waits for them."""
        if self._read_ahead is not None:
            self._read_ahead.close()
        self._filled.put(None)
        self._fetch.close()

    def do(self, command: DiskCommand) -> object:
        """Obey a command; return its answer."""
        if command.do == "rate":
            self._pace.set(command.value)
        elif command.do in ("pause", "resume"):
            self._pause(command.do == "pause")
        elif command.do == "order":
            return {"order": self._first_reads()}
        elif command.do != "status":
            return {"unknown": command.do}
        fetch = self._fetch
        return ServeStatus(
            fetch.fetched_bytes,
            fetch.requests,
            round(fetch.waited_seconds, 3),
            "" if self._paused else fetch.away,
            fetch.prefetched,
            len(self._pieces.first_reads),
        )

    def _pause(self, paused: bool) -> None:
        """Stop fetching at once, also what a guest waits for: it is paused too."""
        self._paused = paused
        self._demand.pause(paused)
        self._fetch.pause(paused)

    def _report(self, sentence: str) -> None:
        if not self._paused:
            said(sentence)

    def _first_reads(self) -> list[int]:
        """Offsets of the disk in the order of their first reads, for the next version's boot order."""
        disk = span(self._image.manifest, self._image.table, "disk")
        with self._pieces.mutex:
            numbers = list(self._pieces.first_reads)
        return [disk.offsets[number] for number in numbers if number < self._image.manifest.disk.pieces]

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            if peer_known() and peer(link).uid not in (os.geteuid(), 0):  # else the folder's rights must do
                link.close()
                continue
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            connection = Connection(link, self._exports, self._fetch.wait_for)
            threading.Thread(target=connection.serve, name="nbd", daemon=True).start()

    def _close(self, path: str) -> None:
        self._listener.close()
        Path(path).unlink(missing_ok=True)


def main() -> int:
    """Serve until standard input ends. Returns: the exit code; 1 with a sentence when it can't be done."""
    listen, *files = sys.argv[1:]
    room = LockedPage()
    over = threading.Event()
    with ExitStack() as stack:
        stack.callback(room.wipe)
        try:
            order = _take_order()
            # Until now its keeper may open what it needs of this process in /proc.
            dumps, locked = forbid_dumps(), lock_everything()
            key = memoryview(_exactly(room(bytes(KEY_BYTES))))
            service = _Service(order, key, room, listen, stack)
            threading.Thread(target=_obey, args=(service, over), name="commands", daemon=True).start()
            for stream, handle in zip(("kernel", "initrd"), files, strict=True):
                if handle != _NO_FILE:
                    service.fill(stream, int(handle))
            service.read_ahead()
        except (ImageError, msgspec.MsgspecError, OSError) as error:
            if over.is_set():
                return 0
            said(str(error))
            return 1
        _tell(DiskMessage(ready={"no_dumps": dumps, "key_locked": room.locked, "all_locked": locked}))
        over.wait()
    return 0


def _obey(service: _Service, over: threading.Event) -> None:
    """Obey commands until there are no more."""
    for line in sys.stdin.buffer:
        try:
            _tell(DiskMessage(answer=service.do(COMMANDS.decode(line))))
        except msgspec.MsgspecError as error:
            said(f"command: {error}")
    over.set()
    service.end()


def said(sentence: str) -> None:
    """Report something, in a sentence."""
    _tell(DiskMessage(said=sentence))


_telling = threading.Lock()


def _tell(word: DiskMessage) -> None:
    with _telling, suppress(OSError):
        os.write(1, encode(word))


def _take_order() -> ServeOrder:
    """Read the order. Raises: ImageError, MsgspecError."""
    length = struct.unpack(">I", _exactly(bytearray(4)))[0]
    if length > MOST_ORDER_BYTES:
        raise ImageError(f"order: got {length} bytes, expected at most {MOST_ORDER_BYTES}")
    return read_json(_exactly(bytearray(length)), type=ServeOrder)


def _exactly(place: bytearray | memoryview) -> bytearray | memoryview:
    """Fill a place from standard input, without a copy elsewhere."""
    view, came = memoryview(place), 0
    while came < len(view):
        count = os.readv(0, [view[came:]])
        if not count:
            raise ImageError("order: standard input ended too early")
        came += count
    return place


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


if __name__ == "__main__":
    sys.exit(main())
