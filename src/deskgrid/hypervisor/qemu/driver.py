"""The QEMU driver, as the agent uses it: a keeper process for each VM (`keeper`), a thread for each keeper.

Rules:
- Commands only send a line to a keeper; what comes of them comes back as events, from the VM's thread.
- What runs is observed: from the folders, the keepers' locks on them, and what the keepers say.
- `Gone` and `StartFailed` are said only when the keeper has ended too and the folder is deleted. One of them is a VM's
  last event; a VM id that has ended here is not started again.
- If a keeper doesn't end its VM in time, it is killed, and the kernel ends its QEMU.

Only the standard library and msgspec: the agent is small, and the asyncio that QMP needs lives in the keepers.
"""

import contextlib
import logging
import shutil
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from deskgrid.core.commands import Kill, ToVm
from deskgrid.core.events import Gone, Happened, StartFailed
from deskgrid.hypervisor.confine.cgroup import made_here
from deskgrid.hypervisor.confine.spawn import cpu_seconds_of
from deskgrid.hypervisor.contract import Emit
from deskgrid.hypervisor.keeper.place import folders, has_keeper, sweep
from deskgrid.hypervisor.machine.accelerators import NoHypervisor, Program, Trust, find_qemu, offered
from deskgrid.hypervisor.qemu.handle import KeeperHandle
from deskgrid.model.desktop import Fault
from deskgrid.wire.keeper import (
    Exited,
    FromKeeper,
    Handover,
    Heard,
    Heartbeat,
    Limit,
    Observed,
    Replaced,
    Task,
    Told,
    VmSpec,
    Warned,
)

log = logging.getLogger("deskgrid.hypervisor")
KILL_SECONDS = 0.7
"""How long a keeper may take to end its VM before it is killed with it."""
_ATTACH_SECONDS = 1.0
_ENDED_KEPT = 1000


