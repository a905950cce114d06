"""ClassAds as text: quoting what goes in, reading what comes out.

Text from outside meets a ClassAd only through `quote`. HTCondor reads the files of `condor_advertise` in its old
syntax, where a backslash is itself except before a quotation mark; so what holds a backslash or a control character
can't be written safely and is refused.
"""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec

from deskgrid.model.values.moment import moment_of
from deskgrid.model.values.outside import read_json

Value = str | int | float | bool | None
Ad = dict[str, Any]

MOST = 1 << 53
_WHOLE = re.compile(r"\[\n(\{\n.*\n\}\n)\]\s*\Z", re.DOTALL)
_BETWEEN = re.compile(r"(?<=\n\}\n),\n(?=\{\n)")
"""Ads as the tools print them: each brace on a line of its own, which no text in an ad can bring about."""
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"b": b"\b", b"f": b"\f"}
_EXPRESSION = re.compile(r"\\?/Expr\((.*)\)\\?/\Z", re.DOTALL)


class BadText(ValueError):
    """A text that can't be written into a ClassAd safely."""


def is_safe(text: str) -> bool:
    """Whether `quote` takes it."""
    return _UNSAFE.search(text) is None


def quote(text: str) -> str:
    """Return `text` as a ClassAd string literal. Raises: BadText for control characters and backslashes."""
    if not is_safe(text):
        raise BadText(f"text for a ClassAd: got {text[:80]!r}, expected no control characters and no backslashes")
    return '"' + text.replace('"', '\\"') + '"'


def literal(value: Value) -> str:
    """Return a plain value as a ClassAd literal."""
    if value is None:
        return "undefined"
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(value) if isinstance(value, str) else str(value)


class Expression(msgspec.Struct, frozen=True):
    """An expression that we wrote ourselves: it is not quoted."""

    text: str


def ad_text(ad: Mapping[str, Value | Expression]) -> str:
    """Return one ad as condor_advertise reads it: a line for each attribute."""
    for name in ad:
        if not _NAME.match(name):
            raise BadText(f"name of a ClassAd's attribute: got {name[:80]!r}, expected letters, digits and '_'")
    lines = [f"{name} = {v.text if isinstance(v, Expression) else literal(v)}" for name, v in ad.items()]
    return "\n".join(lines) + "\n"


def read_ads(text: str) -> list[Ad]:
    """Read what a tool printed with `-json`: nothing at all means no ads, and an ad that can't be read is left out.

    Raises: ValueError when it is cut off.
    """
    if not text.strip():
        return []
    try:
        return read_json(text.encode(), type=list[Ad])
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        whole = _WHOLE.match(text)
        if whole is None:
            raise ValueError(f"ads from HTCondor: got no JSON list ({error})") from None
    return [ad for part in _BETWEEN.split(whole.group(1)) if (ad := _read_ad(part)) is not None]


def _read_ad(text: str) -> Ad | None:
    """One ad; None for one that can't be read: deep, with numbers that are none, or of text that is none."""
    try:
        return read_json(text.encode(), type=Ad)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def text_of(ad: Ad, name: str) -> str | None:
    """The attribute if it is a string and no expression."""
    value = ad.get(name)
    return value if isinstance(value, str) and not _EXPRESSION.match(value) else None


def integer_of(ad: Ad, name: str) -> int | None:
    """The attribute if it is a whole number of no more than MOST: whoever advertises may write anything."""
    value = ad.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and -MOST <= value <= MOST else None


def moment_at(ad: Ad, name: str) -> datetime | None:
    """The attribute if it is a time of our days, in seconds since 1970."""
    return moment_of(integer_of(ad, name))


def expression_of(ad: Ad, name: str) -> str | None:
    """The attribute's text if it is an expression."""
    value = ad.get(name)
    found = _EXPRESSION.match(value) if isinstance(value, str) else None
    if found:
        return found.group(1)
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def unparsed(text: str) -> str:
    """Read what ClassAd's `unparse` gave for a string; what is no string literal is returned as it is."""
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        return text

    def plain(found: re.Match[bytes]) -> bytes:
        code = found.group(1)
        return bytes([int(code, 8) & 255]) if code[:1].isdigit() else _LETTERS.get(code, code)

    return _ESCAPE.sub(plain, text[1:-1].encode()).decode(errors="replace")


def any_of(name: str, texts: Iterable[str]) -> str:
    """An expression that holds when attribute `name` is one of `texts`, compared with case."""
    parts = [f"{name} =?= {quote(text)}" for text in texts]
    return f"({' || '.join(parts)})" if parts else "false"
