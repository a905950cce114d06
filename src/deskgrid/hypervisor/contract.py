"""The contract that every hypervisor driver keeps; `tests/contracts/test_hypervisor.py` holds the fake and QEMU to it.

Commands return at once (within milliseconds) and never raise for what the VM does; their results come back as
events through the `emit` callable that the driver was made with, from any thread. The order of one VM's events is
the order in which things happened to it.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Protocol

import msgspec

from deskgrid.model.image import ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Size
from deskgrid.wire.disk import DiskServer


class Disk(msgspec.Struct, frozen=True):
    """An opened image: where the driver finds what a VM boots from, either in files or from a program. All read only.

    disk: file of the raw disk (bootable by BIOS). kernel, initrd: files for drivers that can boot a kernel directly.
    served: in place of the three files: a program that serves them for as long as the VM lives. Holds a SECRET.
    """

    ref: ImageRef
    disk: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    served: DiskServer | None = None


class VmSpec(msgspec.Struct, frozen=True):
    """All that a driver needs to run one VM. `overlay_bytes` bounds what the guest may write."""

    vm_id: str
    disk: Disk
    size: Size
    instance: InstanceData
    overlay_bytes: int


class Started(msgspec.Struct, frozen=True):
    """The VM's CPUs run (the guest may not be up yet). accelerator: "kvm", "tcg", … or "fake"."""

    vm_id: str
    accelerator: str


class StartFailed(msgspec.Struct, frozen=True):
    """The VM could not be started. fault: whose ("desktop", "image"); nothing of it is left."""

    vm_id: str
    fault: str
    sentence: str


class Waiting(msgspec.Struct, frozen=True):
    """What it boots from has not come yet: its sources are away or slow. Said again while it lasts, until `Alive`."""

    vm_id: str
    sentence: str


class Alive(msgspec.Struct, frozen=True):
    """First sign of life from the guest's own user space."""

    vm_id: str


class Joined(msgspec.Struct, frozen=True):
    """The guest has its instance data and has started HTCondor's daemons."""

    vm_id: str


class Paused(msgspec.Struct, frozen=True):
    """After `pause`: none of its CPUs runs now. milliseconds: how long that took in the driver."""

    vm_id: str
    milliseconds: float


class GuestLeft(msgspec.Struct, frozen=True):
    """The guest has vacated its jobs and can be ended. cause: "asked", "unused" or "failed"; sentence: for people."""

    vm_id: str
    cause: str
    sentence: str


class Gone(msgspec.Struct, frozen=True):
    """No process of this VM is left, its memory is back, its overlay is deleted. Comes exactly once, last.

    clean: it ended because we ordered it. sentence: how it ended, for people ("QEMU was killed by signal 9").
    """

    vm_id: str
    clean: bool
    sentence: str


Event = Started | StartFailed | Waiting | Alive | Joined | Paused | GuestLeft | Gone
Emit = Callable[[Event], None]


class Observed(msgspec.Struct, frozen=True):
    """A VM that is there, as seen from processes and sockets, not remembered.

    group: the folder of its cgroup, where VMs have one of their own: its `cpu.pressure`, `memory.pressure` and
    `io.pressure` say how much of the system's pressure is that of VMs.
    """

    vm_id: str
    image: ImageRef
    size: Size
    desktop: str
    started_at: datetime
    accelerator: str
    paused: bool
    alive: bool
    group: str = ""


class Hypervisor(Protocol):
    """Runs virtual machines on this desktop.

    A driver MUST
    - take every command at any time: an unknown or ended VM, a repeated command or one out of order is no error and
      does nothing;
    - pause within 200 ms: after `pause`, no CPU of the VM runs;
    - on `vacate`: confine the VM to one core in the idle class, let it run, and ask the guest to leave;
    - after `limit`: run all VMs of this desktop together on at most so many cores, those that start later and those
      that are found again too;
    - on `kill`: end the VM within a second whatever the guest does, paused or not, then emit Gone;
    - leave nothing when it emits StartFailed or Gone: no process, no overlay, no socket;
    - end a VM within 5 s when nobody has called `tend` for it (the agent died), later only if `hand_over` has announced
      that; and when the agent comes back in time, find it again by `observe`;
    - hold no secret in argv, environment, logs or on a disk in the clear.
    """

    name: str

    def start(self, spec: VmSpec) -> None:
        """Start a VM. Events: Started, then Alive, Joined; or StartFailed."""

    def pause(self, vm_id: str) -> None:
        """Stop its CPUs; memory is kept. Event: Paused."""

    def resume(self, vm_id: str) -> None:
        """Let its CPUs go on."""

    def vacate(self, vm_id: str) -> None:
        """Let it run confined while the guest ends its jobs fast. Event: GuestLeft when it has done so."""

    def renew(self, vm_id: str, token: str) -> None:
        """Give its guest a pool token that is valid for longer. SECRET. Said again until it is known to be enough."""

    def kill(self, vm_id: str) -> None:
        """End it now. Event: Gone."""

    def limit(self, cpus: int) -> None:
        """All VMs of this desktop together run on at most so many cores from now on; before the first call: on all.

        0: none of them runs until the limit is raised, even if it is resumed meanwhile; a VM that leaves (`vacate`)
        runs confined all the same. Events: Paused, for those that ran.
        """

    def distrust(self, accelerator: str) -> None:
        """A guest showed no sign of life on this accelerator: do not use it again on this machine (remembered)."""

    def tend(self) -> None:
        """Tell all VMs that the agent is alive; called at least once a second."""

    def hand_over(self, seconds: float) -> None:
        """The agent is about to be replaced: VMs wait so long for the next one, at most 60 s. Then call `close`."""

    def cpu_seconds(self) -> dict[str, float]:
        """What each VM has used of processors since its start, where that is known; quick."""

    def observe(self) -> list[Observed]:
        """The VMs that run now, found from their processes; attaches to them, so that their events come here."""

    def close(self) -> None:
        """Let go of all VMs without ending them (their keepers end them in 5 s unless another driver attaches)."""
