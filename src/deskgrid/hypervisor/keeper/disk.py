"""The process that serves a VM's disk, as its keeper begins it and then sees it; the protocol: `wire/disk.py`.

Rules:
- It is this process's child and dies with it, in QEMU's cgroup, class and cores.
- It gets the opening, which holds a SECRET, over a socket pair, and two memory files to fill with kernel and initrd.
- Before it has the opening, what must be opened of it in /proc is: with a secret in it, it lets nobody of this account.
- Its keeper never waits for it: commands go out when it reads, messages are taken when they come.
- Until it serves it is asked now and then how it goes. A minute without any word, a minute (not paused) in which all
  of its sources are away, or ten minutes in all: then it does not serve.
- It waits for data when all of its sources are away, or when it has waited for half of the time since the last answer.
- The faults that it reports are passed on, bounded in number and length.
"""

import asyncio
import contextlib
import fcntl
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from deskgrid.host.system.programs import KEPT, SPARING, environment
from deskgrid.hypervisor.confine.child import Child
from deskgrid.hypervisor.confine.spawn import ProcessLimits, open_share, spawn
from deskgrid.hypervisor.keeper.endings import server_words
from deskgrid.hypervisor.keeper.place import CannotKeep
from deskgrid.model.desktop import Fault
from deskgrid.model.values.text import printable
from deskgrid.wire.disk import LINE_BYTES, MESSAGES, DiskCommand, DiskMessage, DiskServer
from deskgrid.wire.keeper import DISK_SOCKET_NAME
from deskgrid.wire.lines import Lines, encode

_NO_FILE = "-"


class Begun(msgspec.Struct):
    """A process that has begun. link: its standard input and output. unsent: the rest of its opening. SECRET.

    errors: the file that its stderr goes to. kernel, initrd: memory files; -1: none. share: as of `open_share`.
    """

    process: subprocess.Popen[bytes]
    link: socket.socket
    unsent: bytes
    errors: int
    kernel: int
    initrd: int
    share: int

    def close(self, what: str) -> None:
        """Give back the "kernel" or the "initrd"."""
        if (handle := getattr(self, what)) >= 0:
            os.close(handle)
            setattr(self, what, -1)


