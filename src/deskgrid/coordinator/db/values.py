"""What the database keeps, as values."""

from datetime import datetime

import msgspec

COORDINATOR = "coordinator"
"""The source of the coordinator's own lines in a story; no desktop may be called so."""


class Member(msgspec.Struct, frozen=True):
    """An enrolled desktop. used: its credential has been used. credential_hash: SHA-256."""

    name: str
    credential_hash: str
    enrolled_at: datetime
    token_id: str
    used: bool
    revoked_at: datetime | None = None
    revoked_reason: str | None = None


class TokenRecord(msgspec.Struct, frozen=True):
    """An enrolment token without its secret."""

    id: str
    secret_hash: str
    made_at: datetime
    made_by: str
    expires_at: datetime
    uses_left: int
