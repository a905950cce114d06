"""When something stopped, from samples of its CPU time."""

from hypothesis import given
from hypothesis import strategies as st

from bench.stillness import Sample, grew, stopped_at


def samples(*pairs: tuple[float, int]) -> list[Sample]:
    return [Sample(at, ran) for at, ran in pairs]


def test_it_stopped_when_its_last_growth_was_seen() -> None:
    assert stopped_at(samples((0.0, 0), (0.1, 9), (0.2, 9), (0.8, 9)), 0.5) == 0.1


def test_while_it_grows_there_is_no_answer() -> None:
    assert stopped_at(samples((0.0, 0), (0.3, 5), (0.6, 9)), 0.5) is None


def test_standing_still_for_a_moment_is_not_enough() -> None:
    assert stopped_at(samples((0.0, 9), (0.4, 9)), 0.5) is None


def test_what_stood_still_from_the_start_did_so_at_the_first_look() -> None:
    assert stopped_at(samples((1.0, 9), (2.0, 9)), 0.5) == 1.0


def test_without_samples_there_is_no_answer() -> None:
    assert stopped_at([], 0.5) is None


@given(st.lists(st.tuples(st.floats(0.001, 1), st.integers(0, 3)), min_size=1), st.floats(0, 2))
def test_after_the_answer_nothing_ran_and_just_before_it_something_did(
    steps: list[tuple[float, int]], still: float
) -> None:
    seen = [Sample(0.0, 0)]
    for seconds, more in steps:
        seen.append(Sample(seen[-1].at + seconds, seen[-1].ran + more))
    at = stopped_at(seen, still)
    if at is None:
        return
    assert {each.ran for each in seen if each.at >= at} == {seen[-1].ran}
    assert all(each.ran < seen[-1].ran for each in seen if each.at < at)


def test_a_share_of_a_core_is_told_from_less() -> None:
    assert grew(samples((0.0, 0), (1.0, 600_000_000)), 0.5)
    assert not grew(samples((0.0, 0), (1.0, 400_000_000)), 0.5)
    assert not grew(samples((0.0, 0)), 0.5)
