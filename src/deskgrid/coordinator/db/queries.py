"""What is asked of the database and written to it; each function runs inside one transaction of its caller."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator.db import database as db
from deskgrid.coordinator.db.values import COORDINATOR, Member, TokenRecord
from deskgrid.core.fleet.lease import LeaseRecord, state_of
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageRef
from deskgrid.model.inventory import Inventory
from deskgrid.model.lease import Lease, Size
from deskgrid.model.reason import Reason
from deskgrid.model.values.outside import read_json
from deskgrid.wire.operator import DesktopInventory, StoryLine

MOST_LEASES = 1000
"""Rows in one answer: all who need the database wait meanwhile."""
STORY_LINES = 500
"""A VM's story has no more lines; an ordinary one has some ten."""
_Told = tuple[datetime, str, str, str]


def members(connection: sa.Connection) -> list[Member]:
    """Every desktop that was ever enrolled."""
    return [Member(**row) for row in connection.execute(sa.select(db.desktops)).mappings()]


def member(connection: sa.Connection, name: str) -> Member | None:
    """One desktop."""
    row = connection.execute(sa.select(db.desktops).where(db.desktops.c.name == name)).mappings().first()
    return Member(**row) if row else None


def mark_used(connection: sa.Connection, member: Member) -> None:
    """A desktop has used this credential; nothing else about it is written."""
    c = db.desktops.c
    mine = (c.name == member.name, c.credential_hash == member.credential_hash)
    connection.execute(db.desktops.update().where(*mine).values(used=True))


def mark_revoked(connection: sa.Connection, name: str, reason: str, now: datetime) -> bool:
    """A desktop is revoked, if it was not. Returns whether it was not."""
    c = db.desktops.c
    living = (c.name == name, c.revoked_at.is_(None))
    revoke = db.desktops.update().where(*living).values(revoked_at=now, revoked_reason=reason)
    return connection.execute(revoke).rowcount == 1


def image_names(connection: sa.Connection) -> dict[str, str]:
    """The project that each name of an image belongs to."""
    c = db.image_names.c
    return {row[0]: row[1] for row in connection.execute(sa.select(c.name, c.project))}


def save_image_names(connection: sa.Connection, owners: Mapping[str, str], now: datetime) -> None:
    """Write to whom names belong, in place of what was known; each change is noted."""
    c, before = db.image_names.c, image_names(connection)
    for name in sorted(before.keys() | owners.keys()):
        project = owners.get(name)
        if project == before.get(name):
            continue
        connection.execute(db.image_names.delete().where(c.name == name))
        if project is not None:
            connection.execute(db.image_names.insert().values(name=name, project=project, since=now))
        to = f"belongs to project {project}" if project is not None else f"is free, project {before[name]} is no more"
        note(connection, COORDINATOR, f"image name {name} {to}", now)


def add_token(connection: sa.Connection, token: TokenRecord) -> None:
    """Keep a new enrolment token."""
    connection.execute(db.tokens.insert().values(**msgspec.structs.asdict(token)))


def tokens(connection: sa.Connection) -> list[TokenRecord]:
    """Every enrolment token that is kept."""
    return [TokenRecord(**row) for row in connection.execute(sa.select(db.tokens)).mappings()]


def token(connection: sa.Connection, token_id: str) -> TokenRecord | None:
    """Find an enrolment token."""
    row = connection.execute(sa.select(db.tokens).where(db.tokens.c.id == token_id)).mappings().first()
    return TokenRecord(**row) if row else None


def use_token(connection: sa.Connection, token_id: str, now: datetime, down_to: int = 0) -> bool:
    """Count one use, in one statement. Returns False when so few are left, or it has expired."""
    c = db.tokens.c
    use = (
        db.tokens.update()
        .where(c.id == token_id, c.uses_left > down_to, c.expires_at > now)
        .values(uses_left=c.uses_left - 1)
    )
    return connection.execute(use).rowcount == 1


def end_token(connection: sa.Connection, token_id: str, now: datetime) -> bool:
    """A token is over now. Returns False when it is so already."""
    c = db.tokens.c
    end = db.tokens.update().where(c.id == token_id, c.expires_at > now).values(expires_at=now)
    return connection.execute(end).rowcount == 1


