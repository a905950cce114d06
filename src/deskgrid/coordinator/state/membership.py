"""Who belongs to the grid: enrolment tokens, desktops' credentials, and their end.

Rules:
- A token is limited in time and count; each use is counted in the same transaction that enrols.
- A desktop's name is taken while its credential is in use. An answer that was lost does no harm: the same desktop may
  ask again with the same token as long as it has not used a credential. That costs a use too; a token that is used up
  has REPEATS more for it. A token that was revoked has none.
- A revoked desktop comes back only with a token that was made after its end.
- Refusals do not tell which part of a token was wrong.
- What can be refused is refused from memory; the transaction decides again, with what it finds.
- Revocation wins every race: it sets its columns where they are empty, and nothing else ever writes them but an
  enrolment that makes the desktop anew.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.values import Member, TokenRecord
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state.credentials import TOKEN_PREFIX, digest, new_id, new_secret, proves, token_parts
from deskgrid.model.values.text import counted
from deskgrid.wire.messages import Enrol, Enrolled

RESERVED = ("coordinator", "operator")
"""Names that mean the service itself in stories and audit."""


REPEATS = 3
"""So often is a token that is used up answered again to desktops that it has enrolled, in all."""


def make_token(
    connection: sa.Connection, lifetime_seconds: float, uses: int, who: str, now: datetime
) -> tuple[str, TokenRecord]:
    """Make an enrolment token. Returns: the token, to be said once, and what is kept of it."""
    token_id, secret = new_id(), new_secret()
    record = TokenRecord(token_id, digest(secret), now, who, now + timedelta(seconds=lifetime_seconds), uses)
    queries.add_token(connection, record)
    queries.note(
        connection,
        who,
        f"made enrolment token {token_id} for {counted(uses, 'use')} until {record.expires_at:%F %T}",
        now,
    )
    return f"{TOKEN_PREFIX}_{token_id}_{secret}", record


def enrol(connection: sa.Connection, request: Enrol, now: datetime) -> tuple[Enrolled, Member]:
    """Make a desktop a member.

    Raises:
        RequestRefused: when the token is unknown, expired or used up, or the name is taken.
    """
    parts = token_parts(request.token)
    token = queries.token(connection, parts[0]) if parts else None
    before = queries.member(connection, request.desktop)
    token, again = check(token, before, request, now)
    if not queries.use_token(connection, token.id, now, -REPEATS if again else 0):
        raise _used_up()
    credential = new_secret()
    member = Member(request.desktop, digest(credential), now, token.id, used=False)
    queries.save_member(connection, member)
    if not again:
        queries.note(connection, request.desktop, f"enrolled with token {token.id}", now)
    return Enrolled(request.desktop, credential), member


def check(token: TokenRecord | None, before: Member | None, request: Enrol, now: datetime) -> tuple[TokenRecord, bool]:
    """Whether a request to enrol may succeed.

    Args:
        token: the record that the request's token names. before: who has the name.

    Returns: the token's record, and whether the same desktop asks again.
    Raises: RequestRefused.
    """
    parts = token_parts(request.token)
    if parts is None or token is None or not proves(parts[1], token.secret_hash):
        raise RequestRefused(
            403, "token-unknown", "This enrolment token is not known here; ask the grid's operator for a new one."
        )
    if request.desktop in RESERVED:
        raise RequestRefused(409, "name-reserved", f"{request.desktop} means the service itself; choose another name.")
    again = before is not None and before.token_id == token.id and not before.used and before.revoked_at is None
    if not again:
        _check_name(before, token, request.desktop)
    if token.expires_at <= now:
        raise _expired(token)
    if token.uses_left <= (-REPEATS if again else 0):
        raise _used_up()
    return token, again


def revoke_token(connection: sa.Connection, token_id: str, reason: str, who: str, now: datetime) -> TokenRecord | None:
    """End an enrolment token; who enrolled with it stays. Returns: what is kept of it; None: it is over, or unknown."""
    if not queries.end_token(connection, token_id, now):
        return None
    queries.note(connection, who, f"revoked enrolment token {token_id}: {reason}", now)
    return queries.token(connection, token_id)


def first_use(connection: sa.Connection, member: Member) -> Member | None:
    """The desktop has used its credential: from now on its name is taken. Returns: what is kept of it now."""
    queries.mark_used(connection, member)
    return queries.member(connection, member.name)


def revoke(connection: sa.Connection, name: str, reason: str, who: str, now: datetime) -> Member | None:
    """Take a desktop's membership away. Returns: what is kept of it now; None when it was taken away before."""
    if not queries.mark_revoked(connection, name, reason, now):
        return None
    queries.note(connection, who, f"revoked desktop {name}: {reason}", now)
    return queries.member(connection, name)


def _check_name(before: Member | None, token: TokenRecord, name: str) -> None:
    if before is None:
        return
    if before.revoked_at is None:
        raise RequestRefused(
            409,
            "name-taken",
            f"A desktop named {name} is enrolled already; choose another name, or let the operator revoke it first.",
        )
    if token.made_at <= before.revoked_at:
        raise RequestRefused(
            403, "desktop-revoked", f"{name} was revoked; the operator must make a new enrolment token for it."
        )


def _used_up() -> RequestRefused:
    return RequestRefused(
        403, "token-used-up", "This enrolment token is used up; ask the grid's operator for a new one."
    )


def _expired(token: TokenRecord) -> RequestRefused:
    return RequestRefused(
        403,
        "token-expired",
        f"This enrolment token expired on {token.expires_at:%F at %T} UTC; ask the grid's operator for a new one.",
    )
