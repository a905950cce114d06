"""Text from outside cannot steer a terminal, turn what is read, or hide."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.model.values.text import plain, plain_json, printable

WORDS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(WORDS, lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lab-217: busy", "lab-217: busy"),
        ("Grüße, 日本 ½ — “ja”", "Grüße, 日本 ½ — “ja”"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202egpj.exe", "a\\u202egpj.exe"),
        ("a\u200bb\U000e0041", "a\\u200bb\\U000e0041"),
        ("a\tb\u00a0c", "a b c"),
        ("one\ntwo\r", "one\\ntwo\\x0d"),
        ("\udce9", "\\udce9"),
        ("a\u3164b\u115f\u1160\uffa0", "a\\u3164b\\u115f\\u1160\\uffa0"),
        ("\u034f\u2800\ufe0f\u180b\U000e0100\u17b4", "\\u034f\\u2800\\ufe0f\\u180b\\U000e0100\\u17b4"),
    ],
)
def test_what_is_no_text_is_spelled_out(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_lines_may_stay_lines() -> None:
    assert plain("one\ntwo\x1b", lines=True) == "one\ntwo\\x1b"


@given(st.text(st.characters()))
def test_whatever_is_made_plain_is_printable_and_stays_so(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)
    assert all(line.isprintable() for line in plain(text, lines=True).split("\n"))


@given(VALUES)
def test_json_says_the_same_and_is_printable(value: object) -> None:
    text = plain_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(text) == value
    assert all(line.isprintable() for line in text.split("\n"))


def test_what_is_printable_stays_in_one_short_line() -> None:
    assert printable("a\u202eb\n\t c…\x1b[2J\x00\u3164d", 100) == "a b c… [2J d"
    assert printable("\n" * 1000 + "x" * 1000, 10) == ""
    assert printable("x" * 1000, 10) == "x" * 10
