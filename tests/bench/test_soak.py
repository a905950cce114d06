"""The soak's rounds: kept one by one, so that it goes on where it was."""

from datetime import UTC, datetime

import msgspec

from bench.soak import Kept, Round

AT = datetime(2026, 11, 30, tzinfo=UTC)


def test_rounds_are_counted_by_what_they_were() -> None:
    kept = Kept([Round("cut", AT), Round("qemu", AT, 1.5), Round("cut", AT, wrong="it started again")])
    again = msgspec.json.decode(msgspec.json.encode(kept), type=Kept)
    assert (again.count(cuts=True), again.count(cuts=False)) == (2, 1)
