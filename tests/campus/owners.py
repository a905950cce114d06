"""People at desktops: when they come, for how long they sit, when they go home.

Idle gaps are Weibull with shape 0.5, as measured in a public computer laboratory: the longer a gap has lasted, the
longer it will last. By day the median is 4 minutes, at night hours. Nobody is simulated who always behaves.
"""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

import msgspec

from deskgrid.presence.fake import PRESENT, Owner

ZONE = ZoneInfo("Europe/Berlin")
SHAPE = 0.5
DAY_SCALE_SECONDS = 500.0
"""Gives gaps by day a median of 4 minutes."""
LOCKED = Owner(logged_in=True, idle_seconds=0.0)
LOGGED_OUT = Owner(logged_in=False, idle_seconds=0.0)


class Kind(Enum):
    """office: one person, who stays logged in by day. lab: many people, who mostly log out when they go."""

    OFFICE = "office"
    LAB = "lab"


class Move(msgspec.Struct, frozen=True):
    """From `at` on the owner does this."""

    at: datetime
    owner: Owner


def moves(rng: random.Random, kind: Kind, begin: datetime, days: int) -> Iterator[Move]:
    """All that happens at one desktop, in order (aware UTC)."""
    first = begin.astimezone(ZONE).date()
    for number in range(days + 1):
        day = datetime.combine(first + timedelta(days=number), datetime.min.time(), ZONE)
        if day.weekday() < 5 or rng.random() < 0.1:
            yield from _day(rng, kind, day, begin)


def _day(rng: random.Random, kind: Kind, day: datetime, begin: datetime) -> Iterator[Move]:
    comes = day.replace(hour=8) + timedelta(seconds=rng.gauss(1800, 2400))
    goes = day.replace(hour=17) + timedelta(seconds=rng.gauss(0, 3600))
    if kind is Kind.LAB:
        comes, goes = comes + timedelta(hours=1), goes + timedelta(hours=3)
    at = comes.astimezone(begin.tzinfo)
    end = goes.astimezone(begin.tzinfo)
    while at < end:
        if at > begin:
            yield Move(at, PRESENT)
        at += timedelta(seconds=rng.expovariate(1 / 900) + 5)
        last = at >= end
        out = rng.random() < (0.7 if kind is Kind.LAB or last else 0.02)
        if at > begin:
            yield Move(at, LOGGED_OUT if out else LOCKED)
        at += timedelta(seconds=rng.weibullvariate(DAY_SCALE_SECONDS, SHAPE) + 1)
