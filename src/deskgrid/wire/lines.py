"""JSON lines: how all processes of deskgrid speak to each other over sockets and pipes."""

from pathlib import Path

import msgspec


class Lines:
    """Cuts a stream into lines; a line longer than `limit` bytes comes empty, which is no message."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._part = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the lines that they complete, without their ends."""
        *ended, rest = data.split(b"\n")
        lines = []
        for piece in ended:
            if not self._dropping:
                whole = len(self._part) + len(piece) <= self._limit
                lines.append(bytes(self._part) + piece if whole else b"")
            self._part.clear()
            self._dropping = False
        if not self._dropping and len(self._part) + len(rest) > self._limit:
            self._part.clear()
            self._dropping = True
            lines.append(b"")
        elif not self._dropping:
            self._part += rest
        return lines


def encode(message: msgspec.Struct) -> bytes:
    """One line, with its newline."""
    return _ENCODER.encode(message) + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


_ENCODER = msgspec.json.Encoder(enc_hook=_plain)
