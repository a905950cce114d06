"""One QEMU process and its monitor, as its keeper sees it.

Rules:
- Each accelerator is tried alone, in the order given; the first with which QEMU comes up is used.
- `pause` is done when no CPU runs: QEMU's own `stop`, and a SIGSTOP if that has not been confirmed in time.
- `kill` never waits for QEMU's consent.

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

from deskgrid.hypervisor.confine.child import Child
from deskgrid.hypervisor.confine.spawn import ProcessLimits, open_share, spawn
from deskgrid.hypervisor.machine.arguments import Handles, VmHardware, qemu_args
from deskgrid.model.desktop import Fault

STOP_SECONDS = 0.08
"""How long QEMU may take to confirm `stop` before it is stopped by a signal."""
GREETING_SECONDS = 20.0
_IMAGE_WORDS = ("kernel", "initrd", "ramdisk")


class QemuFailed(Exception):
    """QEMU did not come up. fault: whose."""

    def __init__(self, sentence: str, fault: Fault = Fault.DESKTOP) -> None:
        super().__init__(sentence)
        self.fault = fault


class SerialPorts(msgspec.Struct, frozen=True):
    """Our ends of the guest's serial ports."""

    console: socket.socket
    channel: socket.socket


class Inherited(msgspec.Struct, frozen=True):
    """What QEMU gets of its keeper, by number. passphrase: of the overlay. kernel, initrd: memory files; -1: none."""

    overlay: int
    passphrase: bytes
    kernel: int = -1
    initrd: int = -1


class Qemu(Child):
    """One VM's process. Make it with `launch`."""

    def __init__(
        self, process: subprocess.Popen[bytes], accelerator: str, errors: int, ports: SerialPorts, share: int
    ) -> None:
        super().__init__(process, errors, share)
        self.accelerator = accelerator
        self.ports = ports
        self.events = EventListener(names={"SHUTDOWN", "BLOCK_IO_ERROR"})
        self.signalled = False
        self._qmp = QMPClient()
        self._qmp.logger = logging.getLogger("deskgrid.qmp")
        self._qmp.register_listener(self.events)

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

    def go_on(self) -> asyncio.Task[bool]:
        """Let the CPUs run. Orders reach QEMU in the order of the calls. Returns: true when confirmed."""
        if self.signalled:
            self.signal(signal.SIGCONT)
            self.signalled = False
        self.least()
        return self._order("cont")

    def stop(self) -> asyncio.Task[bool]:
        """Ask QEMU to stop the CPUs. Returns: true when confirmed, false when not in time."""
        # On a busy machine it would not even hear us in the idle class.
        self.fair()
        return self._order("stop", STOP_SECONDS)

    def _order(self, command: str, seconds: float | None = None) -> asyncio.Task[bool]:
        answer = asyncio.ensure_future(self._qmp.execute(command))
        return asyncio.ensure_future(_confirmed(answer, seconds))

    def freeze(self) -> None:
        """Stop the whole process by a signal."""
        self.signalled = True
        self.signal(signal.SIGSTOP)


async def _confirmed(answer: asyncio.Future[object], seconds: float | None) -> bool:
    await asyncio.wait({answer}, timeout=seconds)
    if not answer.done():
        answer.add_done_callback(lambda late: late.cancelled() or late.exception())
        return False
    return answer.exception() is None


def _whose(words: str) -> Fault:
    lower = words.lower()
    return Fault.IMAGE if any(word in lower for word in _IMAGE_WORDS) else Fault.DESKTOP


async def launch(
    qemu: str, machine: VmHardware, accelerators: tuple[str, ...], given: Inherited, limits: ProcessLimits
) -> Qemu:
    """Start QEMU with the first accelerator that works; its CPUs wait for `go_on`.

    Raises:
        QemuFailed: with none of them.
    """
    failures: list[QemuFailed] = []
    for accelerator in accelerators:
        try:
            return await _try(qemu, machine, accelerator, given, limits)
        except QemuFailed as failure:
            failures.append(failure)
    raise failures[-1] if failures else QemuFailed("no accelerator is left to try; update QEMU")


async def _try(qemu: str, machine: VmHardware, accelerator: str, given: Inherited, limits: ProcessLimits) -> Qemu:
    pairs = [socket.socketpair() for _ in range(3)]
    (monitor, its_monitor), (console, its_console), (channel, its_channel) = pairs
    errors = os.memfd_create("qemu-errors", os.MFD_CLOEXEC)
    reader, writer = os.pipe()
    os.write(writer, given.passphrase)
    os.close(writer)
    handles = Handles(
        *(its_monitor.fileno(), its_console.fileno(), its_channel.fileno()),
        *(given.overlay, reader, given.kernel, given.initrd),
    )
    args = qemu_args(qemu, machine, accelerator, handles)
    try:
        process = spawn(args, [number for number in msgspec.structs.astuple(handles) if number >= 0], errors, limits)
    except (OSError, subprocess.SubprocessError) as error:
        raise QemuFailed(f"QEMU could not be started: {error}; install it again (see `deskgrid doctor`)") from error
    finally:
        os.close(reader)
        for _, theirs in pairs:
            theirs.close()
    share = open_share(process.pid) if limits.idle_class else -1
    running = Qemu(process, accelerator, errors, SerialPorts(console, channel), share)
    try:
        await running.greet(monitor)
    except asyncio.CancelledError:
        running.kill()
        process.wait()
        raise
    return running
