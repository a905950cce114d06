"""A desktop as the coordinator sees it: what it last reported, and when."""

from enum import StrEnum

import msgspec

from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.names import Name
from deskgrid.model.values.numbers import Bytes, Count, Cpus, Span


class VmState(StrEnum):
    """The states of a VM's life; the table that moves between them is `core/desktop/vm.py`."""

    FETCHING = "fetching"
    STARTING = "starting"
    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    LEAVING = "leaving"
    KILLING = "killing"
    ENDED = "ended"


class Fault(StrEnum):
    """Whose fault it is that a VM ended, for backing off from the right thing."""

    NONE = "none"
    DESKTOP = "desktop"
    IMAGE = "image"


class VmReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """One VM as its agent reports it. `reason` says why it is in this state; for an ended VM, why it ended."""

    vm_id: Name
    image: ImageRef
    size: Size
    state: VmState
    since: Moment
    reason: Reason
    accelerator: str = ""
    fault: Fault = Fault.NONE

    def __post_init__(self) -> None:
        check_moments(self.since)


class Transition(msgspec.Struct, frozen=True):
    """One line of a VM's story as its agent saw it. at: any time: what can't be is set right where it is recorded."""

    vm_id: Name
    at: Moment
    state: str
    event: str
    sentence: str


class Room(msgspec.Struct, frozen=True):
    """What a desktop can give to further VMs now, after its reserves and the VMs that it has."""

    cpus: Cpus
    memory_bytes: Bytes
    disk_bytes: Bytes
    vms: Count


class Availability(msgspec.Struct, frozen=True, omit_defaults=True):
    """The policy's answer: may VMs run here now? Refusals come in the policy's order; the first decided."""

    available: bool
    refusals: tuple[Reason, ...] = ()
    idle_seconds: Span | None = None
    logged_in: bool | None = None


class Desktop(msgspec.Struct, frozen=True):
    """One desktop in a snapshot of the fleet."""

    name: Name
    reported_at: Moment
    availability: Availability
    room: Room
    images: tuple[ImageRef, ...] = ()
    vms: tuple[VmReport, ...] = ()
    cpus: int = 0
    memory_bytes: int = 0
