"""Where connections to the owner's page wait until they have said something: whoever is silent costs no thread.

Rules:
- Any account of this computer may connect, so a connection is worth nothing until it has shown the page's key. Who has
  shown it has places of his own; who says something else is answered from a few places; who says nothing waits here.
- Here is room for `ROOM` connections. When one more comes, the one that has been silent longest goes.
- A request is only looked at (MSG_PEEK); it is read by whoever answers it.
"""

import re
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

ROOM = 256
SILENT_SECONDS = 10.0
HEAD_BYTES = 16384
_LOOK_AGAIN_SECONDS = 0.05
_WORD = re.compile(rb"[A-Za-z0-9_-]{20,128}")


class Lobby:
    """Args: keyed: whether one of these words is the key. answer: takes over a connection; told whether it has the key.

    turn_away: closes a connection.
    """

    def __init__(
        self,
        keyed: Callable[[list[str]], bool],
        answer: Callable[[socket.socket, object, bool], None],
        turn_away: Callable[[socket.socket], None],
    ) -> None:
        self._keyed, self._answer, self._turn_away = keyed, answer, turn_away
        self._waiting: dict[socket.socket, tuple[object, float]] = {}
        self._listed: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._coming: list[tuple[socket.socket, object]] = []
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        self._rope.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="lobby", daemon=True)
        self._thread.start()

    def let_in(self, link: socket.socket, address: object) -> None:
        """Take a connection; from any thread."""
        with self._lock:
            self._coming.append((link, address))
        self._ring()

    def close(self) -> None:
        """Turn everybody away."""
        if not self._closing:
            self._closing = True
            self._ring()
            self._thread.join()
            for link in [*self._waiting, *(link for link, _ in self._coming)]:
                self._turn_away(link)
            self._selector.close()
            self._bell.close()
            self._rope.close()

    def _ring(self) -> None:
        with suppress(OSError):  # it rings already
            self._rope.send(b"!")

    def _run(self) -> None:
        while not self._closing:
            half_said = [link for link in self._waiting if link not in self._listed]
            patience = _LOOK_AGAIN_SECONDS if half_said else SILENT_SECONDS if self._waiting else None
            ready = [key.fileobj for key, _ in self._selector.select(patience)]
            if self._bell in ready:
                self._bell.recv(64)
            for link in [
                *half_said,
                *(one for one in ready if isinstance(one, socket.socket) and one is not self._bell),
            ]:
                self._look(link)
            self._welcome()
            now = time.monotonic()
            for link in [one for one, (_, since) in self._waiting.items() if since + SILENT_SECONDS <= now]:
                self._forget(link)
                self._turn_away(link)

    def _welcome(self) -> None:
        with self._lock:
            coming, self._coming = self._coming, []
        for link, address in coming:
            self._waiting[link] = (address, time.monotonic())
            self._selector.register(link, selectors.EVENT_READ)
            self._listed.add(link)
            self._look(link)
            if len(self._waiting) > ROOM:
                oldest = next(iter(self._waiting))
                self._forget(oldest)
                self._turn_away(oldest)

    def _look(self, link: socket.socket) -> None:
        try:
            head = link.recv(HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            head = b""
        whole = b"\r\n\r\n" in head or len(head) >= HEAD_BYTES
        if head and not whole:
            if link in self._listed:  # it would be ready again and again: it is looked at now and then
                self._selector.unregister(link)
                self._listed.discard(link)
            return
        address, _ = self._forget(link)
        if not head:
            self._turn_away(link)
            return
        self._answer(link, address, self._keyed([word.decode() for word in _WORD.findall(head)]))

    def _forget(self, link: socket.socket) -> tuple[object, float]:
        if link in self._listed:
            self._selector.unregister(link)
            self._listed.discard(link)
        return self._waiting.pop(link)
