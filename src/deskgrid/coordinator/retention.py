"""Nothing is kept for ever: what ended long ago leaves the database, a little at a time.

Rules:
- Leases with their stories, tokens that nobody can use and no desktop came by, and inventories of revoked desktops go
  after `keep_days`; lines of audit after `audit_days`. Enrolled and revoked desktops stay.
- Each bite is a short transaction, so nobody waits long. What it freed is given back to the file system.
- The newest line of all stories stays, so that their numbers go on growing.
"""

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta

import sqlalchemy as sa

from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db import database as db

log = logging.getLogger(__name__)

_EVERY_SECONDS = 3600.0
_PAUSE_SECONDS = 0.2
_BITE = 100
_PAGES = 500


def prune(connection: sa.Connection, kept_since: datetime, audit_since: datetime, bite: int = _BITE) -> int:
    """Remove a bite of what is older. Returns: how many rows went; 0 when nothing is left to do."""
    return (
        _leases(connection, kept_since, bite)
        + _tokens(connection, kept_since)
        + _inventories(connection, kept_since)
        + _audit(connection, audit_since, bite)
    )


def shrink(connection: sa.Connection) -> bool:
    """Give some free pages of SQLite's file back. Returns whether there are more."""
    free: int = connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0
    for _ in range(min(free, _PAGES)):  # Python's driver takes one step of the statement, which frees one page
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return free > _PAGES


def _leases(connection: sa.Connection, since: datetime, bite: int) -> int:
    lease, line = db.leases.c, db.story.c
    chosen = sa.select(lease.vm_id).where(lease.ended_at < since).order_by(lease.ended_at).limit(bite)
    gone = list(connection.execute(chosen).scalars())
    if not gone:
        return 0
    newest = sa.select(sa.func.max(line.id)).scalar_subquery()
    connection.execute(db.story.delete().where(line.vm_id.in_(gone), line.id < newest))
    return connection.execute(db.leases.delete().where(lease.vm_id.in_(gone))).rowcount


def _tokens(connection: sa.Connection, since: datetime) -> int:
    token = db.tokens.c
    named = sa.select(db.desktops.c.token_id)
    return connection.execute(db.tokens.delete().where(token.expires_at < since, token.id.not_in(named))).rowcount


def _inventories(connection: sa.Connection, since: datetime) -> int:
    left = sa.select(db.desktops.c.name).where(db.desktops.c.revoked_at < since)
    return connection.execute(db.inventories.delete().where(db.inventories.c.desktop.in_(left))).rowcount


def _audit(connection: sa.Connection, since: datetime, bite: int) -> int:
    c = db.audit.c
    gone = list(connection.execute(sa.select(c.id).where(c.at < since).order_by(c.id).limit(bite)).scalars())
    return connection.execute(db.audit.delete().where(c.id.in_(gone))).rowcount if gone else 0


async def prune_all(coordinator: Coordinator, stopping: asyncio.Event | None = None) -> int:
    """Remove all that is old, bite by bite, or stop. Returns: how many rows went. Raises: SQLAlchemyError."""
    stopping = stopping or asyncio.Event()
    settings, now, removed = coordinator.settings, coordinator.clock(), 0
    since, audit = now - timedelta(days=settings.keep_days), now - timedelta(days=settings.audit_days)
    while not stopping.is_set() and (bite := await coordinator.recorder.call(lambda c: prune(c, since, audit))):
        removed += bite
        await asyncio.sleep(_PAUSE_SECONDS)
    shrinks = removed and coordinator.recorder.shrinks
    while shrinks and not stopping.is_set() and await coordinator.recorder.call(shrink):
        await asyncio.sleep(_PAUSE_SECONDS)
    return removed


async def keep_small(coordinator: Coordinator, stopping: asyncio.Event, every_seconds: float = _EVERY_SECONDS) -> None:
    """Every hour, until told to stop; a database that refuses is tried again."""
    while not stopping.is_set():
        try:
            await coordinator.inventories.write(coordinator.recorder)
            if removed := await prune_all(coordinator, stopping):
                log.info("database: removed %d rows that were older than the settings keep", removed)
        except sa.exc.SQLAlchemyError as error:
            log.error("database: what is old can't be removed now, tried again: %s", error)
        except Exception:
            log.exception("database: removing what is old failed; it is tried again")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_seconds):
                await stopping.wait()
