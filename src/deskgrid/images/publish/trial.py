"""What a trial boot tells: serve a plain disk by NBD, note what is read first, and keep it with the machine's ad.

Rules:
- The disk is read only, on a socket of the caller's; nothing is cached, so that every read is seen.
- What is noted are offsets in the order of the reads, each block of 4 KiB once; `publish` takes them as they are.
- They are kept beside the disk, with what the machine said of itself, so that an image is tried once however often it
  is published, and the same is published each time.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deskgrid.core.fleet.promise import Promise
from deskgrid.host.system.files import write_atomic
from deskgrid.images.serve.nbd import Connection
from deskgrid.images.serve.prefetch import WaitingRead
from deskgrid.images.serve.reader import RawBlocks
from deskgrid.model.values.outside import JsonReader, read_json

KEPT, KEPT_AD = "first-reads.json", "machine.json"
_BLOCK_BYTES = 4 << 10
_READS = JsonReader(list[int])


class ReadsTrial:
    """What was read until now."""

    def __init__(self) -> None:
        self._reads: dict[int, None] = {}
        self._mutex = threading.Lock()

    def note(self, offset: int, length: int) -> None:
        """A guest reads there."""
        with self._mutex:
            for block in range(offset // _BLOCK_BYTES, -(-(offset + length) // _BLOCK_BYTES)):
                self._reads.setdefault(block * _BLOCK_BYTES)

    def __len__(self) -> int:
        return len(self._reads)

    def first_reads(self) -> list[int]:
        """Offsets in the order of the first reads."""
        with self._mutex:
            return list(self._reads)


def kept_reads(folder: Path) -> list[int]:
    """The first reads that are kept beside an image's disk; none when there are none."""
    try:
        return _READS.decode((folder / KEPT).read_bytes())
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return []


def keep_reads(folder: Path, reads: list[int]) -> None:
    """Keep them beside the disk, where that folder can be written to."""
    with suppress(OSError):
        write_atomic(folder / KEPT, msgspec.json.encode(reads), 0o644)


def kept_promise(folder: Path) -> Promise | None:
    """What the image's machines say of themselves, as it is kept beside its disk; None when it is not."""
    try:
        return read_json((folder / KEPT_AD).read_bytes(), type=Promise)
    except (OSError, msgspec.MsgspecError):
        return None


def keep_promise(folder: Path, promise: Promise) -> None:
    """Keep it beside the disk, where that folder can be written to."""
    with suppress(OSError):
        write_atomic(folder / KEPT_AD, msgspec.json.encode(promise), 0o644)


@contextmanager
def trial(disk: Path, path: Path) -> Iterator[ReadsTrial]:
    """Serve a disk at the socket `path` as the export "disk" until the end of the block. Raises: OSError."""
    blocks, noted = RawBlocks(disk), ReadsTrial()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(4)

    def accept() -> None:
        with suppress(OSError):
            while True:
                link, _ = listener.accept()
                connection = Connection(link, {"disk": blocks}, _never)
                connection.note = noted.note
                threading.Thread(target=connection.serve, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield noted
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        path.unlink(missing_ok=True)


def _never(waiting: WaitingRead) -> None:
    """A plain disk never lacks anything."""
    waiting.answer(None)
