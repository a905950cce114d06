"""The life of one VM in its keeper: one loop, one writer of its state.

Rules:
- Orders are obeyed in the order in which they come; none waits for the one before.
- Each event comes once, in order: Started, Alive, Joined, GuestLeft; then `Exited`.
- The driver's silence is measured by this process's own clock; what is already in the socket counts as heard.
- The first cause of the end counts.
- The VM's CPUs run if the driver wants that and its limit of cores is not 0; a VM that leaves runs confined anyway.
- The cores that QEMU's threads may use are set again now and then: others may have changed them.
"""

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Coroutine
from datetime import UTC, datetime

import msgspec

from deskgrid.core.commands import Kill, Pause, Renew, Resume, Vacate
from deskgrid.core.events import Gone, Paused, Started, StartFailed, Waiting
from deskgrid.hypervisor.confine.cgroup import group_of
from deskgrid.hypervisor.confine.cores import here
from deskgrid.hypervisor.confine.spawn import ProcessLimits
from deskgrid.hypervisor.keeper.disk import Begun, NotServed, Serving
from deskgrid.hypervisor.keeper.endings import End, disk_words, exit_words
from deskgrid.hypervisor.keeper.guest import Guest
from deskgrid.hypervisor.keeper.link import DriverLink
from deskgrid.hypervisor.keeper.place import VmFolder
from deskgrid.hypervisor.machine.arguments import VmHardware
from deskgrid.hypervisor.machine.qemu import Inherited, Qemu, QemuFailed, launch
from deskgrid.wire.keeper import (
    END_SECONDS,
    LEAVE_SECONDS,
    SILENCE_SECONDS_MAX,
    Handover,
    Heartbeat,
    Limit,
    Observed,
    Task,
    ToKeeper,
    Told,
    Warned,
)


def live(
    task: Task, machine: VmHardware, place: VmFolder, disk: Begun | None, driver: socket.socket, already: bytes
) -> None:
    """Run the VM to its end, then end this process.

    Args:
        disk: what serves its disk, if anything does. already: what the driver has said after the task.
    """

    async def whole_life() -> None:
        life = Life(task, machine, place, disk)
        life.link.attach(driver, already)
        await life.run()

    asyncio.run(whole_life())
    os._exit(0)


KEEP_CORES_SECONDS = 5.0
ENDING_SECONDS = 1.0
"""How long what serves the disk may take to be seen as ended, after QEMU has seen its socket closed."""


