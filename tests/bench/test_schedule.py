"""Which parts of the benchmarks fit into the time."""

from bench.__main__ import FIRST_MINUTES, MINUTES, PARTS
from bench.schedule import Part, fit


def part(name: str, minutes: float, first_minutes: float = 0.0) -> Part:
    return Part(name, (f"{name}_s",), lambda *_: [], {}, 60 * minutes, 60 * first_minutes)


def test_what_does_not_fit_is_left_out_and_that_is_said_before_it_begins() -> None:
    found = fit([part("one", 10), part("two", 25), part("three", 15)], 30 * 60, first=False)
    assert [one.name for one in found.taken] == ["one", "three"]
    assert [(one.name, why) for one, why in found.left_out] == [("two", "it takes about 25 min, and 20 min are left")]
    assert found.told.endswith("left out: two, since it takes about 25 min, and 20 min are left")


def test_the_first_time_counts_what_must_be_built() -> None:
    assert [one.name for one in fit([part("one", 10, 25)], 30 * 60, first=True).taken] == []
    assert "built" in fit([part("one", 10, 5)], 30 * 60, first=True).told


def test_without_a_limit_everything_is_taken() -> None:
    assert len(fit(PARTS, None, first=True).taken) == len(PARTS)


def test_the_whole_fits_into_the_time_that_the_manual_promises() -> None:
    assert fit(PARTS, 60 * MINUTES, first=False).left_out == ()
    assert fit(PARTS, 60 * FIRST_MINUTES, first=True).left_out == ()
