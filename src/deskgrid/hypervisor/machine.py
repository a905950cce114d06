"""One QEMU process and its monitor, as its keeper sees it.

The rules:
- Each accelerator is tried alone, in the order given; the first with which QEMU comes up is used.
- `pause` is done when no CPU runs: QEMU's own `stop`, and a SIGSTOP if that has not been confirmed in time.
- `kill` never waits for QEMU's consent.
- QEMU in the idle class gets a fair share of the CPU while it is to stop or to end: then it does that at once, also on
  a busy machine.

Source: QEMU's QMP reference (stop, cont, SHUTDOWN, BLOCK_IO_ERROR).
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess

import msgspec
from qemu.qmp import EventListener, QMPClient, QMPError

from deskgrid.hypervisor.cores import keep_on
from deskgrid.hypervisor.qemu_args import Handles, Machine, qemu_args
from deskgrid.hypervisor.reap import release_memory
from deskgrid.hypervisor.spawn import FAIR_SHARE, LEAST_SHARE, Limits, set_share, spawn, to_idle_class
from deskgrid.wire.guest import printable

STOP_SECONDS = 0.08
"""How long QEMU may take to confirm `stop` before it is stopped by a signal."""
GREETING_SECONDS = 20.0
SHARE_TRIES, SHARE_SECONDS = 10, 0.03
_ERROR_CHARS = 400
_IMAGE_WORDS = ("kernel", "initrd", "ramdisk")


class QemuFailed(Exception):
    """QEMU did not come up. fault: "desktop" or "image"."""

    def __init__(self, sentence: str, fault: str = "desktop") -> None:
        super().__init__(sentence)
        self.fault = fault


class Ports(msgspec.Struct, frozen=True):
    """Our ends of the guest's serial ports."""

    console: socket.socket
    channel: socket.socket


