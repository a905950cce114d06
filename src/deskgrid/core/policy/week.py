"""Which hours of a week would a desktop give? Asked of the very functions that decide, minute by minute.

Rules:
- The desktop is taken to be idle, healthy and ample: what is left is what the calendar refuses. It is the most that a
  week can give, not what it will.
- When somebody is logged in is said by hours such as "Mon-Fri 08:30-17:30"; without any, nobody is.
- Days are local days: on the day of winter time there are 25 hours, and one hour of the drawing holds two.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo

import msgspec

from deskgrid.core.policy.availability import availability
from deskgrid.core.policy.facts import Facts
from deskgrid.core.policy.hours import closed
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.model.presence import Reading

AMPLE = Machine(64, 1024 * GIB, 1024 * GIB, 1024 * GIB, up_seconds=7 * 86400.0, metered=False, wireless=False)
IDLE_SECONDS = 8 * 86400.0
SLOTS = 48
"""Half hours of a day."""
_MINUTE = timedelta(minutes=1)


class Slot(msgspec.Struct, frozen=True):
    """Half an hour on the wall. minutes: that there are (0 where the clocks skip it). given: of these.

    refusal: the name of what refuses most of the others, if any.
    """

    minutes: int = 0
    given: int = 0
    refusal: str = ""


class Day(msgspec.Struct, frozen=True):
    """A local day, in half hours."""

    date: date
    slots: tuple[Slot, ...]

    @property
    def hours(self) -> float:
        """Hours that it gives."""
        return sum(slot.given for slot in self.slots) / 60


def days(policy: Policy, logged_in: Sequence[str], begin: date, count: int, zone: tzinfo) -> tuple[Day, ...]:
    """Ask for every minute of some days.

    Args:
        policy: what is tried. logged_in: hours in which somebody is logged in. begin: the first local day.
        zone: the calendar's.
    """
    return tuple(_day(policy, logged_in, begin + timedelta(days=number), zone) for number in range(count))


def _day(policy: Policy, logged_in: Sequence[str], day: date, zone: tzinfo) -> Day:
    at = datetime.combine(day, datetime.min.time(), zone).astimezone(UTC)
    end = datetime.combine(day + timedelta(days=1), datetime.min.time(), zone).astimezone(UTC)
    counted: list[dict[str, int]] = [{} for _ in range(SLOTS)]
    while at < end:
        local = at.astimezone(zone)
        slot = counted[local.hour * 2 + local.minute // 30]
        name = _refusal(policy, logged_in, local)
        slot[name] = slot.get(name, 0) + 1
        at += _MINUTE
    return Day(day, tuple(_slot(slot) for slot in counted))


def _refusal(policy: Policy, logged_in: Sequence[str], local: datetime) -> str:
    here = closed(logged_in, local) is not None
    reading = Reading(here, IDLE_SECONDS)
    refusals = availability(policy, Facts(reading, AMPLE, local)).refusals
    return refusals[0].name if refusals else ""


def _slot(counted: dict[str, int]) -> Slot:
    refusals = {name: minutes for name, minutes in counted.items() if name}
    most = max(refusals, key=lambda name: (refusals[name], name)) if refusals else ""
    return Slot(sum(counted.values()), counted.get("", 0), most)
