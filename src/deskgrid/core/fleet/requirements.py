"""Which part of a job's Requirements the machines of an image can't meet, as far as that can be told. Pure.

HTCondor decides; this only finds the words. Looked at is each condition that is joined by && with the others: a
comparison of one attribute of the machine with a plain value, or the attribute alone. What is more involved is passed
over: it is never said that a machine lacks what it may have. What is longer than any that a person writes is too: a
user wrote it, and while it is looked at nobody is answered.

Source: HTCondor manual, "ClassAd evaluation semantics": == takes texts without case, is (=?=) with it; a comparison
with what is undefined is undefined, which is no match, but is and isnt are always true or false.
"""

import re
from collections.abc import Callable, Iterator, Mapping

import msgspec

from deskgrid.core.fleet.promise import COMPUTER
from deskgrid.model.pool import OfflineAd

Value = str | float | bool
_MIB = 1 << 20
_LITERAL = r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false'
_COMPARISON = re.compile(
    rf"(?:TARGET\.)?([A-Za-z_]\w*)\s*(==|=\?=|is\b|!=|=!=|isnt\b|>=|<=|>|<)\s*({_LITERAL})\Z", re.IGNORECASE
)
_PIECE = re.compile(r'[(){}\[\]]|"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_LONGEST = 20_000
_ALONE = re.compile(r"TARGET\.([A-Za-z_]\w*)\Z", re.IGNORECASE)
_COMPUTERS = frozenset(COMPUTER.lower().split())
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda one, other: one >= other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    "<": lambda one, other: one < other,
}


class Unmet(msgspec.Struct, frozen=True):
    """condition: as the job has it. why: what the machines say to that, as the rest of a sentence."""

    condition: str
    why: str


def unmet(requirements: str, ad: OfflineAd) -> Unmet | None:
    """Return the first condition that no machine as advertised meets; None: none is known."""
    if len(requirements) > _LONGEST:
        return None
    said = _said(ad)
    for condition in _conditions(requirements):
        found = _COMPARISON.match(condition)
        alone = _ALONE.match(condition)
        if found is not None:
            name, holds = found[1], _holds(said.get(found[1].lower()), found[2].lower(), _value(found[3]))
        elif alone is not None:
            name, holds = alone[1], said.get(alone[1].lower()) is not False and alone[1].lower() in said
        else:
            continue
        if not holds and (name.lower() in said or (ad.says and condition.upper().startswith("TARGET."))):
            return Unmet(condition, _why(name, said.get(name.lower())))
    return None


def _why(name: str, value: Value | None) -> str:
    if value is not None:
        shown = f'"{value}"' if isinstance(value, str) else f"{value:g}" if not isinstance(value, bool) else value
        return f"its machines say {name} = {str(shown).lower() if isinstance(value, bool) else shown}"
    if name.lower() in _COMPUTERS:
        return f"{name} depends on the desktop, so it is known only of a machine that runs"
    return f"its machines say nothing of {name}"


def _said(ad: OfflineAd) -> dict[str, Value]:
    """What the machine says, by lower-case name."""
    said = {one.name.lower(): _value(one.text) for one in ad.says}
    cpus, memory, disk = ad.size.cpus, ad.size.memory_bytes // _MIB, ad.disk_bytes // 1024
    return said | {"cpus": cpus, "totalcpus": cpus, "memory": memory, "totalmemory": memory, "disk": disk}


def _value(text: str) -> Value:
    if text.startswith('"'):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text.lower() == "true" if text.lower() in ("true", "false") else float(text)


def _holds(value: Value | None, operator: str, wanted: Value) -> bool:
    if operator in ("is", "=?="):
        return value == wanted and isinstance(value, str) == isinstance(wanted, str)
    if operator in ("isnt", "=!="):
        return value != wanted
    if value is None or isinstance(value, str) != isinstance(wanted, str):
        return False
    if isinstance(value, str) or isinstance(wanted, str):
        same = str(value).lower() == str(wanted).lower()
        return same if operator == "==" else not same if operator == "!=" else True
    if operator in _ORDER:
        return _ORDER[operator](value, wanted)
    return (value == wanted) == (operator == "==")


def _conditions(text: str) -> Iterator[str]:
    """The parts that are joined by &&, without the brackets around them. Each sign is looked at a few times only."""
    ends = _ends(text)
    left = [(0, len(text))]
    while left:
        start, end = _trimmed(text, *left.pop())
        parts = _split(text, start, end, ends)
        if len(parts) > 1:
            left += reversed(parts)
        elif text.startswith("(", start) and ends.get(start) == end - 1:
            left.append((start + 1, end - 1))
        else:
            yield text[start:end]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _split(text: str, start: int, end: int, ends: Mapping[int, int]) -> list[tuple[int, int]]:
    """A part at its && that are in no bracket and no quotation; as one, if there is also a || or a ?: there."""
    parts, begin, at = [], start, start
    while at < end:
        if text[at] in '("[{':
            at = ends.get(at, end)
        elif text.startswith("&&", at):
            parts.append((begin, at))
            begin = at = at + 2
            continue
        elif text.startswith("||", at) or (text[at] == "?" and not text.startswith("=?=", at - 1)):
            return [(start, end)]
        at += 1
    return [*parts, (begin, end)]


def _ends(text: str) -> dict[int, int]:
    """Where each bracket and each quotation ends, by where it begins; not those that do not end."""
    found: dict[int, int] = {}
    open_at: list[int] = []
    for piece in _PIECE.finditer(text):
        one, at = piece[0], piece.start()
        if one in "([{":
            open_at.append(at)
        elif one in ")]}":
            if open_at:
                found[open_at.pop()] = at
        else:
            found[at] = piece.end() - 1
    return found
