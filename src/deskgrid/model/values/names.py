"""Names that come from outside, validated once, before they meet a path, a ClassAd or a log.

A name that has passed here consists of ASCII letters, digits, `.`, `_` and `-`, starts with a letter or digit and is
at most 64 characters long: safe in a file name, in a quoted ClassAd string and in a URL path.
"""

import re
from typing import Annotated

import msgspec

_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NAME = re.compile(_PATTERN[:-1] + r"\Z")

_EXPECTED = "at most 64 letters, digits, '.', '_', '-', the first a letter or digit"

Name = Annotated[str, msgspec.Meta(pattern=_PATTERN[:-1] + r"\Z", max_length=64, description=_EXPECTED)]
"""A validated name, for use as a msgspec field type."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z", description="64 hexadecimal digits")]
"""A SHA-256 in lower-case hexadecimal."""


class BadName(ValueError):
    """A name from outside that we refuse to carry further: the sender's fault."""


def name(what: str, text: str) -> str:
    """Return `text` if it is a valid name.

    Args:
        what: the noun for the error message, such as "image name".
        text: the name as it came from outside.

    Raises:
        BadName: with what was got and what is expected.
    """
    if not _NAME.match(text):
        raise BadName(f"{what}: got {text!r}, expected {_EXPECTED}")
    return text