def shift_tokens(connection: sa.Connection, by: timedelta) -> list[TokenRecord]:
    """Our clock was set by so much: every enrolment token ends when it would have ended."""
    c = db.tokens.c
    for known in tokens(connection):
        moved = {"made_at": known.made_at + by, "expires_at": known.expires_at + by}
        connection.execute(db.tokens.update().where(c.id == known.id).values(**moved))
    return tokens(connection)


def save_member(connection: sa.Connection, member: Member) -> None:
    """Add a desktop, or write what is new about it."""
    values = msgspec.structs.asdict(member)
    c = db.desktops.c
    if connection.execute(db.desktops.update().where(c.name == member.name).values(**values)).rowcount == 0:
        connection.execute(db.desktops.insert().values(**values))


def inventories(connection: sa.Connection) -> list[DesktopInventory]:
    """What desktops have said of themselves; what another version wrote and this one can't read is left out."""
    found = []
    for row in connection.execute(sa.select(db.inventories)).mappings():
        with contextlib.suppress(msgspec.DecodeError):
            content = read_json(row["content"], type=Inventory)
            found.append(DesktopInventory(row["desktop"], row["at"], content))
    return found


def save_inventories(connection: sa.Connection, said: Sequence[DesktopInventory]) -> None:
    """Write what desktops have said of themselves, in place of what they said before."""
    c = db.inventories.c
    for one in said:
        values = {"at": one.at, "content": msgspec.json.encode(one.inventory).decode()}
        known = connection.execute(db.inventories.update().where(c.desktop == one.desktop).values(**values)).rowcount
        if not known:
            connection.execute(db.inventories.insert().values(desktop=one.desktop, **values))


def note(connection: sa.Connection, who: str, what: str, now: datetime) -> None:
    """Write a line of audit."""
    connection.execute(db.audit.insert().values(at=now, who=who, what=what))


def write_leases(connection: sa.Connection, records: Sequence[LeaseRecord]) -> None:
    """Write leases as they are now, new ones and known ones."""
    update = db.leases.update().where(db.leases.c.vm_id == sa.bindparam("which"))
    for record in records:
        values = _lease_values(record)
        if not connection.execute(update, {"which": record.lease.vm_id, **values}).rowcount:
            connection.execute(db.leases.insert(), values)


def live_leases(connection: sa.Connection) -> list[LeaseRecord]:
    """The leases that have not ended."""
    chosen = sa.select(db.leases).where(db.leases.c.ended_at.is_(None)).order_by(db.leases.c.granted_at)
    return [_lease_record(row) for row in connection.execute(chosen).mappings()]


def ended_leases(connection: sa.Connection, since: datetime, limit: int) -> list[LeaseRecord]:
    """The leases that ended since a time, newest first."""
    c = db.leases.c
    chosen = sa.select(db.leases).where(c.ended_at >= since).order_by(c.ended_at.desc()).limit(limit)
    return [_lease_record(row) for row in connection.execute(chosen).mappings()]


def leases(connection: sa.Connection, desktop: str | None, limit: int) -> list[LeaseRecord]:
    """Leases, living and ended, newest first, at most MOST_LEASES; of one desktop or of all."""
    c = db.leases.c
    chosen = sa.select(db.leases).order_by(c.granted_at.desc(), c.vm_id.desc()).limit(min(limit, MOST_LEASES))
    if desktop is not None:
        chosen = chosen.where(db.leases.c.desktop == desktop)
    return [_lease_record(row) for row in connection.execute(chosen).mappings()]


def lease(connection: sa.Connection, vm_id: str) -> LeaseRecord | None:
    """Find one lease."""
    row = connection.execute(sa.select(db.leases).where(db.leases.c.vm_id == vm_id)).mappings().first()
    return _lease_record(row) if row else None


def recent_leases(connection: sa.Connection, since: datetime, limit: int) -> list[LeaseRecord]:
    """The leases that were granted since a time, newest first."""
    c = db.leases.c
    chosen = sa.select(db.leases).where(c.granted_at >= since).order_by(c.granted_at.desc()).limit(limit)
    return [_lease_record(row) for row in connection.execute(chosen).mappings()]


