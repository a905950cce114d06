"""ClassAds as text: what comes from outside stays text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.pool.tools.ads import (
    MOST,
    BadText,
    Expression,
    ad_text,
    any_of,
    expression_of,
    integer_of,
    quote,
    read_ads,
    text_of,
    unparsed,
)

CLASSAD_STRING = re.compile(r'"(?:[^"\\]|\\")*"\Z')


@given(st.text())
def test_a_quoted_text_is_one_string_literal_or_is_refused(text: str) -> None:
    try:
        quoted = quote(text)
    except BadText:
        assert re.search(r"[\x00-\x1f\x7f\\]", text)
        return
    assert CLASSAD_STRING.match(quoted)
    assert quoted[1:-1].replace('\\"', '"') == text


@pytest.mark.parametrize("text", ["a\nb", "a\\", "a\\b", "\x00", "a\rOffline = false"])
def test_control_characters_and_backslashes_are_refused(text: str) -> None:
    with pytest.raises(BadText, match="expected no control characters"):
        quote(text)


def test_an_ad_is_written_line_by_line_and_only_our_own_expressions_are_bare() -> None:
    text = ad_text({"A": 'x"y', "B": True, "C": 3, "D": None, "E": Expression("TARGET.A == MY.A")})
    assert text == 'A = "x\\"y"\nB = true\nC = 3\nD = undefined\nE = TARGET.A == MY.A\n'


def test_an_attribute_with_a_strange_name_is_refused() -> None:
    with pytest.raises(BadText, match="name of a ClassAd's attribute"):
        ad_text({"A = 1\nB": 1})


def test_nothing_printed_means_no_ads_and_a_cut_off_list_is_an_error() -> None:
    assert read_ads("") == [] and read_ads("\n") == [] and read_ads("[]") == []
    with pytest.raises(ValueError, match="no JSON list"):
        read_ads('[\n{\n  "Name": "x",\n')


def test_an_expression_is_no_text_and_no_number() -> None:
    ad = {"A": r"\/Expr(x + 1)\/", "B": "/Expr(x)/", "C": "text", "D": 5, "E": True, "F": None}
    assert [text_of(ad, key) for key in "ABCDEF"] == [None, None, "text", None, None, None]
    assert [integer_of(ad, key) for key in "ACDEF"] == [None, None, 5, None, None]
    assert [expression_of(ad, key) for key in "ABCDEF"] == ["x + 1", "x", "text", "5", "true", None]


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        ('"plain"', "plain"),
        ('"a\\" || true || \\""', 'a" || true || "'),
        ('"back\\\\slash"', "back\\slash"),
        ('"line\\nend\\ttab"', "line\nend\ttab"),
        ('"caf\\303\\251"', "café"),
        ('strcat("a","b")', 'strcat("a","b")'),
        ('""', ""),
        ('"', '"'),
    ],
)
def test_what_unparse_printed_is_read_back(printed: str, text: str) -> None:
    assert unparsed(printed) == text


def test_one_of_no_texts_holds_for_nothing() -> None:
    assert any_of("Name", []) == "false"
    assert any_of("Name", ["a", "b"]) == '(Name =?= "a" || Name =?= "b")'


@pytest.mark.parametrize("odd", ["1e999", "[" * 3000 + "]" * 3000, '"\\ud800"', "nonsense"])
def test_an_ad_that_can_not_be_read_is_left_out_and_the_others_are_not(odd: str) -> None:
    good = '{\n  "Name": "x }\\n,\\n{",\n  "L": [ { "A": 1 } ]\n}\n'
    printed = f'[\n{good},\n{{\n  "Odd": {odd}\n}}\n,\n{good}]\n'
    assert [ad["Name"] for ad in read_ads(printed) if "Odd" not in ad] == ["x }\n,\n{"] * 2
    with pytest.raises(ValueError, match="no JSON list"):
        read_ads(printed[:-2])


def test_a_number_that_no_daemon_would_say_is_no_number() -> None:
    assert [integer_of({"A": number}, "A") for number in (MOST, MOST + 1, -MOST - 1, 10**30)] == [
        MOST,
        None,
        None,
        None,
    ]
