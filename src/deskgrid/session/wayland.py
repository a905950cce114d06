"""What a Wayland compositor tells of its seat: ext-idle-notify-v1, spoken by hand in the little that it needs.

Rules:
- One connection, no descriptors passed, nothing drawn. Ids are ours from 2 on; 1 is the display.
- The compositor says only "idle for QUIET_SECONDS" and "used again": in between, idle time is counted from there.
- A program that inhibits idleness (a film) makes it say nothing: the seat then counts as in use, which is right.

Sources: the Wayland protocol, wayland.xml (wire format in appendix B); ext-idle-notify-v1.xml.
"""

import os
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

from deskgrid.model.presence import SessionReading
from deskgrid.session.eyes import QUIET_SECONDS, Say

_DISPLAY, _REGISTRY, _SYNC, _SEAT, _NOTIFIER, _WATCH = 1, 2, 3, 4, 5, 6
_MESSAGE_BYTES_MAX = 4096


def wayland_path() -> Path | None:
    """The socket of this session's compositor, or None."""
    name = os.environ.get("WAYLAND_DISPLAY", "")
    if not name:
        return None
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/")) / name


class WaylandEye:
    """Listens to a compositor. Raises: OSError: it can't be reached."""

    def __init__(self, path: Path, say: Say) -> None:
        self._say = say
        self.over = self.watches = False
        self._globals: dict[str, tuple[int, int]] = {}
        self._idle_since: float | None = None
        self._coming = b""
        self._link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._link.connect(os.fspath(path))
        except OSError:
            self._link.close()
            raise
        self._link.setblocking(False)
        self._send(_DISPLAY, 1, struct.pack("=I", _REGISTRY))
        self._send(_DISPLAY, 0, struct.pack("=I", _SYNC))

    def fileno(self) -> int:
        """See Eye."""
        return self._link.fileno()

    def tend(self) -> None:
        """See Eye."""
        try:
            while data := self._link.recv(65536):
                self._coming += data
                self._take_all()
            self.over = True
        except BlockingIOError:
            return
        except (OSError, ValueError, struct.error):
            self.over = True

    def look(self) -> None:
        """See Eye."""
        if not self.watches or self.over:
            return
        idle = 0.0 if self._idle_since is None else time.monotonic() - self._idle_since
        self._say(SessionReading("ext-idle-notify", idle))

    def close(self) -> None:
        """See Eye."""
        with suppress(OSError):
            self._link.close()

    def _send(self, target: int, opcode: int, body: bytes) -> None:
        self._link.sendall(struct.pack("=II", target, (8 + len(body)) << 16 | opcode) + body)

    def _take_all(self) -> None:
        while len(self._coming) >= 8:
            target, word = struct.unpack_from("=II", self._coming)
            size, opcode = word >> 16, word & 0xFFFF
            if not 8 <= size <= _MESSAGE_BYTES_MAX:
                raise ValueError(f"a message of {size} bytes")
            if len(self._coming) < size:
                return
            body, self._coming = self._coming[8:size], self._coming[size:]
            self._take(target, opcode, body)

    def _take(self, target: int, opcode: int, body: bytes) -> None:
        if target == _DISPLAY and opcode == 0:
            raise ValueError("the compositor reports an error of ours")
        if target == _REGISTRY and opcode == 0:
            number, length = struct.unpack_from("=II", body)
            interface = body[8 : 8 + length - 1].decode("ascii")
            (version,) = struct.unpack_from("=I", body, 8 + (length + 3) // 4 * 4)
            self._globals.setdefault(interface, (number, version))
        elif target == _SYNC:
            self._all_known()
        elif target == _WATCH:
            self._idle_since = time.monotonic() - QUIET_SECONDS if opcode == 0 else None
            self.look()

    def _all_known(self) -> None:
        """The compositor has named all that it has: watch its first seat, if it can tell."""
        if not {"wl_seat", "ext_idle_notifier_v1"} <= self._globals.keys():
            self.over = True
            return
        self._bind("wl_seat", _SEAT)
        self._bind("ext_idle_notifier_v1", _NOTIFIER)
        self._send(_NOTIFIER, 1, struct.pack("=III", _WATCH, int(QUIET_SECONDS * 1000), _SEAT))
        self.watches = True
        self.look()

    def _bind(self, interface: str, new_id: int) -> None:
        text = interface.encode() + b"\0"
        padded = text + b"\0" * (-len(text) % 4)
        number, _ = self._globals[interface]
        self._send(_REGISTRY, 0, struct.pack("=II", number, len(text)) + padded + struct.pack("=II", 1, new_id))
