"""Report and answer: the level-triggered conversation of a desktop with its coordinator.

A report says all that the desktop is and runs; the answer says all that it should run. Each message is complete in
itself, so a lost, repeated or late one does no harm: the next one heals it.
"""

from typing import Annotated

import msgspec

from deskgrid.model.desktop import Availability, Room, VmReport
from deskgrid.model.desktop import Transition as Transition
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.inventory import Inventory
from deskgrid.model.lease import Lease
from deskgrid.model.values.moment import Moment, check_moments
from deskgrid.model.values.names import Name
from deskgrid.model.values.numbers import Bytes, Count, Cpus, Port, Whole
from deskgrid.model.values.outside import read_json

PROTOCOL = 1
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
"""How long an agent waits: a day at most."""


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a desktop is and runs.

    incarnation: one per start of the agent. sequence: grows with every report of an incarnation.
    sent_at: the agent's clock. wait_seconds: how long the coordinator may hold the answer open.
    ended: VMs that ended and whose end the coordinator has not acknowledged yet.
    story: transitions not acknowledged yet, oldest first.
    inventory: what the desktop is made of; in the first reports of an incarnation until one is answered, and again when
    it has changed.
    revocations: the most that an answer has said since the agent began.
    neighbour_port: where it gives parts of images to desktops of its subnet; 0: it does not, and learns of none.
    """

    incarnation: Name
    sequence: Whole
    sent_at: Moment
    availability: Availability
    room: Room
    cpus: Cpus
    memory_bytes: Bytes
    protocol: Whole = PROTOCOL
    agent_version: str = ""
    system: str = ""
    wait_seconds: Seconds = 0.0
    images: tuple[ImageRef, ...] = ()
    vms: tuple[VmReport, ...] = ()
    ended: tuple[VmReport, ...] = ()
    story: tuple[Transition, ...] = ()
    inventory: Inventory | None = None
    revocations: Count = 0
    neighbour_port: Port = 0

    def __post_init__(self) -> None:
        check_moments(self.sent_at)


class Order(msgspec.Struct, frozen=True, omit_defaults=True):
    """A VM that the desktop should run. instance and image are there only while the VM has not been reported yet.

    token: after that, the newest pool token for its guest, if it was renewed. SECRET.
    """

    lease: Lease
    instance: InstanceData | None = None
    image: ImageGrant | None = None
    token: str = ""

    def __repr__(self) -> str:
        return f"Order({self.lease!r}, {self.instance!r}, {self.image!r}, token=<secret>)"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that a desktop should run; VMs that are not named here should end.

    to: the sequence of the report that is answered. now: the coordinator's clock.
    next_report_seconds: report again within this time.
    revocations: of desktops, how many there ever were here: fewer than before says that a backup was restored.
    acknowledged: ended VMs whose end is recorded. story_count: how many of the report's transitions are recorded.
    """

    to: Whole
    now: Moment
    orders: tuple[Order, ...]
    next_report_seconds: Seconds
    acknowledged: tuple[Name, ...] = ()
    story_count: Count = 0
    revocations: Count = 0

    def __post_init__(self) -> None:
        check_moments(self.now)


class Enrol(msgspec.Struct, frozen=True):
    """A desktop asks to become a member. token: a secret made by the operator, limited in time and count."""

    token: str
    desktop: Name

    def __repr__(self) -> str:
        return f"Enrol(desktop={self.desktop!r}, token=<secret>)"


class Enrolled(msgspec.Struct, frozen=True):
    """The desktop's own credential, said once; the coordinator keeps only its hash."""

    desktop: Name
    credential: str

    def __repr__(self) -> str:
        return f"Enrolled(desktop={self.desktop!r}, credential=<secret>)"


class Problem(msgspec.Struct, frozen=True):
    """Every refusal of the service. code: stable; sentence: for a person, with what to do."""

    code: str
    sentence: str


def problem_of(body: bytes) -> Problem:
    """What a refusal's body says; one that says nothing has no sentence."""
    try:
        return read_json(body, type=Problem)
    except msgspec.DecodeError:
        return Problem("", "")
