"""What the database keeps, as values."""

from datetime import datetime

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.inventory import Inventory
from deskgrid.model.lease import Lease
from deskgrid.model.plan import Outcome, Spent
from deskgrid.model.reason import Reason

COORDINATOR = "coordinator"
"""The source of the coordinator's own lines in a story; no desktop may be called so."""


class Line(msgspec.Struct, frozen=True):
    """One line of a VM's story.

    at: when, by the coordinator's clock. told_at: as its source told it. source: "coordinator" or a desktop's name.
    state: the VM's state after it. id: its number, growing; 0 while it is not recorded.
    """

    vm_id: str
    at: datetime
    told_at: datetime
    source: str
    state: str
    event: str
    sentence: str
    id: int = 0


class LeaseRecord(msgspec.Struct, frozen=True):
    """A lease with all that became of it. end: why it ended or was withdrawn. shown_at: its desktop had taken it."""

    lease: Lease
    shown_at: datetime | None = None
    joined_at: datetime | None = None
    claimed: bool = False
    accelerator: str = ""
    withdrawn_at: datetime | None = None
    ended_at: datetime | None = None
    end: Reason | None = None
    fault: Fault = Fault.NONE
    forgotten_at: datetime | None = None


class Member(msgspec.Struct, frozen=True):
    """An enrolled desktop. used: its credential has been used. credential_hash: SHA-256."""

    name: str
    credential_hash: str
    enrolled_at: datetime
    token_id: str
    used: bool
    revoked_at: datetime | None = None
    revoked_reason: str | None = None


class DesktopInventory(msgspec.Struct, frozen=True):
    """What a desktop is made of, and when it said so."""

    desktop: str
    at: datetime
    inventory: Inventory


class TokenRecord(msgspec.Struct, frozen=True):
    """An enrolment token without its secret."""

    id: str
    secret_hash: str
    made_at: datetime
    made_by: str
    expires_at: datetime
    uses_left: int


def spent_of(record: LeaseRecord) -> Spent | None:
    """What came of a lease that has ended and had its VM; one that nobody took up says nothing."""
    lease, ended = record.lease, record.ended_at
    if ended is None or record.shown_at is None:
        return None
    return Spent(lease.image.name, lease.size, lease.desktop, ended, record.joined_at, record.claimed)


def outcomes_of(record: LeaseRecord) -> list[Outcome]:
    """What one lease says about its image and its desktop: joining is a success, ending unused by a fault a failure."""
    image, desktop = record.lease.image.name, record.lease.desktop
    found = []
    if record.joined_at is not None:
        found.append(Outcome(image, desktop, record.joined_at, True))
    ended = record.ended_at or record.withdrawn_at
    if ended is not None and record.fault is not Fault.NONE and not record.claimed:
        found.append(Outcome(image, desktop, ended, False, record.fault))
    return found
