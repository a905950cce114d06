"""What is known when the policy is asked: one value, so that every decision sees the same."""

from datetime import UTC, datetime

import msgspec

from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish


class Waits(msgspec.Struct, frozen=True):
    """What is remembered for pacing, as seconds until now. None: for ever. fraction: of the offset (0 to 1)."""

    clear_seconds: float | None = None
    started_seconds: float | None = None
    loaded: bool = False
    fraction: float = 0.0


class Facts(msgspec.Struct, frozen=True):
    """All that a decision is made from.

    local: now on the wall, in the calendar's zone (aware). faults: what makes the desktop unfit whatever its owner
    does, such as a missing hypervisor. wish: what the owner asked for. waits: what is remembered of before.
    """

    reading: Reading
    machine: Machine
    local: datetime
    faults: tuple[Reason, ...] = ()
    wish: Wish | None = None
    waits: Waits = Waits()


def asked(facts: Facts) -> Wish | None:
    """The wish that holds now: neither taken back nor over."""
    wish = facts.wish
    if wish is None or wish.ask is Ask.RESUME:
        return None
    over = wish.until is not None and wish.until <= facts.local.astimezone(UTC)
    return None if over else wish


class Question(msgspec.Struct, frozen=True):
    """What every check is asked: may a further VM start (`starting`), or may those that are here run on?"""

    policy: Policy
    facts: Facts
    starting: bool = True


class No(msgspec.Struct, frozen=True):
    """A check's answer when it refuses: as in `Reason`, which the refusal's row makes of it."""

    sentence: str
    reading: str = ""
    until: datetime | None = None
