"""How long a source is left alone."""

import time

import pytest

from deskgrid.images.fetch.patience import ANOTHER_FOLLOWS, LAST, LIAR_SECONDS, Patience, SourceHealth


def left_alone(health: SourceHealth) -> float:
    return health.not_before - time.monotonic()


@pytest.mark.parametrize(("patience", "longest"), [(LAST, 15.0), (ANOTHER_FOLLOWS, 300.0)])
def test_a_source_is_left_alone_for_longer_each_time_up_to_a_limit(patience: Patience, longest: float) -> None:
    health = SourceHealth(patience)
    pauses = []
    for _ in range(12):
        health.failed("away")
        pauses.append(left_alone(health))
    assert 0.7 * patience.pause.first_seconds < pauses[0] <= 1.2 * patience.pause.first_seconds
    assert pauses[3] > 3 * pauses[0] and 0.7 * longest < pauses[-1] <= 1.2 * longest


def test_one_that_worked_begins_anew() -> None:
    health = SourceHealth(LAST)
    for _ in range(12):
        health.failed("away")
    health.worked()
    health.failed("away")
    assert left_alone(health) < 1


def test_many_that_met_the_same_fault_do_not_come_back_as_one() -> None:
    fleet = [SourceHealth(LAST) for _ in range(50)]
    for health in fleet:
        for _ in range(8):
            health.failed("away")
    moments = sorted(health.not_before for health in fleet)
    assert moments[-1] - moments[0] > 2


def test_when_nobody_is_left_all_are_tried_again_soon_but_for_liars() -> None:
    away, liar = SourceHealth(ANOTHER_FOLLOWS), SourceHealth(ANOTHER_FOLLOWS)
    for _ in range(12):
        away.failed("away")
    liar.failed("wrong bytes", lied=True)
    for health in (away, liar):
        health.nobody_left()
    assert left_alone(away) <= 15 and left_alone(liar) > LIAR_SECONDS / 2
