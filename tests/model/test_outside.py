"""Whatever somebody else wrote, reading it gives a value or the format's own error."""

import tomllib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.model.values.outside import JsonReader, read_json, read_plain_json, read_toml


class Box(msgspec.Struct):
    number: int = 0
    text: str = ""


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "9" * 100_000
ODD = [
    '{"other":' + DEEP + "}",
    DEEP,
    "[" * 100_000,
    '{"number":' + LONG + "}",
    '{"number":1e400}',
    '{"text":"\\ud800"}',
    '{"text":"' + chr(0) + '"}',
    "",
    "{",
]


@pytest.mark.parametrize("content", ODD)
def test_json_that_cannot_be_read_is_a_decode_error(content: str) -> None:
    for read in (lambda: read_json(content, Box), lambda: JsonReader(Box).decode(content.encode())):
        with pytest.raises(msgspec.DecodeError):
            read()


@pytest.mark.parametrize("content", [DEEP, LONG, "{", ""])
def test_plain_json_too(content: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_plain_json(content)


@pytest.mark.parametrize("content", [f"a = {DEEP}", f"a = {LONG}", "a =", "a = 1\na = 2"])
def test_toml_that_cannot_be_read_is_a_toml_error(content: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        read_toml(content)


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_give_a_value_or_a_decode_error(content: bytes) -> None:
    for read in (lambda: read_json(content), lambda: JsonReader(Box).decode(content)):
        try:
            read()
        except msgspec.DecodeError:
            continue


def test_what_can_be_read_is() -> None:
    assert read_json(b'{"number":3}', Box) == JsonReader(Box).decode('{"number":3}') == Box(3)
    assert read_plain_json("[1, NaN]")[0] == 1
    assert read_toml("a = 1") == {"a": 1}
