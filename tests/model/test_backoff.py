"""How long to wait after failures in a row."""

import pytest

from deskgrid.model.values.backoff import Backoff


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0.0), (1, 1.0), (2, 2.0), (4, 8.0), (7, 60.0), (10**9, 60.0)])
def test_each_failure_doubles_the_wait_up_to_a_bound(failures: int, seconds: float) -> None:
    assert Backoff(1.0, 60.0).seconds(failures) == seconds
