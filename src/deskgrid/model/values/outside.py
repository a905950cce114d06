"""JSON and TOML that somebody else wrote: whatever it holds, reading it gives a value or the format's own error.

The parsers let a few things out as errors of another kind, which nobody catches: nesting deeper than the stack, numbers
longer than Python turns into one, text that is no UTF-8. Everything from outside is read here, so that what can't be
read is always the same refusal.
"""

import json
import tomllib
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import msgspec

T = TypeVar("T")
Hook = Callable[[type, Any], Any]
Content = bytes | bytearray | memoryview | str


@overload
def read_json(content: Content, type: type[T], dec_hook: Hook | None = None) -> T: ...
@overload
def read_json(content: Content, type: Any = Any, dec_hook: Hook | None = None) -> Any: ...
def read_json(content: Content, type: Any = Any, dec_hook: Hook | None = None) -> Any:
    """Read JSON into `type`, as `msgspec.json.decode` does. Raises: msgspec.DecodeError, and nothing else."""
    try:
        return msgspec.json.decode(content, type=type, dec_hook=dec_hook)
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None


class JsonReader(Generic[T]):
    """Reads JSON into one type, as `msgspec.json.Decoder` does."""

    @overload
    def __init__(self: "JsonReader[T]", type: type[T], dec_hook: Hook | None = None) -> None: ...
    @overload
    def __init__(self: "JsonReader[Any]", type: Any, dec_hook: Hook | None = None) -> None: ...
    def __init__(self, type: Any, dec_hook: Hook | None = None) -> None:
        self._decoder = msgspec.json.Decoder(type, dec_hook=dec_hook)

    def decode(self, content: Content) -> T:
        """Read it. Raises: msgspec.DecodeError, and nothing else."""
        try:
            value: T = self._decoder.decode(content)
            return value
        except (RecursionError, ValueError) as error:
            raise _unreadable(error) from None


def read_plain_json(text: str) -> Any:
    """Read JSON as Python's own parser does, NaN included. Raises: msgspec.DecodeError, and nothing else."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as error:
        raise _unreadable(error) from None


def read_toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises: tomllib.TOMLDecodeError, and nothing else."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        raise tomllib.TOMLDecodeError(_why(error)) from None


def _unreadable(error: Exception) -> msgspec.DecodeError:
    return error if isinstance(error, msgspec.DecodeError) else msgspec.DecodeError(_why(error))


def _why(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]
