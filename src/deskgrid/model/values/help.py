"""What a setting means, beside its type: the manual is drawn from it."""

from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec


class Help(msgspec.Struct, frozen=True):
    """Metadata of a field: `Annotated[float, Help("how long a report may be held open")]`."""

    help: str


def helps(kind: type[msgspec.Struct]) -> dict[str, str]:
    """What is said of a struct's fields, by their names; fields of which nothing is said are left out."""
    return {name: text for name, hint in get_type_hints(kind, include_extras=True).items() if (text := _help(hint))}


def _help(hint: Any) -> str:
    beside = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((one.help for one in beside if hasattr(one, "help")), "")
