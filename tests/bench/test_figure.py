"""Figures: medians, reasons, goals, and that nothing of the catalogue is left out."""

from pathlib import Path

import msgspec
import pytest

from bench.__main__ import FRESH, PARTS
from bench.figure import (
    CATALOGUE,
    ELSEWHERE,
    Figure,
    Load,
    complete,
    encode,
    measured,
    missing,
    p99,
    reached,
    spread,
    text,
)

MANUALS = [Path(__file__).parents[2] / "docs" / name for name in ("measurements.md", "impact.md")]


def test_a_figure_is_the_median_of_its_runs() -> None:
    assert measured("submit_to_order_s", [3.0, 1.0, 2.0]).value == 2.0


def test_a_99th_percentile_of_up_to_a_hundred_runs_is_their_greatest() -> None:
    assert p99([float(run) for run in range(50)]) == 49.0
    assert p99([float(run) for run in range(200)]) == 197.0
    figure = measured("input_to_stopped_p99_ms", [3.0, 9.0, 5.0], of=p99)
    assert (figure.value, figure.runs) == (9.0, (3.0, 9.0, 5.0))


def test_a_figure_without_runs_has_no_value_but_a_reason() -> None:
    figure = measured("submit_to_order_s", [])
    assert figure.value is None
    assert figure.reason


def test_digits_that_mean_nothing_are_not_told() -> None:
    assert measured("owner_to_gone_ms", [1629.5020580291748]).runs == (1630.0,)


def test_every_figure_of_the_catalogue_is_there_once_in_its_order() -> None:
    whole = complete([measured("agent_rss_mb", [30.0]), missing("make_test_s", ELSEWHERE)])
    assert [figure.name for figure in whole] == [row.name for row in CATALOGUE]
    assert {figure.reason for figure in whole if figure.value is None} == {ELSEWHERE, "not asked for in this run"}


def test_each_figure_is_measured_by_exactly_one_part() -> None:
    names = [*(name for part in PARTS for name in part.names), *FRESH]
    assert sorted(names) == sorted(row.name for row in CATALOGUE)


@pytest.mark.parametrize(
    ("goal", "value", "is_reached"),
    [
        ("< 250", 249.9, True),
        ("< 250", 250.0, False),
        ("> 5", 6.0, True),
        ("<= 2", 2.0, True),
        ("<= 2", 2.1, False),
        ("", 1.0, None),
        ("< 3", None, None),
    ],
)
def test_a_goal_is_judged_by_its_sign(goal: str, value: float | None, is_reached: bool | None) -> None:
    assert reached(goal, value) is is_reached


def test_a_goal_may_be_to_be_less_than_the_peer() -> None:
    assert reached("< peer", 1.0, 2.0) is True
    assert reached("< peer", 2.0, 2.0) is False
    assert reached("< peer", 1.0) is None


def test_a_goal_that_cannot_be_read_is_an_error_that_says_what_is_expected() -> None:
    with pytest.raises(ValueError, match=r"got 'about 5', expected"):
        reached("about 5", 1.0)


def test_every_goal_of_the_catalogue_can_be_read() -> None:
    for row in CATALOGUE:
        reached(row.goal, 1.0)


def test_the_file_is_a_list_of_objects_with_all_keys_also_when_they_are_empty() -> None:
    load = Load(0.5, 3.0, 2)
    content = encode([measured("agent_rss_mb", [30.0, 31.0], peer_value=57.5, load=load), missing("make_test_s", "no")])
    first, second = msgspec.json.decode(content)
    assert {"name", "value", "unit", "goal", "peer", "peer_value", "runs", "reason", "note", "load"} == set(first)
    assert (first["value"], first["peer_value"], first["runs"]) == (30.5, 57.5, [30.0, 31.0])
    assert first["load"] == {"average": 0.5, "busy_percent": 3.0, "cores": 2}
    assert (second["value"], second["reason"], second["goal"]) == (None, "no", "< 3600")
    assert msgspec.json.decode(content, type=list[Figure])[0].name == "agent_rss_mb"


def test_spread_is_told_only_for_several_runs() -> None:
    assert spread((1.0,)) == ""
    assert spread((1.0, 1234.0)) == "1 … 1,234 (n=2)"
    assert text(None) == ""


def test_the_manual_says_of_every_figure_how_it_is_measured() -> None:
    manual = "".join(path.read_text() for path in MANUALS)
    assert [row.name for row in CATALOGUE if f"`{row.name}`" not in manual] == []
