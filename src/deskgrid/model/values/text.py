"""Text from outside, made fit to be shown: what a terminal, a log or a reader would not take as text is spelled out.

Control characters, terminals' escape sequences, marks that turn the direction of reading or show nothing, and lone
surrogates become such as "\\x1b" or "\\u202e": visible, and without effect. All else stays as it is.
"""

import re

_ODD = re.compile(r"[^ -~]")
_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters and marks that show nothing (Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern), which
Python calls printable."""
_SPACES = frozenset("\t\xa0\u202f\u2007\u3000\u2009\u200a")


def plain(text: str, *, lines: bool = False) -> str:
    """The text as it may be shown. lines: line ends stay; without it, it is one line."""
    if text.isascii() and text.isprintable():
        return text
    return _ODD.sub(lambda match: _spelled(match[0], lines), text)


def printable(text: str, limit: int) -> str:
    """What can be printed of a text, in one line of at most `limit` characters; all else is blank."""
    return " ".join("".join(char if _shown(char) else " " for char in text[: 4 * limit]).split())[:limit]


def plain_json(text: str) -> str:
    """JSON that says the same, but has nothing odd in it: within its strings that is written as JSON writes it."""
    return _ODD.sub(lambda match: match[0] if _shown(match[0]) or match[0] == "\n" else _escaped(match[0]), text)


def _spelled(char: str, lines: bool) -> str:
    if _shown(char) or (lines and char == "\n"):
        return char
    if char in _SPACES:
        return " "
    if char == "\n":
        return "\\n"
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shown(char: str) -> bool:
    return char.isprintable() and not _NOTHING.match(char)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[start : start + 4]}" for start in range(0, len(units), 4))


def counted(number: float, what: str, several: str = "") -> str:
    """Say how many there are.

    Args:
        what: one of them. several: more or less than one of them; `what` with an s if not given.
    """
    return f"{number:g} {what}" if number == 1 else f"{number} {several or what + 's'}"