class Qemu:
    """One VM's process. Make it with `launch`."""

    def __init__(self, process: subprocess.Popen[bytes], accelerator: str, errors: int, ports: Ports) -> None:
        self.pid = process.pid
        self.accelerator = accelerator
        self.ports = ports
        self.events = EventListener(names={"SHUTDOWN", "BLOCK_IO_ERROR"})
        self.signalled = False
        self.idle_class = False
        self._share = FAIR_SHARE
        self._process = process
        self._errors = errors
        self._qmp = QMPClient()
        self._qmp.logger = logging.getLogger("deskgrid.qmp")
        self._qmp.register_listener(self.events)
        self._exit = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        if not self._exit.done():
            self._exit.set_result(code)

    async def greet(self, monitor: socket.socket) -> None:
        """Connect to the monitor. Raises: QemuFailed, when QEMU ends instead or says nothing."""
        greeting = asyncio.ensure_future(self._qmp.connect(monitor))
        await asyncio.wait({greeting, self._exit}, timeout=GREETING_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if greeting.done() and greeting.exception() is None:
            return
        self.kill()
        await self.exit()
        greeting.cancel()
        with contextlib.suppress(QMPError, OSError, EOFError, asyncio.CancelledError):
            await greeting
        words = self.error_words() or "it said nothing"
        raise QemuFailed(f"QEMU with {self.accelerator} did not come up: {words}", _whose(words))

    async def exit(self) -> int:
        """Wait until the process has ended and its memory is back; its exit code, or minus the signal."""
        return int(await asyncio.shield(self._exit))

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._exit.done()

    def go_on(self) -> asyncio.Task[bool]:
        """Let the CPUs run. Orders reach QEMU in the order of the calls. Returns: true when confirmed."""
        if self.signalled:
            self._signal(signal.SIGCONT)
            self.signalled = False
        self._set_share(LEAST_SHARE)
        return self._order("cont")

    def stop(self) -> asyncio.Task[bool]:
        """Ask QEMU to stop the CPUs. Returns: true when confirmed, false when not in time."""
        # On a busy machine it would not even hear us in the idle class.
        self._set_share(FAIR_SHARE)
        return self._order("stop", STOP_SECONDS)

    def _set_share(self, nice: int) -> None:
        if self.idle_class:
            self._share = nice
            self._try_share(nice, SHARE_TRIES)

    def _try_share(self, nice: int, tries: int) -> None:
        if tries and self._share == nice and not self._exit.done() and not set_share(self.pid, nice):
            asyncio.get_running_loop().call_later(SHARE_SECONDS, self._try_share, nice, tries - 1)

    def _order(self, command: str, seconds: float | None = None) -> asyncio.Task[bool]:
        answer = asyncio.ensure_future(self._qmp.execute(command))
        return asyncio.ensure_future(_confirmed(answer, seconds))

    def freeze(self) -> None:
        """Stop the whole process by a signal."""
        self.signalled = True
        self._signal(signal.SIGSTOP)

    def keep_on(self, cores: frozenset[int], to_idle: bool) -> None:
        """Run on these cores only, whatever threads it has by now. to_idle: in the idle class from now on."""
        if not self._exit.done():
            keep_on(self.pid, cores)
            if to_idle:
                to_idle_class(self.pid)

    def kill(self) -> None:
        """End it now; its memory is back when this returns, `exit` says when it has ended."""
        self._set_share(FAIR_SHARE)
        self._signal(signal.SIGKILL)
        if not self._exit.done():
            release_memory(self.pid)

    def _signal(self, number: signal.Signals) -> None:
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def error_words(self) -> str:
        """The end of what QEMU wrote to stderr, in one line."""
        size = os.fstat(self._errors).st_size
        text = os.pread(self._errors, 4096, max(0, size - 4096)).decode(errors="replace")
        return printable(text.removeprefix("qemu-system-x86_64: "), 4 * _ERROR_CHARS)[-_ERROR_CHARS:]


async def _confirmed(answer: asyncio.Future[object], seconds: float | None) -> bool:
    await asyncio.wait({answer}, timeout=seconds)
    if not answer.done():
        answer.add_done_callback(lambda late: late.cancelled() or late.exception())
        return False
    return answer.exception() is None


def _whose(words: str) -> str:
    lower = words.lower()
    return "image" if any(word in lower for word in _IMAGE_WORDS) else "desktop"


async def launch(
    qemu: str, machine: Machine, accelerators: tuple[str, ...], overlay: int, passphrase: bytes, limits: Limits
) -> Qemu:
    """Start QEMU with the first accelerator that works; its CPUs wait for `go_on`.

    Raises:
        QemuFailed: with none of them.
    """
    failures: list[QemuFailed] = []
    attempts = [(name, machine) for name in accelerators]
    while attempts:
        accelerator, shape = attempts.pop(0)
        try:
            return await _try(qemu, shape, accelerator, overlay, passphrase, limits)
        except QemuFailed as failure:
            if shape.sandbox and ("sandbox" in str(failure) or "seccomp" in str(failure)):
                # This QEMU was built without it.
                attempts.insert(0, (accelerator, msgspec.structs.replace(shape, sandbox=False)))
            failures.append(failure)
    raise failures[-1] if failures else QemuFailed("no accelerator is left to try; update QEMU")


async def _try(qemu: str, machine: Machine, accelerator: str, overlay: int, passphrase: bytes, limits: Limits) -> Qemu:
    pairs = [socket.socketpair() for _ in range(3)]
    (monitor, its_monitor), (console, its_console), (channel, its_channel) = pairs
    errors = os.memfd_create("qemu-errors", os.MFD_CLOEXEC)
    reader, writer = os.pipe()
    os.write(writer, passphrase)
    os.close(writer)
    handles = Handles(its_monitor.fileno(), its_console.fileno(), its_channel.fileno(), overlay, reader)
    args = qemu_args(qemu, machine, accelerator, handles)
    inherited = [handles.qmp, handles.console, handles.channel, handles.overlay, handles.passphrase]
    try:
        process = spawn(args, inherited, errors, limits)
    except (OSError, subprocess.SubprocessError) as error:
        raise QemuFailed(f"QEMU could not be started: {error}; install it again (see `deskgrid doctor`)") from error
    finally:
        os.close(reader)
        for _, theirs in pairs:
            theirs.close()
    running = Qemu(process, accelerator, errors, Ports(console, channel))
    running.idle_class = limits.idle_class
    try:
        await running.greet(monitor)
    except asyncio.CancelledError:
        running.kill()
        process.wait()
        raise
    return running
