"""What comes in to an agent's decisions, and what goes out: between `core/desktop/advance.py` and the agent's loop."""

from datetime import datetime
from typing import TypeAlias

import msgspec

from deskgrid.core.commands import Command
from deskgrid.core.events import Happened
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish


class Sensed(msgspec.Struct, frozen=True, tag=True):
    """Presence and resources were read. local: now in the desktop's time zone. faults: see `availability`."""

    reading: Reading
    machine: Machine
    local: datetime
    faults: tuple[Reason, ...] = ()


class Ordered(msgspec.Struct, frozen=True, tag=True):
    """The coordinator answered a report: all that should run here.

    their_now: its clock. to: the sequence of the report that it answers. story_until: so many lines of story, counted
    from the agent's start, are recorded there.
    """

    to: int
    their_now: datetime
    leases: tuple[Lease, ...]
    acknowledged: tuple[str, ...] = ()
    story_until: int = 0


class Ticked(msgspec.Struct, frozen=True, tag=True):
    """Time passed."""


class Finishing(msgspec.Struct, frozen=True, tag=True):
    """The agent is to stop: every VM is asked to leave."""

    reason: Reason


class HandingOver(msgspec.Struct, frozen=True, tag=True):
    """The agent makes way for a newer one: nothing new begins, and what runs goes on until the newer one finds it.

    seconds: how long VMs wait for it.
    """

    seconds: float


class Wished(msgspec.Struct, frozen=True, tag=True):
    """The owner asks for something; None, or a wish to resume: for nothing any more."""

    wish: Wish | None


class Ruled(msgspec.Struct, frozen=True, tag=True):
    """Another policy is in force; what runs obeys it at once."""

    policy: Policy


class Doubted(msgspec.Struct, frozen=True, tag=True):
    """A trial on this computer found accelerators that are too slow, or hang."""

    accelerators: tuple[str, ...]


Input: TypeAlias = Sensed | Ordered | Happened | Ticked | Finishing | HandingOver | Wished | Ruled | Doubted


class Act(msgspec.Struct, frozen=True):
    """A command for the drivers. vm_id: its VM's; "": no VM's."""

    vm_id: str
    command: Command
