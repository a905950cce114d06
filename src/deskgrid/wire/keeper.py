"""The protocol between a driver and the keeper of a VM: JSON lines over a Unix socket.

Rules:
- The first line to a new keeper is its `Task`, on its standard input, which is a socket: so the driver that started it
  is attached from the first moment. Later drivers connect to `keeper.sock`. The newest one gets everything; the one
  before hears `Replaced` and must not touch the VM any more.
- A driver that attaches gets `Observed`, then what has happened and nobody has heard yet, in order.
- An event that must not be lost has a number, and is said again to the next driver until it is confirmed with `Heard`.
- `Exited` is the last word of a keeper: nothing of the VM is left but the keeper itself, which ends with it.
"""

from datetime import datetime
from pathlib import Path
from typing import TypeAlias

import msgspec

from deskgrid.core.commands import ToVm
from deskgrid.core.events import FromHypervisor, Gone, StartFailed
from deskgrid.model.image import ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Size
from deskgrid.model.values.outside import JsonReader
from deskgrid.wire.disk import OpenedImage

END_SECONDS = 4.0
LEAVE_SECONDS = 3.0
"""Silence of the driver after which a keeper ends its VM, and after which it asks a running guest to leave."""
SILENCE_SECONDS_MAX = 60.0
LINE_BYTES = 1024 * 1024
SOCKET_NAME, DISK_SOCKET_NAME = "keeper.sock", "disk.sock"
SOCKET_PATH_BYTES = 107


class VmSpec(msgspec.Struct, frozen=True):
    """All that is needed to run one VM. overlay_bytes: bounds what the guest may write."""

    vm_id: str
    image: OpenedImage
    size: Size
    instance: InstanceData
    overlay_bytes: int


class Task(msgspec.Struct, frozen=True):
    """All that a keeper must know. Holds SECRETS (the instance data's token, what opens the disk).

    qemu: the program. accelerators: to be tried in this order.
    idle_class: run QEMU only when nobody else wants the processor.
    cpus: as in `Limit`. group: the folder of the cgroup that QEMU belongs to.
    """

    spec: VmSpec
    folder: Path
    qemu: str
    accelerators: tuple[str, ...]
    idle_class: bool
    cpus: int | None = None
    group: Path | None = None


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """The driver's agent is alive."""


class Handover(msgspec.Struct, frozen=True, tag="handover"):
    """The agent is being upgraded, and silent meanwhile."""

    seconds: float


class Limit(msgspec.Struct, frozen=True, tag="limit"):
    """All VMs together run on so many cores; None: on all; 0: on none."""

    cpus: int | None


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """The events up to this number have reached the agent."""

    number: int


ToKeeper: TypeAlias = Heartbeat | Handover | Limit | Heard | ToVm


class Observed(msgspec.Struct, frozen=True, tag="observed"):
    """A VM that is there, as seen from processes and sockets, not remembered.

    group: the folder of its cgroup, where it has one: `cpu.pressure`, `memory.pressure` and `io.pressure` there say how
    much of the system's pressure is that of VMs.
    qemu_pid: 0 before QEMU runs. disk_pid: of what serves its disk; 0: nothing does.
    """

    vm_id: str
    image: ImageRef
    size: Size
    desktop: str
    started_at: datetime
    accelerator: str = ""
    paused: bool = False
    alive: bool = False
    group: str = ""
    qemu_pid: int = 0
    disk_pid: int = 0


class Told(msgspec.Struct, frozen=True, tag="told"):
    """Something happened to the VM. number: to be confirmed with `Heard`; 0: it only matters now."""

    number: int
    event: FromHypervisor


class Replaced(msgspec.Struct, frozen=True, tag="replaced"):
    """Another driver has attached."""


class Warned(msgspec.Struct, frozen=True, tag="warned"):
    """What serves the disk has met a fault; their number and length are bounded."""

    sentence: str


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """The VM is gone and everything of its own is deleted, or it never ran."""

    event: Gone | StartFailed


FromKeeper: TypeAlias = Observed | Told | Replaced | Warned | Exited
TO_KEEPER = JsonReader[ToKeeper](ToKeeper)
FROM_KEEPER = JsonReader[FromKeeper](FromKeeper)
TASK = JsonReader[Task](Task, dec_hook=lambda kind, text: kind(text))
