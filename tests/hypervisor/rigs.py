"""Two places to run the contract in: a pretended desktop under a virtual clock, and real QEMU with the tiny guest."""

import contextlib
import heapq
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil
from tiny_guest import CMDLINE, TinyGuest, tiny_guest

from deskgrid.core.commands import Kill
from deskgrid.core.events import FromHypervisor, GuestLeft, Happened
from deskgrid.hypervisor.contract import Emit, Hypervisor
from deskgrid.hypervisor.fake import FakeDesktop, FakeHypervisor
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.hypervisor.qemu.driver import QemuHypervisor
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Size
from deskgrid.wire.disk import OpenedImage
from deskgrid.wire.keeper import VmSpec

MIB = 1024 * 1024
SECRET = "canary-7f3a9e51c2"
BOOT_SECONDS = 120.0
"""How long a tiny guest may take under software emulation on a machine that others use too."""

_QUICK = GuestBehaviour(start_seconds=0.3, alive_after_seconds=5.0, join_seconds=0.1, leave_seconds=0.1)
GUESTS = {
    "obedient": ("", _QUICK),
    "busy": ("dg.spin=1", _QUICK),
    "stubborn": ("dg.leave=ignore dg.spin=1", msgspec.structs.replace(_QUICK, leave_seconds=None)),
    "silent": ("dg.hello=never", msgspec.structs.replace(_QUICK, alive_after_seconds=None)),
    "panics": ("dg.panic=1", msgspec.structs.replace(_QUICK, ends_after_seconds=8.0)),
    "unused": ("dg.unused=1", msgspec.structs.replace(_QUICK, leaves_after_seconds=1.0)),
    "missing": ("", msgspec.structs.replace(_QUICK, start_fault=Fault.IMAGE)),
}


def spec_of(
    vm_id: str, kind: str, guest: TinyGuest | None, words: str = "", overlay_bytes: int = 128 * MIB, cpus: int = 1
) -> VmSpec:
    """What to start: a guest of one kind. guest: the real files; None: the fake needs none."""
    nowhere = Path("/nonexistent/disk.raw")
    disk = OpenedImage(
        ref=ImageRef(kind, "0" * 64),
        disk=guest.disk if guest is not None and kind != "missing" else nowhere,
        kernel=guest.kernel if guest is not None else None,
        initrd=guest.initrd if guest is not None else None,
        cmdline=f"{CMDLINE} {GUESTS[kind][0]} {words}",
    )
    instance = InstanceData(vm_id, kind, "desk-1", "10.0.2.2:9618", SECRET, "test", cpus, 256)
    return VmSpec(vm_id, disk, Size(cpus, 256 * MIB), instance, overlay_bytes)


def into(events: list[FromHypervisor]) -> Emit:
    """What puts the events of a driver, of whichever VM, into a list."""
    return lambda happened: events.append(happened.event)


class Rig(Protocol):
    """What a test of the contract needs. VM ids are made unique by the rig."""

    driver: Hypervisor
    slack_seconds: float  # what a busy machine may add to the contract's times
    missing_fault: str  # whose fault it is that an image is missing

    def start(self, kind: str) -> str:
        """Start a VM of one kind; its id."""

    def events(self, vm_id: str) -> list[FromHypervisor]:
        """What its drivers have said of it."""

    def wait(self, vm_id: str, kind: type[Any], seconds: float = BOOT_SECONDS) -> Any:
        """The first event of this kind, once it has come."""

    def pass_time(self, seconds: float) -> None:
        """Let time pass, tended."""

    def crash(self) -> None:
        """The agent dies: nobody tends, nobody listens."""

    def come_back(self) -> None:
        """A new agent starts, with a new driver that has observed nothing yet."""

    def has_token(self, vm_id: str, token: str) -> bool:
        """Whether its guest has been given this token in the place of its first one; that guest leaves then."""

    def lived_seconds(self, vm_id: str) -> float:
        """What the VM's CPUs have run."""

    def cores(self, vm_id: str) -> int:
        """How many cores it may use."""

    def left_behind(self, vm_id: str) -> list[str]:
        """What is still there of a VM."""

    def now(self) -> float:
        """Seconds of the rig's clock."""


