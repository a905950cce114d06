"""How starts went, as few as `core/fleet/health.py` needs: for each image on each desktop the last success and what
failed since; and what came of each desktop's last VMs, for `core/fleet/giving.py`.

What lies in the future was recorded while this computer's clock was ahead: it says nothing, and is forgotten, else
nothing would be tried again until then.
"""

from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.plan import Outcome, Spent

KEPT_DAYS = 7
AHEAD_SECONDS = 60.0
"""A clock that is set right is set back so far at most."""
_STREAK = 24
_LAST = 16


class Outcomes:
    """A bounded memory of outcomes. A success makes earlier failures of the same image on the same desktop moot."""

    def __init__(self, past: Iterable[Outcome] = ()) -> None:
        self._kept: dict[tuple[str, str], list[Outcome]] = {}
        for outcome in sorted(past, key=lambda o: o.at):
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Remember an outcome; one that is nobody's fault says nothing and is not kept."""
        key = (outcome.image, outcome.desktop)
        if outcome.ok:
            self._kept[key] = [outcome]
        elif outcome.fault is not Fault.NONE:
            streak = self._kept.setdefault(key, [])
            streak.append(outcome)
            if len(streak) > _STREAK:
                del streak[1 if streak[0].ok else 0]

    def shift(self, by: timedelta) -> None:
        """The clock was set by so much."""
        for key, streak in self._kept.items():
            self._kept[key] = [msgspec.structs.replace(outcome, at=outcome.at + by) for outcome in streak]

    def all(self, now: datetime) -> tuple[Outcome, ...]:
        """Everything that still counts, oldest first."""
        since, ahead = now - timedelta(days=KEPT_DAYS), now + timedelta(seconds=AHEAD_SECONDS)
        for key, streak in list(self._kept.items()):
            past = [outcome for outcome in streak if outcome.at <= ahead]
            if past and past[-1].at >= since:
                self._kept[key] = past
            else:
                del self._kept[key]
        return tuple(sorted((o for streak in self._kept.values() for o in streak), key=lambda o: o.at))


class LastVms:
    """What came of the last VMs of each desktop, a bounded number."""

    def __init__(self, past: Iterable[Spent] = ()) -> None:
        self._kept: dict[str, deque[Spent]] = {}
        for one in sorted(past, key=lambda s: s.ended_at):
            self.add(one)

    def add(self, one: Spent) -> None:
        """A VM has ended."""
        self._kept.setdefault(one.desktop, deque(maxlen=_LAST)).append(one)

    def shift(self, by: timedelta) -> None:
        """The clock was set by so much."""
        for last in self._kept.values():
            for number, one in enumerate(last):
                joined = None if one.joined_at is None else one.joined_at + by
                last[number] = msgspec.structs.replace(one, ended_at=one.ended_at + by, joined_at=joined)

    def all(self, now: datetime) -> tuple[Spent, ...]:
        """Everything that still counts."""
        since, ahead = now - timedelta(days=KEPT_DAYS), now + timedelta(seconds=AHEAD_SECONDS)
        for desktop, last in list(self._kept.items()):
            if not any(since <= one.ended_at <= ahead for one in last):
                del self._kept[desktop]
        return tuple(one for last in self._kept.values() for one in last if since <= one.ended_at <= ahead)
