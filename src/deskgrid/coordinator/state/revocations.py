"""A journal of revocations beside the database, so that restoring a backup of the database undoes none unseen.

Rules:
- A line is on the disk before the revocation is committed. Nothing is ever removed from it.
- At the start journal and database are compared: a desktop that the journal has as revoked, by the very credential that
  the database still holds good, is revoked again, an enrolment token likewise, and it is said. A desktop that only the
  database knows as revoked is added.
- When the whole state folder was restored, the journal is old too. Then desktops tell: every answer says how many
  revocations there were, every report how many its desktop has heard of. More than are here were undone.
- A damaged line is skipped and said; a journal that can't be written revokes nothing.
"""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.values import COORDINATOR, Member, TokenRecord
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.fleet import LastReport
from deskgrid.model.values.outside import JsonReader
from deskgrid.model.values.text import counted

FILE = "revocations.log"


class Revoked(msgspec.Struct, frozen=True):
    """One line: a desktop and the hash of its credential, which is void since, or an enrolment token's id."""

    at: datetime
    reason: str
    desktop: str = ""
    credential_hash: str = ""
    token: str = ""

    @property
    def what(self) -> str:
        """The desktop, or the token."""
        return self.desktop or f"enrolment token {self.token}"


_LINE = JsonReader(Revoked)


class Journal:
    """The journal in a file. again: what was revoked again at the start, since a backup had undone it."""

    def __init__(self, path: Path | None = None) -> None:
        """Read it; without a path there is none but in memory. Raises: OSError."""
        self._path = path
        self.entries: list[Revoked] = []
        self.again: tuple[str, ...] = ()
        self.damaged = 0
        for line in path.read_bytes().splitlines() if path is not None and path.exists() else ():
            try:
                self.entries.append(_LINE.decode(line))
            except msgspec.DecodeError:
                self.damaged += 1

    def __len__(self) -> int:
        """How many revocations there ever were."""
        return len(self.entries) + self.damaged

    def add(self, revoked: Revoked) -> None:
        """Write a line through to the disk. Raises: OSError."""
        if self._path is not None:
            with open(self._path, "a+b", opener=_private) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                torn = file.read(1) not in (b"", b"\n")  # the power went while the last line was written
                file.write(b"\n" * torn + msgspec.json.encode(revoked) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self.entries.append(revoked)

    def compare(self, connection: sa.Connection, now: datetime) -> None:
        """Bring journal and database together; what either knows as revoked is. Raises: OSError."""
        here = {(one.desktop, one.credential_hash): one for one in self.entries if one.desktop}
        again = [
            one.what
            for one in self.entries
            if one.token and membership.revoke_token(connection, one.token, one.reason, COORDINATOR, now)
        ]
        for member in queries.members(connection):
            known = here.get((member.name, member.credential_hash))
            if member.revoked_at is not None and known is None:
                self.add(_line(member))
            elif member.revoked_at is None and known is not None:
                membership.revoke(connection, member.name, known.reason, COORDINATOR, now)
                again.append(member.name)
        self.again = tuple(again)

    def revoke(self, connection: sa.Connection, name: str, reason: str, who: str, now: datetime) -> Member | None:
        """Revoke a desktop, in the journal first. Returns: as `membership.revoke`. Raises: RequestRefused."""
        member = membership.revoke(connection, name, reason, who, now)
        if member is not None:
            self._must_add(_line(member))
        return member

    def revoke_token(
        self, connection: sa.Connection, token_id: str, reason: str, who: str, now: datetime
    ) -> TokenRecord | None:
        """Revoke an enrolment token, in the journal first. Returns, raises: as `membership.revoke_token`."""
        over = membership.revoke_token(connection, token_id, reason, who, now)
        if over is not None:
            self._must_add(Revoked(now, reason, token=token_id))
        return over

    def _must_add(self, revoked: Revoked) -> None:
        try:
            self.add(revoked)
        except OSError as error:
            raise RequestRefused(
                503, "journal", f"Nothing was revoked: {self._path} can't be written ({error.strerror}); mend that."
            ) from None

    def problems(self, fleet: Iterable[LastReport]) -> tuple[str, ...]:
        """What a backup that was restored has undone, as far as it is known here."""
        found = []
        if self.again:
            found.append(
                "the database was restored from a backup that did not know of these revocations; they were made again: "
                + ", ".join(self.again)
            )
        if self.damaged:
            found.append(f"{self._path}: {counted(self.damaged, 'line')} can't be read; compare it with your notes")
        ahead = {one.name: one.report.revocations for one in fleet if one.report.revocations > len(self)}
        if ahead:
            last = self.entries[-1] if self.entries else None
            since = f"the last one here is of {last.what}, {last.at:%F %H:%M} UTC" if last else "none is here"
            names = ", ".join(sorted(ahead)[:5]) + (f" and {len(ahead) - 5} more" if len(ahead) > 5 else "")
            found.append(
                f"{counted(max(ahead.values()) - len(self), 'revocation')} may have been undone by restoring the state "
                f"folder: {since}, and {names} heard of more. Revoke them again (deskgrid desktop revoke, "
                "deskgrid token revoke)."
            )
        return tuple(found)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _line(member: Member) -> Revoked:
    assert member.revoked_at is not None
    return Revoked(member.revoked_at, member.revoked_reason or "", member.name, member.credential_hash)