class FakeRig:
    """Virtual time: it passes only when somebody waits."""

    slack_seconds = 0.0
    missing_fault = "image"

    def __init__(self) -> None:
        self._at = datetime(2026, 1, 1, tzinfo=UTC)
        self._calls: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._ids = itertools.count(1)
        self._events: dict[str, list[FromHypervisor]] = defaultdict(list)
        self.desktop = FakeDesktop(("kvm", "fake"))
        self._tending = True
        self.driver: FakeHypervisor = self._new()

    def _new(self) -> FakeHypervisor:
        return FakeHypervisor(
            self._take,
            self.later,
            self.clock,
            desktop=self.desktop,
            behaviours={kind: behaviour for kind, (_, behaviour) in GUESTS.items()},
        )

    def _take(self, happened: Happened) -> None:
        self._events[happened.vm_id].append(happened.event)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self._at + timedelta(seconds=seconds), next(self._order), call))

    def clock(self) -> datetime:
        """The virtual time."""
        return self._at

    def now(self) -> float:
        return self._at.timestamp()

    def start(self, kind: str) -> str:
        return self.start_spec(spec_of(f"vm-{next(self._ids)}", kind, None))

    def start_spec(self, spec: VmSpec, image: str = "") -> str:
        """Start this VM, of this image if one is given."""
        if image:
            disk = msgspec.structs.replace(spec.image, ref=ImageRef(image, "0" * 64))
            spec = msgspec.structs.replace(spec, image=disk)
        self.driver.start(spec)
        return spec.vm_id

    def events(self, vm_id: str) -> list[FromHypervisor]:
        return self._events[vm_id]

    def wait(self, vm_id: str, kind: type[Any], seconds: float = BOOT_SECONDS) -> Any:
        end = self.now() + seconds
        while self.now() < end:
            found = [event for event in self._events[vm_id] if isinstance(event, kind)]
            if found:
                return found[0]
            self.pass_time(0.02)
        raise AssertionError(f"{vm_id}: no {kind.__name__} in {seconds} s: {self._events[vm_id]}")

    def pass_time(self, seconds: float) -> None:
        end = self._at + timedelta(seconds=seconds)
        while True:
            if self._tending:
                self.driver.heartbeat()
            step = min(end, self._at + timedelta(seconds=1))
            while self._calls and self._calls[0][0] <= step:
                at, _, call = heapq.heappop(self._calls)
                self._at = max(self._at, at)
                call()
            self._at = step
            if step == end:
                return

    def crash(self) -> None:
        self._tending = False
        self.driver.close()

    def come_back(self) -> None:
        self.driver = self._new()
        self._tending = True

    def has_token(self, vm_id: str, token: str) -> bool:
        return self.desktop.vms[vm_id].token == token

    def lived_seconds(self, vm_id: str) -> float:
        return self.desktop.vms[vm_id].time.lived_seconds()

    def cores(self, vm_id: str) -> int:
        return 1 if self.desktop.vms[vm_id].confined or self.desktop.cpus in (0, 1) else 2

    def left_behind(self, vm_id: str) -> list[str]:
        return [name for name, vm in self.desktop.vms.items() if name == vm_id and vm.stage != "over"]

    def close(self) -> None:
        """Nothing to clean up."""


