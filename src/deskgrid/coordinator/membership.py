"""Who belongs to the grid: enrolment tokens, desktops' credentials, and their end.

Rules, told first:
- A token is limited in time and count; each use is counted in the same transaction that enrols.
- A desktop's name is taken while its credential is in use. An answer that was lost does no harm: the same desktop may
  ask again with the same token as long as it has not used a credential.
- A revoked desktop comes back only with a token that was made after its end.
- Refusals do not tell which part of a token was wrong.
"""

from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator import records
from deskgrid.coordinator.credentials import TOKEN_PREFIX, digest, new_id, new_secret, proves, token_parts
from deskgrid.coordinator.kept import Member, TokenRecord
from deskgrid.coordinator.problems import Refusal
from deskgrid.model.counted import counted
from deskgrid.wire.messages import Enrol, Enrolled

RESERVED = ("coordinator", "operator")
"""Names that mean the service itself in stories and audit."""


def make_token(
    connection: sa.Connection, lifetime_seconds: float, uses: int, who: str, now: datetime
) -> tuple[str, TokenRecord]:
    """Make an enrolment token. Returns: the token, to be said once, and what is kept of it."""
    token_id, secret = new_id(), new_secret()
    record = TokenRecord(token_id, digest(secret), now, who, now + timedelta(seconds=lifetime_seconds), uses)
    records.add_token(connection, record)
    records.note(
        connection,
        who,
        f"made enrolment token {token_id} for {counted(uses, 'use')} until {record.expires_at:%F %T}",
        now,
    )
    return f"{TOKEN_PREFIX}_{token_id}_{secret}", record


def enrol(connection: sa.Connection, request: Enrol, now: datetime) -> tuple[Enrolled, Member]:
    """Make a desktop a member.

    Raises:
        Refusal: when the token is unknown, expired or used up, or the name is taken.
    """
    token = _known(connection, request.token)
    if request.desktop in RESERVED:
        raise Refusal(409, "name-reserved", f"{request.desktop} means the service itself; choose another name.")
    before = next((m for m in records.members(connection) if m.name == request.desktop), None)
    again = before is not None and before.token_id == token.id and not before.used and before.revoked_at is None
    if not again:
        _check_name(before, token, request.desktop)
        _use(connection, token, now)
    elif token.expires_at <= now:
        raise _expired(token)
    credential = new_secret()
    member = Member(request.desktop, digest(credential), now, token.id, used=False)
    records.save_member(connection, member)
    records.note(connection, request.desktop, f"enrolled with token {token.id}", now)
    return Enrolled(request.desktop, credential), member


def first_use(connection: sa.Connection, member: Member) -> Member:
    """The desktop has used its credential: from now on its name is taken."""
    used = msgspec.structs.replace(member, used=True)
    records.save_member(connection, used)
    return used


def revoke(connection: sa.Connection, member: Member, reason: str, who: str, now: datetime) -> Member:
    """Take a desktop's membership away."""
    gone = msgspec.structs.replace(member, revoked_at=now, revoked_reason=reason)
    records.save_member(connection, gone)
    records.note(connection, who, f"revoked desktop {member.name}: {reason}", now)
    return gone


def _known(connection: sa.Connection, text: str) -> TokenRecord:
    parts = token_parts(text)
    token = records.token(connection, parts[0]) if parts else None
    if parts is None or token is None or not proves(parts[1], token.secret_hash):
        raise Refusal(
            403,
            "token-unknown",
            "This enrolment token is not known here; ask the grid's operator for a new one.",
            guess=True,
        )
    return token


def _check_name(before: Member | None, token: TokenRecord, name: str) -> None:
    if before is None:
        return
    if before.revoked_at is None:
        raise Refusal(
            409,
            "name-taken",
            f"A desktop named {name} is enrolled already; choose another name, or let the operator revoke it first.",
        )
    if token.made_at <= before.revoked_at:
        raise Refusal(
            403, "desktop-revoked", f"{name} was revoked; the operator must make a new enrolment token for it."
        )


def _use(connection: sa.Connection, token: TokenRecord, now: datetime) -> None:
    if token.expires_at <= now:
        raise _expired(token)
    if not records.use_token(connection, token.id, now):
        raise Refusal(403, "token-used-up", "This enrolment token is used up; ask the grid's operator for a new one.")


def _expired(token: TokenRecord) -> Refusal:
    return Refusal(
        403,
        "token-expired",
        f"This enrolment token expired on {token.expires_at:%F at %T} UTC; ask the grid's operator for a new one.",
    )
