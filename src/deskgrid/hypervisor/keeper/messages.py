"""What a driver and the keeper of a VM say to each other: JSON lines over a unix socket.

The rules:
- The first line to a new keeper is its `Task`, on its standard input, which is a socket: so the driver that started it
  is attached from the first moment. Later drivers connect to `keeper.sock`. The newest one is told everything; the one
  before hears `Replaced` and must not touch the VM any more.
- A driver that attaches is told `Status`, then what has happened and nobody has heard yet, in order.
- What happened is numbered and said again to the next driver until it has been confirmed with `Heard`.
- `Over` is the last word of a keeper: nothing of the VM is left but the keeper itself, which ends with it.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.hypervisor.contract import Alive, Event, GuestLeft, Joined, Started, VmSpec
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.values.outside import JsonReader

END_SECONDS = 4.0
LEAVE_SECONDS = 3.0
"""Silence of the driver after which a keeper ends its VM, and after which it asks a running guest to leave."""
SILENCE_SECONDS_MAX = 60.0
LINE_BYTES = 1024 * 1024
SOCKET_NAME, DISK_SOCKET_NAME = "keeper.sock", "disk.sock"
SOCKET_PATH_BYTES = 107


class Task(msgspec.Struct, frozen=True):
    """All that a keeper must know. Holds SECRETS (the instance data's token, what opens the disk).

    qemu: the program. accelerators: to be tried in this order. idle_class: run QEMU only when nobody else wants the
    CPU. cpus: as in `Limit`. group: the folder of the cgroup that QEMU belongs to.
    """

    spec: VmSpec
    folder: Path
    qemu: str
    accelerators: tuple[str, ...]
    idle_class: bool
    cpus: int | None = None
    group: Path | None = None


_TASK = JsonReader(Task, dec_hook=lambda kind, text: kind(text))


def encode_task(task: Task) -> bytes:
    """One line, with its newline."""
    return msgspec.json.encode(task, enc_hook=str) + b"\n"


def decode_task(line: bytes) -> Task:
    """Raises: msgspec.MsgspecError."""
    return _TASK.decode(line)


def without_opening(spec: VmSpec) -> VmSpec:
    """The same without the secret that opens its disk; the token stays."""
    if spec.disk.served is None:
        return spec
    served = msgspec.structs.replace(spec.disk.served, opening=b"")
    return msgspec.structs.replace(spec, disk=msgspec.structs.replace(spec.disk, served=served))


class Tend(msgspec.Struct, frozen=True, tag="tend"):
    """The driver's agent is alive."""


class Silence(msgspec.Struct, frozen=True, tag="silence"):
    """The agent will be silent for so long: it is being upgraded."""

    seconds: float


class Pause(msgspec.Struct, frozen=True, tag="pause"):
    """Stop the VM's CPUs."""


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Let them go on."""


class Vacate(msgspec.Struct, frozen=True, tag="vacate"):
    """Let them go on, confined, and ask the guest to leave."""


class Renew(msgspec.Struct, frozen=True, tag="renew"):
    """Give the guest a token that is valid for longer. SECRET."""

    token: str

    def __repr__(self) -> str:
        return "Renew(token=<secret>)"


class Limit(msgspec.Struct, frozen=True, tag="limit"):
    """All VMs together run on so many cores; None: on all; 0: on none."""

    cpus: int | None


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End the VM."""


class Heard(msgspec.Struct, frozen=True, tag="heard"):
    """What happened up to this number has reached the agent."""

    number: int


Order = Tend | Silence | Pause | Resume | Vacate | Renew | Limit | Kill | Heard


class Status(msgspec.Struct, frozen=True, tag="status"):
    """What a keeper sees of its VM now. group: its cgroup's folder, if it has one.

    qemu_pid: 0 before QEMU runs. disk_pid: of what serves its disk; 0: nothing does.
    """

    vm_id: str
    image: ImageRef
    size: Size
    desktop: str
    started_at: datetime
    accelerator: str
    paused: bool
    alive: bool
    qemu_pid: int
    group: str = ""
    disk_pid: int = 0


class Happened(msgspec.Struct, frozen=True, tag="happened"):
    """An event of the contract. kind: its class's name in small letters; the rest as far as that class has it."""

    number: int
    kind: str
    accelerator: str = ""
    sentence: str = ""
    cause: str = ""


def event_of(vm_id: str, happened: Happened) -> Event | None:
    """The contract's event for it; None for a kind that is not known here."""
    match happened.kind:
        case "started":
            return Started(vm_id, happened.accelerator)
        case "alive":
            return Alive(vm_id)
        case "joined":
            return Joined(vm_id)
        case "guestleft":
            return GuestLeft(vm_id, happened.cause, happened.sentence)
        case _:
            return None


class Paused(msgspec.Struct, frozen=True, tag="paused"):
    """The CPUs stand still (`on`) or run. how: "stop" (QMP) or "signal"; milliseconds: since the order."""

    on: bool
    how: str
    milliseconds: float


class Replaced(msgspec.Struct, frozen=True, tag="replaced"):
    """Another driver has attached."""


class Said(msgspec.Struct, frozen=True, tag="said"):
    """What serves the disk has met a fault; a bounded number of them is told, and each is bounded in length."""

    sentence: str


class Waits(msgspec.Struct, frozen=True, tag="waits"):
    """The VM is not up yet, and waits for data of its disk. Said again and again while it lasts."""

    sentence: str


class Over(msgspec.Struct, frozen=True, tag="over"):
    """The VM is gone and all of it is deleted. failed: it never ran (StartFailed)."""

    failed: bool
    fault: str
    clean: bool
    sentence: str


Word = Status | Happened | Paused | Replaced | Said | Waits | Over
