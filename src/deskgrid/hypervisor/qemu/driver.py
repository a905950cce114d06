"""The QEMU driver, as the agent uses it: a keeper process for each VM (`keeper`), a thread for each keeper.

The rules:
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

from deskgrid.hypervisor.confine.cgroup import made_here
from deskgrid.hypervisor.confine.spawn import cpu_seconds_of
from deskgrid.hypervisor.contract import Emit, Event, Gone, Observed, Paused, StartFailed, VmSpec, Waiting
from deskgrid.hypervisor.keeper import messages as words
from deskgrid.hypervisor.keeper.place import folders, has_keeper, sweep
from deskgrid.hypervisor.machine.accelerators import NoHypervisor, Program, Trust, find_qemu, offered
from deskgrid.hypervisor.qemu.handle import KeeperHandle

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

    def pause(self, vm_id: str) -> None:
        """Stop its CPUs; memory is kept. Event: Paused."""
        self._send(vm_id, words.Pause())

    def resume(self, vm_id: str) -> None:
        """Let its CPUs go on."""
        self._send(vm_id, words.Resume())

    def vacate(self, vm_id: str) -> None:
        """Let it run confined while the guest ends its jobs fast."""
        self._send(vm_id, words.Vacate())

    def renew(self, vm_id: str, token: str) -> None:
        """Give its guest a token that is valid for longer."""
        self._send(vm_id, words.Renew(token))

    def kill(self, vm_id: str) -> None:
        """End it now."""
        vm = self._vms.get(vm_id)
        if vm is not None:
            vm.kill_ordered = True
            vm.send(words.Kill())
            timer = threading.Timer(KILL_SECONDS, self._force, (vm,))
            timer.daemon = True
            timer.start()

    def _force(self, vm: KeeperHandle) -> None:
        if self._vms.get(vm.vm_id) is vm and vm.over is None:
            vm.end_keeper()

    def limit(self, cpus: int) -> None:
        """All VMs together run on at most so many cores from now on."""
        self._cpus = cpus
        for vm in list(self._vms.values()):
            vm.send(words.Limit(cpus))

    def distrust(self, accelerator: str) -> None:
        """Do not use it again with this QEMU on this system."""
        with contextlib.suppress(NoHypervisor, OSError):
            self._trust.distrust(accelerator, self._found().version)

    def tend(self) -> None:
        """Tell all VMs that the agent is alive."""
        for vm in list(self._vms.values()):
            vm.send(words.Tend())

    def hand_over(self, seconds: float) -> None:
        """The agent is about to be replaced: VMs wait so long for the next one, at most 60 s. Then call `close`."""
        for vm in list(self._vms.values()):
            vm.send(words.Silence(seconds))

    def _send(self, vm_id: str, order: words.Order) -> None:
        vm = self._vms.get(vm_id)
        if vm is not None:
            vm.send(order)

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
            if vm.status is not None and vm.status.qemu_pid and (seconds := cpu_seconds_of(vm.status.qemu_pid)):
                used[vm.vm_id] = seconds + (cpu_seconds_of(vm.status.disk_pid) if vm.status.disk_pid else 0.0)
        return used

    def observe(self) -> list[Observed]:
        """The VMs that run now; attaches to them. Sweeps folders whose keeper has died."""
        for folder in folders(self._home):
            if folder.name not in self._vms and not sweep(folder):
                self._attach(folder)
        seen = (self._observed(vm) for vm in list(self._vms.values()) if vm.over is None)
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
            first = next(vm.words(_ATTACH_SECONDS), None)
            if isinstance(first, words.Status):
                vm.status = first
            elif isinstance(first, words.Over | words.Happened):
                self._take(vm, first)
            else:
                vm.forget()
                continue
            vm.send(words.Tend())
            if self._cpus is not None:
                vm.send(words.Limit(self._cpus))
            with self._lock:
                self._vms[vm.vm_id] = vm
            self._thread(vm, partial(self._listen, vm))
            return

    def _observed(self, vm: KeeperHandle) -> Observed | None:
        status = vm.status
        if status is None:  # then it was started here, or it has just ended
            return self._asked.get(vm.vm_id)
        return Observed(
            vm_id=vm.vm_id,
            image=status.image,
            size=status.size,
            desktop=status.desktop,
            started_at=status.started_at,
            accelerator=status.accelerator,
            paused=status.paused,
            alive=status.alive,
            group=status.group,
        )

    # -- one VM's thread --------------------------------------------------------------------------------------

    def _thread(self, vm: KeeperHandle, life: Callable[[], None]) -> None:
        threading.Thread(target=life, name=f"vm-{vm.vm_id}", daemon=True).start()

    def _begin(self, vm: KeeperHandle, specs: list[VmSpec], theirs: socket.socket) -> None:
        """Start a keeper for the spec in the list, with whose secrets nothing is left here then."""
        try:
            program = self._found()
            candidates = self._candidates if self._candidates is not None else offered()
            task = words.Task(
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
            self._last(vm, StartFailed(vm.vm_id, "desktop", str(error)))
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
        for word in vm.words():
            self._take(vm, word)
        if vm.let_go:
            vm.forget()
            return
        vm.wait_all_gone()
        shutil.rmtree(vm.folder, ignore_errors=True)
        self._last(vm, _last_event(vm))

    def _take(self, vm: KeeperHandle, word: words.Word) -> None:
        match word:
            case words.Status():
                vm.status = word
            case words.Happened():
                vm.note(word)
                self._learn(vm, word)
                event = words.event_of(vm.vm_id, word)
                if event is not None:
                    self._emit(event)
                vm.send(words.Heard(word.number))
            case words.Paused(on, _, milliseconds):
                if on:
                    self._emit(Paused(vm.vm_id, milliseconds))
                vm.note(word)
            case words.Said(sentence):
                log.warning("VM %s: %s", vm.vm_id, sentence)
            case words.Waits(sentence):
                self._emit(Waiting(vm.vm_id, sentence))
            case words.Replaced():
                vm.let_go = True
                with self._lock:
                    self._vms.pop(vm.vm_id, None)
            case words.Over():
                vm.over = word

    def _learn(self, vm: KeeperHandle, word: words.Happened) -> None:
        """A guest that lives proves its accelerator."""
        if word.kind == "alive" and vm.status is not None:
            with contextlib.suppress(NoHypervisor, OSError):
                self._trust.prove(vm.status.accelerator, self._found().version)

    def _last(self, vm: KeeperHandle, event: Event) -> None:
        with self._lock:
            self._vms.pop(vm.vm_id, None)
            self._asked.pop(vm.vm_id, None)
            self._ended[vm.vm_id] = None
            while len(self._ended) > _ENDED_KEPT:
                del self._ended[next(iter(self._ended))]
        vm.forget()
        self._emit(event)


def _asked(spec: VmSpec) -> Observed:
    """What is known of a VM before its keeper has said anything."""
    desktop = spec.instance.desktop
    return Observed(spec.vm_id, spec.disk.ref, spec.size, desktop, datetime.now(UTC), "", paused=False, alive=False)


def _last_event(vm: KeeperHandle) -> Event:
    over = vm.over
    if over is not None and over.failed:
        return StartFailed(vm.vm_id, over.fault, over.sentence)
    if over is not None:
        return Gone(vm.vm_id, over.clean, over.sentence)
    if vm.kill_ordered:
        return Gone(vm.vm_id, True, "it was ended as ordered, by force: its keeper did not answer in time")
    if vm.started:
        return Gone(vm.vm_id, False, vm.how_it_ended())
    return StartFailed(vm.vm_id, "desktop", vm.how_it_ended())
