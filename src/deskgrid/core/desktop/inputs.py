"""What comes in to a desk, and what goes out: the words between `core/desktop/advance.py` and the loop that drives
it.
"""

from datetime import datetime

import msgspec

from deskgrid.core.desktop.vm import Command, Event
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish


class Sensed(msgspec.Struct, frozen=True):
    """Presence and resources were read. local: now in the desktop's time zone. faults: see `availability`."""

    reading: Reading
    machine: Machine
    local: datetime
    faults: tuple[Reason, ...] = ()


class Told(msgspec.Struct, frozen=True):
    """The coordinator answered a report.

    their_now: its clock. to: the sequence of the report it answers. story_until: so many lines of story, counted from
    the agent's start, are recorded there.
    """

    to: int
    their_now: datetime
    leases: tuple[Lease, ...]
    acknowledged: tuple[str, ...] = ()
    story_until: int = 0


class Happened(msgspec.Struct, frozen=True):
    """Something happened to a VM."""

    vm_id: str
    event: Event


class Noted(msgspec.Struct, frozen=True):
    """Something that decides nothing, but belongs into a VM's story."""

    vm_id: str
    event: str
    sentence: str


class Ticked(msgspec.Struct, frozen=True):
    """Time passed."""


class Finishing(msgspec.Struct, frozen=True):
    """The agent is to stop: every VM is asked to leave."""

    reason: Reason


class HandingOver(msgspec.Struct, frozen=True):
    """The agent makes way for a newer one: nothing new is begun, and what runs goes on until it is found again."""

    reason: Reason


class Wished(msgspec.Struct, frozen=True):
    """The owner asks for something; None, or a wish to resume: for nothing any more."""

    wish: Wish | None


class Ruled(msgspec.Struct, frozen=True):
    """Another policy is in force; what runs obeys it at once."""

    policy: Policy


Input = Sensed | Told | Happened | Noted | Ticked | Finishing | HandingOver | Wished | Ruled


class Act(msgspec.Struct, frozen=True):
    """A command for the drivers of one VM. lease: of a VM that is known; accelerator: for DISTRUST."""

    vm_id: str
    command: Command
    lease: Lease | None = None
    accelerator: str = ""
