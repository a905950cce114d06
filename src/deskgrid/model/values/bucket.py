"""A token bucket: so much each second, and so much at once after a quiet time. Time is passed in, by a steady clock."""


class TokenBucket:
    """What may still be spent."""

    def __init__(self, per_second: float, at_once: float, now_seconds: float) -> None:
        """Begin full."""
        self._rate, self._most = per_second, at_once
        self._left, self._at = at_once, now_seconds

    def spend(self, count: float, now_seconds: float, debt: float | None = None) -> float:
        """Take `count`; return for how many seconds nothing more should be taken (0 or less: go on).

        debt: no more than this is owed afterwards, however much was taken.
        """
        self._left = self._now(now_seconds) - count
        if debt is not None:
            self._left = max(self._left, -debt)
        self._at = now_seconds
        return self.wait_seconds(now_seconds)

    def wait_seconds(self, now_seconds: float) -> float:
        """For how many seconds nothing more should be taken (0 or less: go on)."""
        return -self._now(now_seconds) / self._rate

    def full(self, now_seconds: float) -> bool:
        """Whether nothing was spent of late."""
        return self._now(now_seconds) >= self._most

    def _now(self, now_seconds: float) -> float:
        return min(self._most, self._left + (now_seconds - self._at) * self._rate)
