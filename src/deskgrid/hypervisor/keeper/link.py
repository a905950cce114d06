"""The keeper's end of the conversation with its driver (`keeper_words`): one driver at a time, the newest.

The rules:
- A driver that does not read what it is told loses its connection, never the keeper its time.
- What happened is kept until a driver has confirmed it, and told again to the next one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import msgspec

from deskgrid.hypervisor.keeper.channel import Lines
from deskgrid.hypervisor.keeper.messages import LINE_BYTES, Happened, Heard, Order, Over, Replaced, Status, Word
from deskgrid.model.values.outside import JsonReader

_ORDER = JsonReader(Order)


class Link:
    """Whoever drives this keeper now, if anybody."""

    def __init__(self, listener: socket.socket, status: Callable[[], Status], obey: Callable[[Order], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._status = status
        self._obey = obey
        self._driver: socket.socket | None = None
        self._lines = Lines(LINE_BYTES)
        self._unheard: list[Happened] = []
        self._count = 0
        self._last: Over | None = None
        self.told = asyncio.Event()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)

    @property
    def attached(self) -> bool:
        """Whether anybody listens."""
        return self._driver is not None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self.attach(listener.accept()[0])

    def attach(self, driver: socket.socket, already: bytes = b"") -> None:
        """Take a new driver. already: what it has said before we listened."""
        if self._driver is not None:
            self._say(Replaced())
            self._detach()
        driver.setblocking(False)
        self._driver, self._lines = driver, Lines(LINE_BYTES)
        self._loop.add_reader(driver, self.read)
        if self._last is not None:
            self._say_last()
            return
        self._say(self._status())
        for happened in self._unheard:
            self._say(happened)
        self._take(already)

    def _detach(self) -> None:
        if self._driver is not None:
            self._loop.remove_reader(self._driver)
            self._driver.close()
            self._driver = None

    def read(self) -> None:
        """Take what the driver has said, if it has said anything."""
        if self._driver is None:
            return
        try:
            data = self._driver.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._detach()

    def _take(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            try:
                order: Order = _ORDER.decode(line)
            except (msgspec.MsgspecError, RecursionError):
                continue
            if isinstance(order, Heard):
                self._unheard = [happened for happened in self._unheard if happened.number > order.number]
            else:
                self._obey(order)

    def happened(self, kind: str, *, accelerator: str = "", cause: str = "", sentence: str = "") -> None:
        """Tell of an event, and keep it until it has been heard."""
        self._count += 1
        event = Happened(self._count, kind, accelerator=accelerator, cause=cause, sentence=sentence)
        self._unheard.append(event)
        self._say(event)

    def tell(self, word: Word) -> None:
        """Say something that only matters now."""
        self._say(word)

    def over(self, word: Over) -> None:
        """Say the last word, now or to the next driver; `told` is set then."""
        self._last = word
        if self._driver is not None:
            self._say_last()

    def _say_last(self) -> None:
        for happened in self._unheard:
            self._say(happened)
        if self._last is not None:
            self._say(self._last)
        self.told.set()

    def _say(self, word: Word) -> None:
        if self._driver is None:
            return
        line = msgspec.json.encode(word) + b"\n"
        try:
            if self._driver.send(line) < len(line):
                self._detach()
        except OSError:
            self._detach()
