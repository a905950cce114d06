"""The keeper's end of the conversation with its driver (`wire/keeper.py`): one driver at a time, the newest.

Rules:
- A driver that does not read loses its connection, never the keeper its time.
- What happened is kept until a driver has confirmed it, and told again to the next one.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import msgspec

from deskgrid.core.events import FromHypervisor, Gone, StartFailed
from deskgrid.wire.keeper import LINE_BYTES, TO_KEEPER, Exited, FromKeeper, Heard, Observed, Replaced, ToKeeper, Told
from deskgrid.wire.lines import Lines, encode


class DriverLink:
    """Whoever drives this keeper now, if anybody."""

    def __init__(
        self, listener: socket.socket, observed: Callable[[], Observed], obey: Callable[[ToKeeper], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._observed = observed
        self._obey = obey
        self._driver: socket.socket | None = None
        self._lines = Lines(LINE_BYTES)
        self._unheard: list[Told] = []
        self._count = 0
        self._last: Exited | None = None
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
        self.observed()
        for told in self._unheard:
            self._say(told)
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
                message = TO_KEEPER.decode(line)
            except msgspec.MsgspecError:
                continue
            if isinstance(message, Heard):
                self._unheard = [told for told in self._unheard if told.number > message.number]
            else:
                self._obey(message)

    def happened(self, event: FromHypervisor) -> None:
        """Tell of an event, and keep it until it has been heard."""
        self._count += 1
        self._unheard.append(Told(self._count, event))
        self._say(self._unheard[-1])

    def observed(self) -> None:
        """Say how the VM is now."""
        self._say(self._observed())

    def tell(self, message: FromKeeper) -> None:
        """Say something that only matters now."""
        self._say(message)

    def over(self, event: Gone | StartFailed) -> None:
        """Say the last word, now or to the next driver; `told` is set then."""
        self._last = Exited(event)
        if self._driver is not None:
            self._say_last()

    def _say_last(self) -> None:
        for told in self._unheard:
            self._say(told)
        if self._last is not None:
            self._say(self._last)
        self.told.set()

    def _say(self, message: FromKeeper) -> None:
        if self._driver is None:
            return
        line = encode(message)
        try:
            if self._driver.send(line) < len(line):
                self._detach()
        except OSError:
            self._detach()
