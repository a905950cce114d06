"""What the database keeps, as values."""

from datetime import datetime

import msgspec

from deskgrid.model.inventory import Inventory

COORDINATOR = "coordinator"
"""The source of the coordinator's own lines in a story; no desktop may be called so."""


class StoryLine(msgspec.Struct, frozen=True):
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
