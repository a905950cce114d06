"""What a guest writes, made harmless: the last words of its console.

A guest runs other people's programs: whatever it writes, however much and however fast, costs a bounded amount of
memory and time here. Pure: bytes in, values out.
"""

from deskgrid.model.values.text import printable

TAIL_BYTES = 64 * 1024
WORDS_CHARS = 600
_PANIC = b"Kernel panic - not syncing"


class Console:
    """The last 64 KiB that a guest's console said. panicked: its kernel has given up."""

    def __init__(self, limit: int = TAIL_BYTES) -> None:
        self._limit = limit
        self._tail = bytearray()
        self.panicked = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self.panicked:
            self.panicked = _PANIC in bytes(self._tail[-len(_PANIC) :]) + data
        self._tail += data
        del self._tail[: -self._limit]

    def last_words(self, *secrets: str) -> str:
        """Its end in one printable line, from the panic on if there is one.

        secrets: are not repeated, if the guest has printed them.
        """
        text = self._tail.decode("ascii", errors="replace")
        for secret in filter(None, secrets):
            text = text.replace(secret, "<secret>")
        start = text.find(_PANIC.decode())
        if start >= 0:
            return printable(text[start:], WORDS_CHARS // 2)
        lines = [words for line in text.splitlines()[-200:] if (words := printable(line, 300))]
        return " / ".join(lines)[-WORDS_CHARS:]
