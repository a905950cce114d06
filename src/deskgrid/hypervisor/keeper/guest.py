"""The guest of one VM, as its keeper hears it.

Rules:
- What it says moves nothing but its own VM: alive, joined, left, each told once, in this order.
- Only its channel gives it its instance data; only its console tells that its kernel has given up.
"""

import asyncio
from collections.abc import Callable

import msgspec

from deskgrid.core.commands import Renew
from deskgrid.core.events import Alive, GuestLeft, Joined
from deskgrid.hypervisor.keeper.channel import Console
from deskgrid.hypervisor.keeper.endings import End
from deskgrid.hypervisor.keeper.link import DriverLink
from deskgrid.hypervisor.keeper.ports import SerialPort
from deskgrid.hypervisor.machine.qemu import SerialPorts
from deskgrid.model.instance import InstanceData
from deskgrid.wire import guest
from deskgrid.wire.lines import Lines

CHANNEL_BYTES_AT_ONCE = 1024 * 1024
CONSOLE_BYTES_AT_ONCE = 8 * 1024 * 1024
PANIC_SECONDS = 0.5
"""How long a guest that has given up may still explain itself on its console."""
JOIN_SECONDS = 0.9
"""A guest that says hello more often than this gets no answer in between."""


class Guest:
    """What it has said until now. alive, joined, left: as in the contract's events."""

    def __init__(self, instance: InstanceData, link: DriverLink, finish: Callable[[End], None]) -> None:
        """Hear nothing yet. link: told what happens. finish: told why the VM must end."""
        self.alive = self.joined = self.left = False
        self._instance, self._link, self._finish = instance, link, finish
        self._tokens: tuple[str, ...] = (instance.token,)
        self._loop = asyncio.get_running_loop()
        self._lines, self._console = Lines(guest.LINE_BYTES), Console()
        self._ports: list[SerialPort] = []
        self._channel: SerialPort | None = None
        self._joined_at = 0.0

    def listen(self, ports: SerialPorts) -> None:
        """Hear it from now on."""
        self._channel = SerialPort(ports.channel, CHANNEL_BYTES_AT_ONCE, self._on_channel)
        self._ports = [self._channel, SerialPort(ports.console, CONSOLE_BYTES_AT_ONCE, self._on_console)]

    def drain(self) -> None:
        """Take what it has said last."""
        for port in self._ports:
            port.drain()

    def last_words(self) -> str:
        """The end of its console."""
        return self._console.last_words(*self._tokens)

    def renew(self, token: str) -> None:
        """A token that is valid for longer: for the guest now, or when it joins."""
        self._tokens = (*self._tokens, token)[-2:]
        self._instance = msgspec.structs.replace(self._instance, token=token)
        if self.alive and not self.left and self._channel is not None:
            self._channel.write(guest.encode(Renew(token)))

    def leave(self) -> None:
        """Ask it to leave; one that is not up yet has left at once."""
        if not self.alive:
            self._has_left(GuestLeft("asked", "it had not come up yet, so there was nothing to vacate"))
        elif self._channel is not None:
            self._channel.write(guest.encode(guest.Leave()))

    def _on_channel(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            message = guest.decode_from_guest(line)
            match message:
                case guest.Hello():
                    self._on_hello()
                case Joined() if not self.joined:
                    self._on_hello(answer=False)
                    self.joined = True
                    self._link.happened(message)
                case GuestLeft():
                    self._on_hello(answer=False)
                    self._has_left(message)

    def _on_hello(self, answer: bool = True) -> None:
        if not self.alive:
            self.alive = True
            self._link.happened(Alive())
        now = self._loop.time()
        if answer and self._channel is not None and not self._channel.behind and now - self._joined_at > JOIN_SECONDS:
            self._joined_at = now
            self._channel.write(guest.encode(guest.Join(self._instance)))

    def _has_left(self, event: GuestLeft) -> None:
        if not self.left:
            self.left = True
            self._link.happened(event)

    def _on_console(self, data: bytes) -> None:
        before = self._console.panicked
        self._console.feed(data)
        if self._console.panicked and not before:
            end = End("the guest's kernel gave up", with_console=True)
            self._loop.call_later(PANIC_SECONDS, self._finish, end)
