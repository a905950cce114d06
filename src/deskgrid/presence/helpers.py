"""What helpers in people's sessions have told of them, and for how much it counts.

Rules:
- A helper runs as the person whose session it is in, so it may lie. All that it says can make the desktop count as
  used. Two things it may vouch for, and only for a session of its own account: when that session was last used, where
  keyboard and mouse can't be heard; and that it is locked, where logind doesn't know. Neither overrules another source.
- To vouch, its word must be fresh, and its account must have exactly one graphical session: a helper in one could
  not tell of another.
- Between two words time passes: what was idle for a minute is idle for longer, until it is said again.
"""

import time

import msgspec

from deskgrid.model.presence import SessionReading
from deskgrid.model.values.text import printable

FRESH_SECONDS = 60.0
"""A helper must have spoken within this time for its word to vouch."""
_TEXTS, _TEXT_CHARS, _WORDS = 8, 80, 8
_EARLIER_SECONDS = 0.5


class Word(msgspec.Struct, frozen=True):
    """One helper's word as it stands now. fresh: it may vouch."""

    uid: int
    source: str
    idle_seconds: float | None
    fresh: bool = True
    locked: bool | None = None
    full_screen: bool | None = None
    watching: tuple[str, ...] = ()


class HelperWords:
    """Keeps the last word of each helper: one for each account and source."""

    def __init__(self) -> None:
        self._words: dict[tuple[int, str], tuple[SessionReading, float]] = {}

    def take(self, uid: int, reading: SessionReading | None) -> bool:
        """Keep a reading, or forget all of that account (None). Returns whether it is news to tell of."""
        now = time.monotonic()
        if reading is None:
            gone = [key for key in self._words if key[0] == uid]
            for key in gone:
                del self._words[key]
            return bool(gone)
        key = (uid, reading.source)
        before = self._words.pop(key, None)
        self._words[key] = (reading, now)
        for oldest in [one for one in self._words if one[0] == uid][:-_WORDS]:
            del self._words[oldest]
        return before is None or _news(before[0], now - before[1], reading)

    def words(self) -> tuple[Word, ...]:
        """All that was told, as it stands now."""
        now = time.monotonic()
        return tuple(_word(uid, reading, now - at) for (uid, _), (reading, at) in self._words.items())

    def readings(self) -> tuple[SessionReading, ...]:
        """What was told, with the time that has passed since in it."""
        now = time.monotonic()
        return tuple(_grown(reading, now - at) for reading, at in self._words.values())


def _news(before: SessionReading, age_seconds: float, after: SessionReading) -> bool:
    if msgspec.structs.replace(before, idle_seconds=None) != msgspec.structs.replace(after, idle_seconds=None):
        return True
    if before.idle_seconds is None or after.idle_seconds is None:
        return before.idle_seconds is not after.idle_seconds
    return after.idle_seconds < before.idle_seconds + age_seconds - _EARLIER_SECONDS


def _word(uid: int, reading: SessionReading, age_seconds: float) -> Word:
    idle = reading.idle_seconds
    return Word(
        uid,
        printable(reading.source, _TEXT_CHARS),
        None if idle is None else max(0.0, idle) + age_seconds,
        age_seconds <= FRESH_SECONDS,
        reading.locked,
        reading.full_screen,
        tuple(printable(text, _TEXT_CHARS) for text in reading.watching[:_TEXTS]),
    )


def _grown(reading: SessionReading, age_seconds: float) -> SessionReading:
    if reading.idle_seconds is None:
        return reading
    return msgspec.structs.replace(reading, idle_seconds=max(0.0, reading.idle_seconds) + age_seconds)
