"""Values to decide about: an ordinary desktop, an ordinary lease, and ways to say what is different."""

from datetime import UTC, datetime, timedelta

from deskgrid.core.commands import Fetch
from deskgrid.core.desktop.advance import advance
from deskgrid.core.desktop.inputs import Act, Input, Ordered, Sensed
from deskgrid.core.desktop.state import AgentState, begin
from deskgrid.core.desktop.vm import Vm, order
from deskgrid.core.events import AnyEvent, Event, name_of
from deskgrid.model.desktop import Availability, Desktop, Fault, Room, VmReport, VmState
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import Outcome
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason

NOW = datetime(2026, 3, 3, 20, 0, tzinfo=UTC)
"""A Tuesday evening."""
SMALL = Size(1, GIB)
IMAGE = ImageRef("its-sl6", "a" * 64)
OTHER = ImageRef("lscsoft", "b" * 64)
ROOMY = Machine(cpus=8, memory_bytes=16 * GIB, memory_available_bytes=14 * GIB, disk_free_bytes=100 * GIB)
AWAY = Reading(logged_in=False, idle_seconds=86400.0)
TYPING = Reading(logged_in=True, idle_seconds=0.0)
ALL_DAY = Policy(
    closed=(), idle_seconds_nobody=60.0, grace_seconds=60.0, start_spacing_seconds=0.0, start_offset_seconds=0.0
)
WHY = Reason("why", "Because.")


def after(seconds: float) -> datetime:
    """So long after NOW."""
    return NOW + timedelta(seconds=seconds)


def lease(vm_id: str = "vm-1", until: float = 300.0, size: Size = SMALL, image: ImageRef = IMAGE) -> Lease:
    """A lease that was granted at NOW."""
    return Lease(vm_id, "desk-1", image, size, NOW, after(until), Reason("demand", "A job waits."))


def event(kind: type[Event], **more: object) -> AnyEvent:
    """An event, with a reason of the same name; of what is said besides it takes what it has a place for."""
    name = name_of(kind)
    usual = {
        "reason": Reason(name, f"It was {name}."),
        "sentence": f"It was {name}.",
        "until": after(300),
        "accelerator": "kvm",
        "cause": "asked",
        "clean": True,
        "milliseconds": 1.0,
    }
    if name == "start-failed":
        usual["fault"] = Fault.DESKTOP
    return kind(**{key: value for key, value in {**usual, **more}.items() if key in kind.__struct_fields__})  # type: ignore[return-value]


def vm_in(state: VmState, accelerator: str = "kvm", seconds: float = 100.0) -> Vm:
    """A VM that has come so far, with a deadline after `seconds`."""
    alive = state in (VmState.RUNNING, VmState.PAUSED, VmState.LEAVING)
    return Vm(lease(), state, NOW, WHY, after(seconds), alive, accelerator)


def sensed(reading: Reading = AWAY, machine: Machine = ROOMY, at: datetime = NOW) -> Sensed:
    """The owner and the machine were looked at."""
    return Sensed(reading, machine, at)


def told(
    *leases: Lease, to: int = 1, at: datetime = NOW, acknowledged: tuple[str, ...] = (), story: int = 0
) -> Ordered:
    """The coordinator answered: run exactly these."""
    return Ordered(to, at, leases, acknowledged, story)


def desk(
    policy: Policy = ALL_DAY, reading: Reading = AWAY, machine: Machine = ROOMY, vms: tuple[Vm, ...] = ()
) -> AgentState:
    """An agent that has just begun."""
    return begin("desk-1", policy, sensed(reading, machine), NOW, vms)


def turn(state: AgentState, given: Input, now: datetime) -> tuple[AgentState, tuple[Act, ...]]:
    """One input alone."""
    return advance(state, (given,), now)


def ordered(vm_id: str = "vm-1") -> Vm:
    """A VM that has just been ordered."""
    vm, commands = order(lease(vm_id), NOW)
    assert commands == (Fetch(lease(vm_id)),)
    return vm


def facts(ref: ImageRef = IMAGE, memory_bytes: int = GIB) -> ImageFacts:
    """An image on offer."""
    return ImageFacts(ref, memory_bytes, 4 * GIB)


def desktop(
    name: str,
    *,
    refusals: tuple[str, ...] = (),
    idle_seconds: float | None = 3600.0,
    logged_in: bool | None = False,
    silent_seconds: float = 0.0,
    vms: int = 4,
    cpus: int = 8,
    memory_bytes: int = 8 * GIB,
    disk_bytes: int = 50 * GIB,
    images: tuple[ImageRef, ...] = (),
    here: tuple[VmReport, ...] = (),
) -> Desktop:
    """A desktop that reported `silent_seconds` ago."""
    return Desktop(
        name,
        after(-silent_seconds),
        Availability(not refusals, tuple(Reason(r, r) for r in refusals), idle_seconds, logged_in),
        Room(cpus, memory_bytes, disk_bytes, vms),
        images,
        here,
        cpus,
        memory_bytes,
    )


def outcome(image: str, on: str, seconds_ago: float, ok: bool = False, fault: Fault = Fault.IMAGE) -> Outcome:
    """How a start went, so long before NOW."""
    return Outcome(image, on, after(-seconds_ago), ok, Fault.NONE if ok else fault)