def write_story(connection: sa.Connection, lines: Sequence[StoryLine]) -> list[StoryLine]:
    """Write lines that are not there yet; a desktop's only to the stories of its own VMs.

    A story that has STORY_LINES lines gets none but the coordinator's own, which are few.

    Returns: the lines that were written, with their numbers.
    """
    known: dict[str, tuple[str | None, set[_Told]]] = {}
    written = []
    for line in lines:
        if line.vm_id not in known:
            known[line.vm_id] = _known_story(connection, line.vm_id)
        desktop, told = known[line.vm_id]
        key = (line.told_at, line.source, line.state, line.event)
        if key in told or line.source not in (COORDINATOR, desktop):
            continue
        if len(told) >= STORY_LINES and line.source != COORDINATOR:
            continue
        told.add(key)
        values = msgspec.structs.asdict(line)
        del values["id"]
        made = connection.execute(db.story.insert(), values).inserted_primary_key
        written.append(msgspec.structs.replace(line, id=made[0] if made else 0))
    return written


def _known_story(connection: sa.Connection, vm_id: str) -> tuple[str | None, set[_Told]]:
    """The desktop that a VM was ordered for, and the lines that are there."""
    c = db.story.c
    rows = connection.execute(sa.select(c.told_at, c.source, c.state, c.event).where(c.vm_id == vm_id))
    told = {(row[0], row[1], row[2], row[3]) for row in rows}
    return connection.execute(sa.select(db.leases.c.desktop).where(db.leases.c.vm_id == vm_id)).scalar(), told


def story(connection: sa.Connection, vm_id: str) -> list[StoryLine]:
    """A VM's story in the order of time."""
    c = db.story.c
    rows = connection.execute(sa.select(db.story).where(c.vm_id == vm_id).order_by(c.at, c.id)).mappings()
    return [StoryLine(**row) for row in rows]


def story_since(connection: sa.Connection, number: int, limit: int) -> list[StoryLine]:
    """Lines of all stories that were recorded after line `number`."""
    c = db.story.c
    rows = connection.execute(sa.select(db.story).where(c.id > number).order_by(c.id).limit(limit)).mappings()
    return [StoryLine(**row) for row in rows]


def last_line(connection: sa.Connection) -> int:
    """The number of the newest line; 0 when there is none."""
    return connection.execute(sa.select(sa.func.max(db.story.c.id))).scalar() or 0


def _lease_values(record: LeaseRecord) -> dict[str, Any]:
    lease = record.lease
    return {
        "vm_id": lease.vm_id,
        "desktop": lease.desktop,
        "image": lease.image.name,
        "digest": lease.image.digest,
        "cpus": lease.size.cpus,
        "memory_bytes": lease.size.memory_bytes,
        "granted_at": lease.granted_at,
        "until": lease.until,
        "reason_name": lease.reason.name,
        "reason_sentence": lease.reason.sentence,
        "reason_reading": lease.reason.reading,
        "ordered_at": record.ordered_at,
        "shown_at": record.shown_at,
        "joined_at": record.joined_at,
        "claimed": record.claimed,
        "accelerator": record.accelerator,
        "withdrawn_at": record.withdrawn_at,
        "ended_at": record.ended_at,
        "end_name": record.end.name if record.end else "",
        "end_sentence": record.end.sentence if record.end else "",
        "fault": record.fault.value,
        "forgotten_at": record.forgotten_at,
    }


def _lease_record(row: Any) -> LeaseRecord:
    reason = Reason(row["reason_name"], row["reason_sentence"], row["reason_reading"])
    record = LeaseRecord(
        lease=Lease(
            row["vm_id"],
            row["desktop"],
            ImageRef(row["image"], row["digest"]),
            Size(row["cpus"], row["memory_bytes"]),
            row["granted_at"],
            row["until"],
            reason,
        ),
        shown_at=row["shown_at"],
        joined_at=row["joined_at"],
        claimed=row["claimed"],
        accelerator=row["accelerator"],
        withdrawn_at=row["withdrawn_at"],
        ended_at=row["ended_at"],
        end=Reason(row["end_name"], row["end_sentence"]) if row["end_name"] else None,
        fault=Fault(row["fault"]),
        forgotten_at=row["forgotten_at"],
        ordered_at=row["ordered_at"],
    )
    return msgspec.structs.replace(record, state=state_of(record))