def begin(served: DiskServer, folder: Path, limits: ProcessLimits) -> Begun:
    """Start it, to serve in the VM's folder; tell it what. Raises: CannotKeep."""
    kernel, initrd = (
        _memory_file(name, there) for name, there in (("kernel", served.kernel), ("initrd", served.initrd))
    )
    files = [handle for handle in (kernel, initrd) if handle >= 0]
    errors = os.memfd_create("disk-errors", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair()
    names = [str(handle) if handle >= 0 else _NO_FILE for handle in (kernel, initrd)]
    args = [*served.argv, str(folder / DISK_SOCKET_NAME), *names]
    try:
        process = spawn(args, files, errors, limits, theirs.fileno(), environment(*KEPT) | SPARING)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotKeep(f"the process that serves its disk could not be started: {error}; install it again") from error
    finally:
        theirs.close()
    share = open_share(process.pid) if limits.idle_class else -1
    ours.setblocking(False)
    sent = 0
    with contextlib.suppress(OSError):  # One that has ended already is seen later.
        sent = ours.send(served.opening)
    return Begun(process, ours, served.opening[sent:], errors, kernel, initrd, share)


def abandon(begun: Begun) -> None:
    """End it before it was of any use."""
    begun.process.kill()
    begun.process.wait()


def _memory_file(name: str, there: bool) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if there else -1


def seal(handle: int, seals: int) -> None:
    """Nobody writes to this memory file any more. Raises: OSError."""
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


MOST_SAID, SAID_CHARS = 40, 400
_SLOW = "its sources, or the network, are slow"


class NotServed(Exception):
    """The disk is not served; why. fault: whose."""

    fault = Fault.DESKTOP


class ServingLimits(msgspec.Struct, frozen=True):
    """How long it may take until it serves: in all, without a word, without any source; how often it is asked."""

    ready_seconds: float = 600.0
    silent_seconds: float = 60.0
    away_seconds: float = 60.0
    ask_seconds: float = 5.0


SERVING_LIMITS = ServingLimits()


class Serving(Child):
    """What serves one VM's disk."""

    def __init__(
        self,
        begun: Begun,
        tell: Callable[[str], None],
        patience: ServingLimits = SERVING_LIMITS,
        waits: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """Talk to it. tell: told each fault that it meets. waits: told why, each time it is found to wait for data."""
        super().__init__(begun.process, begun.errors, begun.share)
        self.begun = begun
        self.last_said = ""
        self._tell, self._waits, self._patience = tell, waits, patience
        self._waited = 0.0, 0.0
        self._count = 0
        self._paused = self._closed = False
        self._lines = Lines(LINE_BYTES)
        self._loop = asyncio.get_running_loop()
        self._ready = self._loop.create_future()
        self._heard_at = self._loop.time()
        self._away_since: float | None = None
        self._outgoing = bytearray(begun.unsent)
        begun.unsent = b""
        self._loop.add_reader(begun.link, self._read)
        self._send()

    def _read(self) -> bool:
        """Take what it has said. Returns: whether there was anything."""
        if self._closed:
            return False
        try:
            data = self.begun.link.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self.begun.link)
            return False
        self._heard_at = self._loop.time()
        for line in self._lines.feed(data):
            with contextlib.suppress(msgspec.MsgspecError, RecursionError):
                self._take(MESSAGES.decode(line))
        return True

    def _take(self, word: DiskMessage) -> None:
        if word.said:
            self._on_said(printable(word.said, SAID_CHARS))
        elif word.ready is not None and not self._ready.done():
            self._ready.set_result(None)
        elif isinstance(word.answer, dict):
            self._on_answer(word.answer)

    def _on_answer(self, answer: dict[str, object]) -> None:
        """How it goes: whether its sources are away, and how long it has waited for them in all."""
        away = str(answer.get("away") or "") if not self._paused else ""
        self._away_since = (self._away_since or self._heard_at) if away else None
        (at, waited), told = self._waited, answer.get("waited_seconds")
        self._waited = self._heard_at, float(told) if isinstance(told, int | float) else 0.0
        slow = at and not self._paused and self._waited[1] - waited > (self._heard_at - at) / 2
        if away or slow:
            self._waits(printable(away, SAID_CHARS) or _SLOW)

    def _on_said(self, sentence: str) -> None:
        self.last_said = sentence
        self._count += 1
        if self._count < MOST_SAID:
            self._tell(sentence)
        elif self._count == MOST_SAID:
            self._tell(f"{sentence}; what serves the disk says more, which is not told any more")

    def pause(self, paused: bool) -> None:
        """Let it fetch nothing, or go on."""
        if paused != self._paused:
            self._paused, self._away_since = paused, None
            self._command("pause" if paused else "resume")

    @property
    def ask_seconds(self) -> float:
        """How often to ask."""
        return self._patience.ask_seconds

    def ask(self) -> None:
        """Ask how it goes."""
        self._command("status")

    def _command(self, do: str) -> None:
        self._outgoing += encode(DiskCommand(do))
        self._send()

    def _send(self) -> None:
        if self._closed:
            return
        try:
            sent = self.begun.link.send(self._outgoing) if self._outgoing else 0
        except BlockingIOError:
            sent = 0
        except OSError:
            sent = len(self._outgoing)
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self.begun.link, self._send)
        else:
            self._loop.remove_writer(self.begun.link)

    async def ready(self) -> None:
        """Wait until it serves, and kernel and initrd are there and can't be changed any more. Raises: NotServed."""
        until = self._loop.time() + self._patience.ready_seconds
        waiting, seconds = {self._ready, self._exit}, self._patience.ask_seconds
        while not (await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED))[0]:
            if why := self._too_long(until):
                told = f": {self.last_said}" if self.last_said else ""
                raise NotServed(f"the process that serves its disk {why}{told}")
            self.ask()
        if self.ended:
            raise NotServed(self.how_it_ended())
        self.least()
        try:
            if self.begun.kernel >= 0:
                seal(self.begun.kernel, 0)  # Its memory is given back once QEMU has read it.
            if self.begun.initrd >= 0:
                seal(self.begun.initrd, fcntl.F_SEAL_SHRINK)
        except OSError as error:
            raise NotServed(f"memory files for kernel and initrd: {error.strerror}; update this system") from error

    def release_kernel(self) -> None:
        """Give back the kernel's memory: QEMU, whose CPUs run now, has put it into the guest's."""
        if self.begun.kernel >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(self.begun.kernel, 0)
            self.begun.close("kernel")

    def _too_long(self, until: float) -> str:
        now, patience = self._loop.time(), self._patience
        if self._away_since is not None and now > self._away_since + patience.away_seconds:
            return f"got nothing from its sources for {patience.away_seconds:.0f} s"
        if now > self._heard_at + patience.silent_seconds:
            return f"said nothing for {patience.silent_seconds:.0f} s"
        return f"did not begin to serve within {patience.ready_seconds:.0f} s" if now > until else ""

    def how_it_ended(self) -> str:
        """A sentence, once it has ended."""
        while self._read():
            pass
        code = int(self._exit.result())
        if code == 1 and self.last_said:
            return self.last_said
        return server_words(code, self.last_said or self.error_words())

    async def end(self) -> None:
        """End it and wait for that."""
        self.kill()
        await self.exit()
        self._loop.remove_reader(self.begun.link)
        self._loop.remove_writer(self.begun.link)
        self.begun.link.close()
        self._closed = True