class QemuRig:
    """Real QEMU, software emulation, real time; an agent's tending is a thread."""

    slack_seconds = 2.0
    missing_fault = "image"

    def __init__(self, words: str = "", accelerators: tuple[str, ...] = ("tcg",)) -> None:
        self.guest = tiny_guest()
        self.home = Path(tempfile.mkdtemp(prefix="dg-"))
        self._accelerators = accelerators
        self._words = words
        self._ids = itertools.count(1)
        self._events: dict[str, list[FromHypervisor]] = defaultdict(list)
        self._stop = threading.Event()
        self._tending = True
        self.driver: QemuHypervisor = self._new()
        threading.Thread(target=self._tend, daemon=True).start()

    def _new(self) -> QemuHypervisor:
        # Not in the idle class: other tests may use this machine, and the guest has to boot in time.
        return QemuHypervisor(self.home, self._take, accelerators=self._accelerators, idle_class=False)

    def _take(self, happened: Happened) -> None:
        self._events[happened.vm_id].append(happened.event)

    def _tend(self) -> None:
        while not self._stop.wait(0.5):
            if self._tending:
                self.driver.heartbeat()

    def now(self) -> float:
        return time.monotonic()

    def start(self, kind: str, words: str = "", overlay_bytes: int = 128 * MIB, cpus: int = 1) -> str:
        vm_id = f"vm-{os.getpid()}-{next(self._ids)}"
        self.driver.start(self.dressed(spec_of(vm_id, kind, self.guest, words, overlay_bytes, cpus)))
        return vm_id

    def dressed(self, spec: VmSpec) -> VmSpec:
        """The same with this rig's disk."""
        return spec

    def events(self, vm_id: str) -> list[FromHypervisor]:
        return self._events[vm_id]

    def wait(self, vm_id: str, kind: type[Any], seconds: float = BOOT_SECONDS) -> Any:
        end = self.now() + seconds
        while self.now() < end:
            found = [event for event in self._events[vm_id] if isinstance(event, kind)]
            if found:
                return found[0]
            time.sleep(0.005)
        raise AssertionError(f"{vm_id}: no {kind.__name__} in {seconds} s: {self._events[vm_id]}")

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)

    def crash(self) -> None:
        self._tending = False
        self.driver.close()

    def come_back(self) -> None:
        self.driver = self._new()
        self._tending = True

    def has_token(self, vm_id: str, token: str) -> bool:
        return bool(self.wait(vm_id, GuestLeft).sentence == f"renewed {token}")

    def qemu(self, vm_id: str) -> psutil.Process:
        """The VM's QEMU process."""
        (found,) = qemus(vm_id)
        return found

    def keeper(self, vm_id: str) -> psutil.Process:
        """The VM's keeper process."""
        parent = self.qemu(vm_id).parent()
        assert parent is not None
        return parent

    def lived_seconds(self, vm_id: str) -> float:
        times = self.qemu(vm_id).cpu_times()
        return times.user + times.system

    def cores(self, vm_id: str) -> int:
        return len(self.core_set(vm_id))

    def core_set(self, vm_id: str) -> set[int]:
        """The cores that any of its threads may use."""
        pid = self.qemu(vm_id).pid
        return set().union(*(os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()))

    def left_behind(self, vm_id: str) -> list[str]:
        files = [str(path) for path in (self.home / "vms").rglob("*") if vm_id in str(path)]
        return files + [str(process) for process in qemus(vm_id) + servers(vm_id)]

    def close(self) -> None:
        """End all VMs of this rig."""
        for seen in self.driver.observe():
            self.driver.order(seen.vm_id, Kill())
        end = time.monotonic() + 5
        while any((self.home / "vms").iterdir()) and time.monotonic() < end:
            time.sleep(0.02)
        self._stop.set()
        self.driver.close()
        shutil.rmtree(self.home, ignore_errors=True)


def qemus(vm_id: str) -> list[psutil.Process]:
    """The living QEMU processes of a VM."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"guest={vm_id},debug-threads=on" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def servers(vm_id: str) -> list[psutil.Process]:
    """The living processes that serve a VM's disk."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = any(word.endswith(f"/{vm_id}/disk.sock") for word in process.cmdline())
            if told and "deskgrid.images.serve.serve" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