class Life:
    """What the keeper knows of its VM, and what it does about it."""

    def __init__(self, task: Task, machine: VmHardware, place: VmFolder, disk: Begun | None) -> None:
        self._task = task
        self._machine = machine
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._end_at = self._loop.time() + END_SECONDS
        self._asked_in_silence = False
        self._started_at = datetime.now(UTC)
        self._end: End | None = None
        self._ending = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._qemu: Qemu | None = None
        self._shutdown_reason = ""
        self._paused = self._confined = False
        self._cpus = task.cpus
        self._started = False
        self.link = DriverLink(place.listener, self._observed, self._obey)
        self._guest = Guest(task.spec.instance, self.link, self._finish)
        self._disk = None if disk is None else Serving(disk, self._on_disk_said, waits=self._on_disk_waits)
        self._pace_disk()

    # -- orders -----------------------------------------------------------------------------------------------

    def _obey(self, order: ToKeeper) -> None:
        match order:
            case Heartbeat():
                self._end_at = self._loop.time() + END_SECONDS
                self._asked_in_silence = False
            case Handover(seconds):
                self._end_at = self._loop.time() + min(max(seconds, 0.0), SILENCE_SECONDS_MAX)
            case Pause():
                self._pause()
            case Resume():
                self._confined = self._paused = False
                self._obey_limit()
            case Vacate():
                self._vacate()
            case Renew(token):
                self._guest.renew(token)
            case Limit(cpus) if cpus != self._cpus:
                self._cpus = cpus
                self._obey_limit()
            case Kill():
                self._finish(End("it was ended as ordered", clean=True))

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def _may_run(self) -> bool:
        return not self._paused and (self._confined or self._cpus != 0)

    def _pause(self) -> None:
        self._paused = True
        self._stop()

    def _stop(self) -> None:
        self._pace_disk()
        if self._qemu is not None:
            self._do(self._confirm_stop(self._qemu, self._qemu.stop(), time.monotonic()))

    async def _confirm_stop(self, qemu: Qemu, stopped: Awaitable[bool], begun: float) -> None:
        confirmed = await stopped
        if not self._may_run and not confirmed:
            qemu.freeze()
        if not self._may_run or confirmed:  # it stood still, even if it is leaving by now
            self.link.tell(Told(0, Paused((time.monotonic() - begun) * 1000)))
            self.link.observed()

    def _pace_disk(self) -> None:
        """Nothing is fetched for a VM that stands still: the network is its owner's then."""
        if self._disk is not None:
            self._disk.pause(not self._may_run)

    def _obey_limit(self) -> None:
        """Run or stand still, as wish and limit say now."""
        if self._may_run:
            self._go_on()
        elif not self._paused:
            self._stop()

    def _cores(self) -> frozenset[int]:
        return here(1 if self._confined else self._cpus)

    def _keep_cores(self) -> None:
        for child in (self._qemu, self._disk):
            if child is not None:
                child.keep_on(self._cores(), to_idle=self._confined)
        self._loop.call_later(KEEP_CORES_SECONDS, self._keep_cores)

    def _go_on(self) -> None:
        """Let the CPUs run, on one core if the guest is to leave."""
        self._pace_disk()
        if self._qemu is None:
            return
        for child in (self._qemu, self._disk):
            if child is not None:
                child.keep_on(self._cores(), to_idle=self._confined)
        self._do(self._confirm_go_on(self._qemu, self._qemu.go_on()))

    async def _confirm_go_on(self, qemu: Qemu, running: Awaitable[bool]) -> None:
        await running
        if self._disk is not None:
            self._disk.release_kernel()
        if not self._started and not qemu.ended:
            self._started = True
            self.link.happened(Started(qemu.accelerator))
        if self._may_run:
            self.link.observed()

    def _vacate(self) -> None:
        self._confined, self._paused = True, False
        self._go_on()
        self._guest.leave()

    # -- its disk -----------------------------------------------------------------------------------------------

    def _on_disk_said(self, sentence: str) -> None:
        self.link.tell(Warned(sentence))

    def _on_disk_waits(self, sentence: str) -> None:
        if not self._guest.alive:
            self.link.tell(Told(0, Waiting(sentence)))

    async def _ask_disk(self, disk: Serving) -> None:
        """While the guest is not up, whether that is for lack of data: its agent gives it more time then."""
        while not self._guest.alive and not disk.ended:
            disk.ask()
            await asyncio.sleep(disk.ask_seconds)

    async def _end_with_disk(self, disk: Serving) -> None:
        await disk.exit()
        self._finish(End(f"{disk.how_it_ended()}; its jobs run again elsewhere"))

    async def _on_disk_error(self, error: dict[str, object]) -> None:
        """A guest's read or write has failed; if what serves the disk is ending, that is the cause."""
        if self._disk is not None and not error.get("nospace"):
            await asyncio.wait({self._loop.create_task(self._disk.exit())}, timeout=ENDING_SECONDS)
            if self._disk.ended:
                return
        self._finish(End(disk_words(error, self._place.folder, self._machine)))

    # -- its end ------------------------------------------------------------------------------------------------

    def _finish(self, end: End) -> None:
        if self._end is None:
            self._end = end
            self._ending.set()

    def _watch_silence(self) -> None:
        if self._loop.time() >= self._end_at - 1.0:
            self.link.read()
        now = self._loop.time()
        if now >= self._end_at:
            self._finish(End("its agent was silent for too long, so its keeper ended it"))
            return
        ask_at = self._end_at - (END_SECONDS - LEAVE_SECONDS)
        if now >= ask_at and not self._asked_in_silence:
            self._asked_in_silence = True
            if self._guest.joined and not self._paused and not self._guest.left:
                self._vacate()
        self._loop.call_at(self._end_at if now >= ask_at else ask_at, self._watch_silence)

    async def _listen_to_qemu(self, qemu: Qemu) -> None:
        async for event in qemu.events:
            data = msgspec.convert(event["data"], dict[str, object])
            if event["event"] == "SHUTDOWN":
                self._shutdown_reason = str(data.get("reason", ""))
            elif data.get("action") == "stop":
                await self._on_disk_error(data)

    async def run(self) -> None:
        """Start QEMU, wait for the VM's end, leave nothing."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._finish, End("its keeper was told to end"))
        self._watch_silence()
        self._keep_cores()
        over = await self._run_qemu()
        if self._disk is not None:
            await self._disk.end()
        os.close(self._place.overlay)
        if not self.link.attached:
            self.link.over(over)
            await asyncio.wait({self._loop.create_task(self.link.told.wait())}, timeout=self._left_seconds())
            shutil.rmtree(self._place.folder, ignore_errors=True)
            return
        shutil.rmtree(self._place.folder, ignore_errors=True)
        self.link.over(over)

    def _left_seconds(self) -> float:
        return max(0.0, self._end_at - self._loop.time())

    async def _run_qemu(self) -> Gone | StartFailed:
        ending = self._loop.create_task(self._ending.wait())
        starting = self._loop.create_task(self._launch())
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        try:
            qemu = await starting
        except asyncio.CancelledError:
            return self._over("QEMU was still starting")
        except (QemuFailed, NotServed) as failure:
            return StartFailed(failure.fault, str(failure))
        self._qemu = qemu
        self._guest.listen(qemu.ports)
        self._do(self._listen_to_qemu(qemu))
        if self._disk is not None:
            self._do(self._end_with_disk(self._disk))
            self._do(self._ask_disk(self._disk))
        self.link.observed()
        if self._may_run:
            self._go_on()
        exited = self._loop.create_task(qemu.exit())
        await asyncio.wait({exited, ending}, return_when=asyncio.FIRST_COMPLETED)
        qemu.kill()
        code = await exited
        self._guest.drain()
        await asyncio.sleep(0)
        return self._over(exit_words(code, self._shutdown_reason, self._guest.left, qemu.error_words()))

    async def _launch(self) -> Qemu:
        task, disk = self._task, self._disk
        given = Inherited(self._place.overlay, self._place.passphrase)
        if disk is not None:
            await disk.ready()
            given = msgspec.structs.replace(given, kernel=disk.begun.kernel, initrd=disk.begun.initrd)
        limits = ProcessLimits(self._cores(), task.idle_class, task.group)
        try:
            qemu = await launch(task.qemu, self._machine, task.accelerators, given, limits)
        except QemuFailed:
            if disk is not None and disk.ended:
                raise NotServed(disk.how_it_ended()) from None
            raise
        if disk is not None:
            disk.begun.close("initrd")
        return qemu

    def _over(self, what_qemu_did: str) -> Gone:
        # Without a cause of ours QEMU ended by itself; after the guest has left that is as it should be.
        left = self._guest.left
        end = self._end or End(what_qemu_did, clean=left, with_console=not left)
        sentence = end.sentence
        if end.with_console and (said := self._guest.last_words()):
            sentence += f"; its console's last words: {said}"
        return Gone(end.clean, sentence)

    def _observed(self) -> Observed:
        spec = self._task.spec
        return Observed(
            vm_id=spec.vm_id,
            image=spec.image.ref,
            size=spec.size,
            desktop=spec.instance.desktop,
            started_at=self._started_at,
            accelerator=self._qemu.accelerator if self._qemu is not None else "",
            paused=not self._may_run,
            alive=self._guest.alive,
            qemu_pid=self._qemu.pid if self._qemu is not None else 0,
            group=group_of(self._qemu.pid) if self._qemu is not None else "",
            disk_pid=self._disk.pid if self._disk is not None else 0,
        )
