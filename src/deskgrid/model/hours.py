"""Windows of the owner's calendar, such as "Mon-Fri 07:00-17:00": the text, and what it says.

Rules:
- Without days a window is there every day. Days are listed and ranged: "Mon,Wed-Fri"; a range may pass the week's end.
- A window whose end is not after its begin spans midnight, and belongs to the day on which it begins.
- "00:00-24:00" is the whole day. Equal begin and end would be read as both all and nothing: it is refused.
"""

import re
from typing import Annotated

import msgspec

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_WINDOW = re.compile(
    rf"^(?:(?P<days>{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*) )?(?P<start>{_CLOCK})-(?P<end>{_CLOCK}|24:00)\Z"
)
DAY_MINUTES = 1440


class Window(msgspec.Struct, frozen=True):
    """A window of every week.

    days: 0 is Monday. start, end: minutes since midnight; an end beyond 1440 lies on the next day. text: as written.
    """

    days: frozenset[int]
    start: int
    end: int
    text: str


def window(text: str) -> Window:
    """Read a window.

    Raises:
        ValueError: with what was got and what is expected.
    """
    match = _WINDOW.match(text)
    if match is None:
        raise ValueError(f'got {text!r}, expected hours such as "Mon-Fri 07:00-17:00" or "22:00-06:00"')
    start, end = _minutes(match["start"]), _minutes(match["end"])
    if start == end:
        raise ValueError(f'got {text!r}, expected an end that is not the begin; the whole day is "00:00-24:00"')
    return Window(_days(match["days"]), start, end + (DAY_MINUTES if end < start else 0), text)


def hours_fault(text: str) -> None:
    """Raises: ValueError: it is no window; the sentence says what is expected."""
    window(text)


Hours = Annotated[str, msgspec.Meta(max_length=100, extra={"check": hours_fault})]
"""The text of a window, for use as a msgspec field type; `host/system/toml.py` asks the check, and a policy itself
too.
"""


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin = DAYS.index(first)
        count = (DAYS.index(last or first) - begin) % 7 + 1
        days |= {(begin + n) % 7 for n in range(count)}
    return frozenset(days)