class QemuHypervisor:
    """Runs VMs with QEMU; see `contract.Hypervisor` for what each method promises."""

    name = "qemu"

    def __init__(
        self,
        state_dir: Path,
        emit: Emit,
        *,
        qemu: str = "qemu-system-x86_64",
        accelerators: tuple[str, ...] | None = None,
        idle_class: bool = True,
    ) -> None:
        """Sweep what dead keepers left behind; start nothing.

        Args:
            state_dir: a folder of ours; `vms/` and `accelerators.json` go there.
            emit: takes the events, from any thread.
            qemu: QEMU's name or path.
            accelerators: try only these; else what the system offers.
            idle_class: run QEMU only when nobody else wants CPU and disk.
        """
        self._home = state_dir / "vms"
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._emit = emit
        self._qemu = qemu
        self._candidates = accelerators
        self._idle_class = idle_class
        self._group = made_here() if idle_class else None
        self._cpus: int | None = None
        self._trust = Trust(state_dir / "accelerators.json")
        self._program: Program | None = None
        self._lock = threading.Lock()
        self._vms: dict[str, KeeperHandle] = {}
        self._asked: dict[str, Observed] = {}
        self._ended: dict[str, None] = {}
        for folder in folders(self._home):
            sweep(folder)

    # -- commands ---------------------------------------------------------------------------------------------

    def start(self, spec: VmSpec) -> None:
        """Start a VM. Events: Started, then Alive, Joined; or StartFailed."""
        folder = self._home / spec.vm_id
        with self._lock:
            if spec.vm_id in self._vms or spec.vm_id in self._ended or has_keeper(folder):
                return
            ours, theirs = socket.socketpair()
            vm = KeeperHandle(spec.vm_id, folder, ours)
            self._vms[spec.vm_id], self._asked[spec.vm_id] = vm, _asked(spec)
        self._thread(vm, partial(self._begin, vm, [spec], theirs))

    def order(self, vm_id: str, command: ToVm) -> None:
        """Pass a command on to a VM."""
        vm = self._vms.get(vm_id)
        if vm is None:
            return
        vm.send(command)
        if isinstance(command, Kill):
            vm.kill_ordered = True
            timer = threading.Timer(KILL_SECONDS, self._force, (vm,))
            timer.daemon = True
            timer.start()

    def _force(self, vm: KeeperHandle) -> None:
        if self._vms.get(vm.vm_id) is vm and vm.last is None:
            vm.end_keeper()

    def limit(self, cpus: int) -> None:
        """All VMs together run on at most so many cores from now on."""
        self._cpus = cpus
        for vm in list(self._vms.values()):
            vm.send(Limit(cpus))

    def proven(self) -> frozenset[str]:
        """The accelerators on which a guest has lived with this QEMU on this system."""
        try:
            return self._trust.proven(self._found().version)
        except NoHypervisor:
            return frozenset()

    def prove(self, accelerator: str) -> None:
        """A guest has lived on it."""
        with contextlib.suppress(NoHypervisor, OSError):
            self._trust.prove(accelerator, self._found().version)

    def distrust(self, accelerator: str) -> None:
        """Do not use it again with this QEMU on this system."""
        with contextlib.suppress(NoHypervisor, OSError):
            self._trust.distrust(accelerator, self._found().version)

    def heartbeat(self) -> None:
        """Tell all VMs that the agent is alive."""
        for vm in list(self._vms.values()):
            vm.send(Heartbeat())

    def hand_over(self, seconds: float) -> None:
        """The agent is about to be replaced: VMs wait `seconds` for the next one, at most 60 s. Then call `close`."""
        for vm in list(self._vms.values()):
            vm.send(Handover(seconds))

    def close(self) -> None:
        """Let go of all VMs without ending them."""
        with self._lock:
            vms, self._vms = list(self._vms.values()), {}
        for vm in vms:
            vm.close()

    # -- what runs --------------------------------------------------------------------------------------------

    def cpu_seconds(self) -> dict[str, float]:
        """What each QEMU, and what serves its disk, has used since its start (proc_pid_stat(5))."""
        used = {}
        for vm in list(self._vms.values()):
            seen = vm.observed
            if seen is not None and seen.qemu_pid and (seconds := cpu_seconds_of(seen.qemu_pid)):
                used[vm.vm_id] = seconds + (cpu_seconds_of(seen.disk_pid) if seen.disk_pid else 0.0)
        return used

    def observe(self) -> list[Observed]:
        """The VMs that run now; attaches to them. Sweeps folders whose keeper has died."""
        for folder in folders(self._home):
            if folder.name not in self._vms and not sweep(folder):
                self._attach(folder)
        living = [vm for vm in list(self._vms.values()) if vm.last is None]
        seen = (vm.observed or self._asked.get(vm.vm_id) for vm in living)  # a new keeper has said nothing yet
        return [one for one in seen if one is not None]

    def _attach(self, folder: Path) -> None:
        """Attach to the keeper of this folder; one that is just ending is left to itself."""
        end = time.monotonic() + _ATTACH_SECONDS
        while has_keeper(folder) and time.monotonic() < end:
            try:
                vm = KeeperHandle.connect(folder)
            except OSError:
                time.sleep(0.02)
                continue
            first = next(vm.messages(_ATTACH_SECONDS), None)
            if not isinstance(first, Observed | Exited | Told):
                vm.forget()
                continue
            self._take(vm, first)
            vm.send(Heartbeat())
            if self._cpus is not None:
                vm.send(Limit(self._cpus))
            with self._lock:
                self._vms[vm.vm_id] = vm
            self._thread(vm, partial(self._listen, vm))
            return

    # -- one VM's thread --------------------------------------------------------------------------------------

    def _thread(self, vm: KeeperHandle, life: Callable[[], None]) -> None:
        threading.Thread(target=life, name=f"vm-{vm.vm_id}", daemon=True).start()

    def _begin(self, vm: KeeperHandle, specs: list[VmSpec], theirs: socket.socket) -> None:
        """Start a keeper for the spec in the list, with whose secrets nothing is left here then."""
        try:
            program = self._found()
            candidates = self._candidates if self._candidates is not None else offered()
            task = Task(
                spec=specs.pop(),
                folder=vm.folder,
                qemu=str(program.path),
                accelerators=self._trust.trusted(program.version, candidates),
                idle_class=self._idle_class,
                cpus=self._cpus,
                group=self._group,
            )
            vm.spawn(task, theirs)
            del task
        except (NoHypervisor, OSError) as error:
            self._last(vm, StartFailed(Fault.DESKTOP, str(error)))
            return
        finally:
            theirs.close()
        self._listen(vm)

    def _found(self) -> Program:
        """QEMU, looked for once; a missing one is looked for again."""
        if self._program is None:
            self._program = find_qemu(self._qemu)
        return self._program

    def _listen(self, vm: KeeperHandle) -> None:
        for message in vm.messages():
            self._take(vm, message)
        if vm.let_go:
            vm.forget()
            return
        vm.wait_all_gone()
        shutil.rmtree(vm.folder, ignore_errors=True)
        self._last(vm, _last_event(vm))

    def _take(self, vm: KeeperHandle, message: FromKeeper) -> None:
        match message:
            case Observed():
                vm.observed = message
            case Told(number, event):
                vm.note(event)
                self._emit(Happened(vm.vm_id, event))
                if number:
                    vm.send(Heard(number))
            case Warned(sentence):
                log.warning("VM %s: %s", vm.vm_id, sentence)
            case Replaced():
                vm.let_go = True
                with self._lock:
                    self._vms.pop(vm.vm_id, None)
            case Exited(event):
                vm.last = event

    def _last(self, vm: KeeperHandle, event: Gone | StartFailed) -> None:
        with self._lock:
            self._vms.pop(vm.vm_id, None)
            self._asked.pop(vm.vm_id, None)
            self._ended[vm.vm_id] = None
            while len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        vm.forget()
        self._emit(Happened(vm.vm_id, event))


def _asked(spec: VmSpec) -> Observed:
    """What is known of a VM before its keeper has said anything."""
    return Observed(spec.vm_id, spec.image.ref, spec.size, spec.instance.desktop, datetime.now(UTC))


def _last_event(vm: KeeperHandle) -> Gone | StartFailed:
    if vm.last is not None:
        return vm.last
    if vm.kill_ordered:
        return Gone(True, "it was ended as ordered, by force: its keeper did not answer in time")
    if vm.started:
        return Gone(False, vm.how_it_ended())
    return StartFailed(Fault.DESKTOP, vm.how_it_ended())
