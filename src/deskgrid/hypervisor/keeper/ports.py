"""The keeper's ends of a guest's serial ports: read at a bounded rate, written without ever waiting.

A guest that floods its ports is simply not read any more for a moment: QEMU's serial port then makes it wait.
"""

import asyncio
import socket
from collections.abc import Callable

from deskgrid.model.values.bucket import TokenBucket

READ_BYTES = 16 * 1024
READ_COSTS_BYTES = 1024
"""What a read counts beside its bytes: QEMU gives a serial port's bytes one by one, and each read costs time."""
BYTES_PER_SECOND = 64 * 1024
OUTGOING_BYTES = 64 * 1024


class SerialPort:
    """One serial port. bytes_at_once: what it may say at once after it was quiet for long."""

    def __init__(self, end: socket.socket, bytes_at_once: int, take: Callable[[bytes], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._take = take
        self._bucket = TokenBucket(BYTES_PER_SECOND, bytes_at_once, self._loop.time())
        self._outgoing = bytearray()
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    def _read(self) -> None:
        try:
            data = self._end.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            return
        self._take(data)
        wait_seconds = self._bucket.spend(READ_COSTS_BYTES + len(data), self._loop.time())
        if wait_seconds > 0:
            self._loop.remove_reader(self._end)
            self._loop.call_later(wait_seconds, self._loop.add_reader, self._end, self._read)

    def drain(self) -> None:
        """Take what is there, as far as it was written before now."""
        for _ in range(16):
            try:
                data = self._end.recv(READ_BYTES)
            except OSError:
                return
            if not data:
                return
            self._take(data)

    def write(self, line: bytes) -> bool:
        """Send a line when the guest reads. Returns: False if it has left too much unread; then it is dropped."""
        if len(self._outgoing) + len(line) > OUTGOING_BYTES:
            return False
        self._outgoing += line
        self._send()
        return True

    @property
    def behind(self) -> bool:
        """Whether something is still unsent."""
        return bool(self._outgoing)

    def _send(self) -> None:
        try:
            sent = self._end.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._outgoing.clear()
            sent = 0
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self._end, self._send)
        else:
            self._loop.remove_writer(self._end)
