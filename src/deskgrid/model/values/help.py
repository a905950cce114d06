"""What a setting means, beside its type: the manual is drawn from it."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec


class Help(msgspec.Struct, frozen=True):
    """Metadata of a field: `Annotated[float, Help("how long a report may be held open")]`."""

    help: str
    formerly: str = ""  # what it was called in older files, which are still read


def helps(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What is said of a struct's fields, by their names; fields of which nothing is said are left out."""
    return {name: one.help for name, one in _helps(kind) if one.help}


def former_names(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What fields were called in older files, and their names now."""
    return {one.formerly: name for name, one in _helps(kind) if isinstance(one, Help) and one.formerly}


def _helps(kind: type[msgspec.Struct]) -> Iterator[tuple[str, Any]]:
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for beside in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            if hasattr(beside, "help"):
                yield name, beside
                break
