"""A token bucket, by values."""

from deskgrid.model.values.bucket import TokenBucket


def test_a_flood_waits_and_a_trickle_does_not() -> None:
    bucket = TokenBucket(1000, 2000, 0.0)
    assert bucket.spend(1500, 0.0) <= 0
    assert bucket.spend(1500, 0.0) == 1.0
    assert bucket.spend(10, 2.5) <= 0
    assert bucket.spend(2000, 1000.0) <= 0
    assert bucket.spend(1000, 1000.0) == 1.0


def test_who_goes_on_while_it_waits_owes_no_more_than_is_said() -> None:
    bucket = TokenBucket(1, 2, 0.0)
    assert [bucket.spend(1, 0.0, debt=1) for _ in range(5)] == [-1.0, 0.0, 1.0, 1.0, 1.0]
    assert bucket.wait_seconds(3.0) == -2.0 and bucket.full(3.0) and not bucket.full(2.9)
