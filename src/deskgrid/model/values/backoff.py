"""How long to wait after failures in a row: twice as long each time, up to a bound."""

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """first_seconds: after one failure. most_seconds: however many there were."""

    first_seconds: float
    most_seconds: float

    def seconds(self, failures: int) -> float:
        """The wait after so many failures in a row; after none: none."""
        return min(self.most_seconds, self.first_seconds * 2.0 ** min(failures - 1, 60)) if failures > 0 else 0.0
