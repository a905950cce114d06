"""A small NBD client: to read kernel and initrd from the process that serves them, and for tests and figures."""

import socket
import struct
from pathlib import Path

from deskgrid.images.contract import ImageError

_IHAVEOPT = 0x49484156454F5054
_EXPORT_NAME = 1
_MOST_BYTES = 1 << 20


class Client:
    """An open export. size: its length in bytes."""

    def __init__(self, path: Path | str, export: str = "disk", timeout_seconds: float | None = None) -> None:
        """Connect. Raises: ImageError."""
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._link.settimeout(timeout_seconds)
        try:
            self._link.connect(str(path))
            self._exactly(18)
            self._link.sendall(struct.pack(">IQII", 3, _IHAVEOPT, _EXPORT_NAME, len(export)) + export.encode())
            self.size = struct.unpack(">QH", self._exactly(10))[0]
        except OSError as error:
            raise ImageError(f"NBD {path}: {error}; see whether it is served") from None
        self._number = 0

    def read(self, offset: int, length: int) -> bytearray:
        """Read at most 1 MiB at once. Raises: ImageError."""
        self.ask([(offset, length)])
        return self.take(length)

    def ask(self, places: list[tuple[int, int]]) -> None:
        """Send read requests."""
        requests = []
        for offset, length in places:
            self._number += 1
            requests.append(struct.pack(">IHHQQI", 0x25609513, 0, 0, self._number, offset, length))
        self._link.sendall(b"".join(requests))

    def take(self, length: int) -> bytearray:
        """Take the next answer. Raises: ImageError when it is an error."""
        magic, error, _ = struct.unpack(">IIQ", self._exactly(16))
        if magic != 0x67446698 or error:
            raise ImageError(f"NBD: got error {error}, expected {length} bytes")
        return self._exactly(length)

    def copy_to(self, handle: int) -> None:
        """Write all of it to a file, such as a memfd."""
        import os

        for offset in range(0, self.size, _MOST_BYTES):
            content = memoryview(self.read(offset, min(_MOST_BYTES, self.size - offset)))
            while content:
                content = content[os.write(handle, content) :]

    def close(self) -> None:
        """Take leave."""
        self._link.close()

    def _exactly(self, count: int) -> bytearray:
        content = bytearray(count)
        view, came = memoryview(content), 0
        while came < count:
            got = self._link.recv_into(view[came:])
            if not got:
                raise ImageError("NBD: the server went away")
            came += got
        return content
