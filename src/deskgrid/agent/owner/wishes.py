"""What the accounts of this computer ask of the grid, kept over a restart of the agent.

Rules:
- Every local account may make the grid stop: `pause` (nothing runs) or `finish` (nothing new starts).
- Only the account that said a wish, root, and the agent's own account may take it back before it ends by itself.
- Each account has one wish; its newest counts. Of all that stand, a pause goes before a finish, and what lasts longer
  before what ends sooner: so nobody's wish can be shortened by somebody else's.
- A file that cannot be read counts as a pause whose owner is not known: only root and the agent's account end it.
- `decide` is pure; `WishBook` keeps its values in a file.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from deskgrid.host.system.files import write_atomic
from deskgrid.model.values.outside import read_json
from deskgrid.model.wish import Ask, Wish

MAX_ACCOUNTS = 64
"""Accounts that may have a wish at a time."""
NOBODY = -1
"""The uid behind a wish that could not be read: no account has it."""
ROOT = 0


class AccountWish(msgspec.Struct, frozen=True):
    """A wish, and the uid that said it."""

    uid: Annotated[int, msgspec.Meta(ge=-1, le=1 << 32)]
    wish: Wish


class Denied(Exception):
    """The account may not do this. The message says why and what it can do instead."""


def strongest(said: Sequence[AccountWish], now: datetime) -> AccountWish | None:
    """Of the wishes that stand at `now`, the one that the grid obeys."""

    def weight(one: AccountWish) -> tuple[bool, bool, float]:
        until = one.wish.until
        return one.wish.ask is Ask.PAUSE, until is None, until.timestamp() if until else 0.0

    return max(standing(said, now), key=weight, default=None)


def standing(said: Sequence[AccountWish], now: datetime) -> tuple[AccountWish, ...]:
    """The wishes that have not ended by themselves."""
    return tuple(one for one in said if one.wish.until is None or one.wish.until > now)


def decide(said: Sequence[AccountWish], uid: int, wish: Wish, agent_uid: int, now: datetime) -> tuple[AccountWish, ...]:
    """What stands after `uid` has said `wish`.

    Args: agent_uid: the agent's own account, which may take everything back, as root may.
    Raises: Denied: another account's wish stands, and it is not theirs to take back; or too many have one.
    """
    others = tuple(one for one in standing(said, now) if one.uid != uid)
    own = len(others) < len(standing(said, now))
    if wish.ask is not Ask.RESUME:
        if len(others) >= MAX_ACCOUNTS:
            raise Denied(f"{MAX_ACCOUNTS} accounts have asked the grid to stop already; it does.")
        return (*others, AccountWish(uid, wish))
    if uid in (ROOT, agent_uid):
        return ()
    if others and not own:
        raise Denied(f"{_whose(others)} Only that account or an administrator can take it back.")
    return others


def _whose(others: Sequence[AccountWish]) -> str:
    if any(one.uid == NOBODY for one in others):
        return "The file that keeps such wishes could not be read, so the grid stays paused."
    names = ", ".join(sorted({one.wish.by for one in others}))
    return f"It was {names} who asked the grid to stop."


class WishBook:
    """`wish.json` in the agent's state folder.

    Args: agent_uid: who may take everything back, beside root.
    """

    def __init__(self, path: Path, agent_uid: int, now: datetime) -> None:
        self._path, self.agent_uid = path, agent_uid
        self.fault = ""
        self.said = self._read(now)

    def say(self, uid: int, wish: Wish, now: datetime) -> None:
        """Take a wish in. Raises: Denied."""
        after = decide(self.said, uid, wish, self.agent_uid, now)
        if after == self.said:
            return
        self.said, self.fault = after, ""
        self._write()

    def strongest(self, now: datetime) -> Wish | None:
        """What the grid obeys at `now`; None: nobody has asked for anything."""
        said = strongest(self.said, now)
        return said.wish if said else None

    def _read(self, now: datetime) -> tuple[AccountWish, ...]:
        try:
            return read_json(self._path.read_bytes(), type=tuple[AccountWish, ...])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
            what = error.strerror if isinstance(error, OSError) else "damaged"
            self.fault = (
                f"{self._path}: cannot be read ({what}), so the grid stays paused; an administrator ends that with "
                "`deskgrid resume`"
            )
            return (AccountWish(NOBODY, Wish(Ask.PAUSE, "a file that could not be read", now)),)

    def _write(self) -> None:
        try:
            write_atomic(self._path, msgspec.json.encode(self.said), 0o600)
        except OSError as error:
            self.fault = (
                f"{self._path}: cannot be written ({error.strerror}); what was asked holds until the agent restarts"
            )
