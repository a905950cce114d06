"""Settings from TOML into typed values, with every fault of a file named at once.

Rules:
- A fault is `<path in the file>: got <x>, expected <y>`; unknown keys are faults, with the nearest known key.
- A field whose name ends in `_bytes` takes a number or a text such as "2GiB" or "512 MiB".
- A time of day is TOML's own (08:30:00) or a text such as "08:30".
- A setting's older name (`Help.formerly`) is read too, with a word of advice in the log.
- The structs decide what is valid (types, msgspec.Meta bounds, defaults); nothing is checked here a second time.
- A pattern is never shown: its Meta has a `description` of what is expected, in words; or, in place of a pattern,
  `extra` has a `check`, a function that raises ValueError with the sentence.
"""

import difflib
import logging
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from deskgrid.host.system.files import decoded
from deskgrid.model.values.help import former_names
from deskgrid.model.values.outside import read_toml

log = logging.getLogger(__name__)

T = TypeVar("T")
_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_BYTES = re.compile(r"\s*(\d+)\s*([KMGT]?I?B?)\s*\Z", re.IGNORECASE)


class BadSettings(ValueError):
    """A file with faults. `faults` holds one sentence each."""

    def __init__(self, where: str, faults: list[str]) -> None:
        self.where, self.faults = where, tuple(faults)
        super().__init__("\n".join(f"{where}: {fault}" for fault in faults))


def read(path: Path, kind: type[T]) -> T:
    """Read a TOML file into `kind`, a msgspec.Struct.

    Raises: BadSettings with all faults, also when the file is missing or is no TOML.
    """
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise BadSettings(str(path), [f"cannot be read: {error.strerror}; expected a TOML file"]) from None
    except ValueError as error:
        raise BadSettings(str(path), [f"not valid TOML: {error}"]) from None
    return parse(text, kind, str(path))


def parse(text: str, kind: type[T], where: str = "settings") -> T:
    """Read TOML text into `kind`. Raises: BadSettings with all faults."""
    try:
        table = read_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(where, [f"not valid TOML: {error}"]) from None
    return convert(table, kind, where)


def convert(table: Mapping[str, Any], kind: type[T], where: str) -> T:
    """Turn a table that was read already into `kind`. Raises: BadSettings with all faults."""
    faults: list[str] = []
    value = _struct(table, kind, "", faults)
    if faults:
        raise BadSettings(where, faults)
    return typing.cast(T, value)


def parse_bytes(text: str) -> int:
    """Turn "2GiB", "512 MiB" or "4096" into bytes. Raises: ValueError with what was expected."""
    match = _BYTES.match(text)
    unit = match[2].upper() if match else ""
    unit = {"K": "KIB", "M": "MIB", "G": "GIB", "T": "TIB"}.get(unit, unit)
    if match is None or unit not in _UNITS:
        raise ValueError(f'got {text!r}, expected a size such as "512MiB" or "2GiB"')
    return int(match[1]) * _UNITS[unit]


def _struct(table: Mapping[str, Any], kind: Any, path: str, faults: list[str]) -> Any:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    table = _under_new_names(table, kind, path)
    for key in (key for key in table if key not in fields):
        near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(fields))}"
        faults.append(f"{path}{key}: unknown{hint}")
    before = len(faults)
    for key, field in fields.items():
        if key in table:
            values[field.name] = _value(table[key], field.type, f"{path}{key}", faults)
        elif field.required:
            faults.append(f"{path}{key}: missing, expected {_describe(field.type)}")
    if len(faults) > before:
        return None
    try:
        return kind(**values)
    except ValueError as error:  # a struct's own check over several fields
        faults.append(f"{path.rstrip('.') or 'the whole'}: {error}")
        return None


def _under_new_names(table: Mapping[str, Any], kind: Any, path: str) -> Mapping[str, Any]:
    """The same with the names of today; whoever wrote an older one is advised."""
    former = {old: new for old, new in former_names(kind).items() if old in table and new not in table}
    for old, new in former.items():
        log.warning("%s%s: is called %s%s now; rename it in your settings", path, old, path, new)
    return {former.get(key, key): value for key, value in table.items()}


def _value(value: Any, kind: Any, path: str, faults: list[str]) -> Any:
    inner = _plain(kind)
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        if isinstance(value, dict):
            return _struct(value, inner, f"{path}.", faults)
        faults.append(f"{path}: got {value!r}, expected a table")
        return None
    if get_origin(inner) in (tuple, list) and isinstance(value, list):
        element = get_args(inner)[0]
        return tuple(_value(item, element, f"{path}[{i}]", faults) for i, item in enumerate(value))
    if get_origin(inner) is dict and isinstance(value, dict):
        name, element = get_args(inner)
        names = [_value(key, name, path, faults) for key in value]
        return dict(
            zip(names, (_value(one, element, f"{path}.{key}", faults) for key, one in value.items()), strict=True)
        )
    return _plain_value(value, kind, path, faults)


def _plain_value(value: Any, kind: Any, path: str, faults: list[str]) -> Any:
    inner = _plain(kind)
    try:
        if path.endswith("_bytes") and isinstance(value, str):
            value = parse_bytes(value)
        if inner is time and isinstance(value, str):
            value = time.fromisoformat(value)
        converted = msgspec.convert(value, kind, dec_hook=_hook)
        for meta in _metas(kind):
            check = (meta.extra or {}).get("check")
            if check is not None and converted is not None:
                check(converted)
        return converted
    except msgspec.ValidationError as error:
        meant = [meta.description for meta in _metas(kind) if meta.pattern and meta.description]
        told = f", expected {meant[0]}" if meant and isinstance(value, str) else f": {error}"
        faults.append(f"{path}: got {value!r}{told}")
    except ValueError as error:
        faults.append(f"{path}: {error}")
    return None


def _plain(kind: Any) -> Any:
    """The type without Annotated and without `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return _plain(members[0]) if len(members) == 1 else kind
    return kind


def _metas(kind: Any) -> list[msgspec.Meta]:
    """What is annotated to a type, or to what it may be beside None."""
    if get_origin(kind) is Annotated:
        return [one for one in get_args(kind)[1:] if isinstance(one, msgspec.Meta)] + _metas(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [meta for member in get_args(kind) for meta in _metas(member)]
    return []


def _hook(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"got {value!r}, expected a {kind.__name__}")


def _describe(kind: Any) -> str:
    return getattr(_plain(kind), "__name__", str(kind))
