"""What one schedd does, or leaves undone, costs nobody's jobs but its own."""

import json
import time
from collections.abc import Callable, Sequence

import pytest

from deskgrid.model.pool import Foreign
from deskgrid.pool.contract import PoolError, PoolRefused, PoolUnreachable
from deskgrid.pool.tools.ads import Ad
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.pool.tools.reach import Reach

Answers = Callable[[float], str]
OURS: Ad = {"MyType": "Submitter", "ScheddName": "ours", "IdleJobs": 5}
THEIRS: Ad = {"MyType": "Submitter", "ScheddName": "evil", "IdleJobs": 3}


def silent(left_seconds: float) -> str:
    time.sleep(left_seconds)
    raise PoolUnreachable("condor_q: no answer")


class Pool:
    """HTCondor's tools as they answer for a pool with two schedds."""

    def __init__(self, evil: Answers, *submitters: Ad) -> None:
        self.submitters, self.evil, self.ours = submitters, evil, self.five
        self.schedds, self.job = ["evil", "ours"], ""
        self.driver = CondorPool(Reach(timeout_seconds=1), run=self.run)

    def five(self, left_seconds: float) -> str:
        return '7 1 512 "img"\n' * 5

    def run(self, reach: Reach, argv: Sequence[str], timeout_seconds: float, stdin: str = "") -> str:
        if argv[0] == "condor_status":
            ads: list[Ad] = [{"MyType": "Collector", "StatsLastUpdateTime": 100, "StatsLifetime": 50}]
            ads += [{"MyType": "Scheduler", "Name": one, "MyAddress": f"<{one}>"} for one in self.schedds]
            return json.dumps([*ads, *self.submitters])
        if timeout_seconds <= 0:
            raise PoolUnreachable("no time left")
        if "-json" in argv:
            return self.job if argv[2] == "ours" else self.evil(timeout_seconds)
        if argv[2] == "ours" and self.job:
            return "1 1 1 true"
        return self.evil(timeout_seconds) if argv[2] == "evil" else self.ours(timeout_seconds)

    def idle(self) -> dict[str, int] | None:
        seen = self.driver.snapshot()
        self.foreign, self.faults = seen.foreign, seen.faults
        return None if seen.idle is None else {group.schedd: group.idle for group in seen.idle}


@pytest.mark.parametrize("evil", [silent, lambda left_seconds: "odd\n"], ids=["silent", "odd"])
def test_a_schedd_that_says_nothing_or_nonsense_is_weighed_by_its_submitters(evil: Answers) -> None:
    pool = Pool(evil, OURS, THEIRS)
    assert pool.idle() == {"ours": 5}
    assert pool.foreign == (Foreign("evil", 3),) and "schedd evil" in pool.faults[0]
    began = time.monotonic()
    assert pool.idle() == {"ours": 5}
    assert time.monotonic() - began < 0.5, "silent once, it has less time the next time"


def test_what_a_schedd_said_last_counts_while_it_is_silent_or_gone() -> None:
    pool = Pool(lambda left_seconds: '8 1 512 "img"\n' * 4, OURS)
    assert pool.idle() == {"evil": 4, "ours": 5}
    pool.evil = silent
    assert pool.idle() == {"ours": 5} and pool.foreign == (Foreign("evil", 4),)
    pool.schedds.remove("evil")
    assert pool.idle() == {"ours": 5} and pool.foreign == (Foreign("evil", 4),)
    assert "does not know it any more" in pool.faults[0]


def test_when_no_schedd_answers_idle_jobs_are_unknown() -> None:
    pool = Pool(silent, OURS, THEIRS)
    pool.ours = silent
    assert pool.idle() is None and pool.foreign == ()
    pool.ours = pool.five
    assert pool.idle() == {"ours": 5}


def test_a_schedd_that_is_silent_keeps_no_other_from_telling_of_a_job() -> None:
    pool = Pool(silent)
    pool.job = json.dumps([{"ClusterId": 1, "ProcId": 0}])
    job = pool.driver.job("1.0")
    assert job is not None and job.schedd == "ours"
    pool.job = ""
    with pytest.raises(PoolError):
        pool.driver.job("1.0")


def test_a_schedd_that_refuses_is_weighed_by_its_submitters() -> None:
    def refuses(left_seconds: float) -> str:
        raise PoolRefused("no")

    pool = Pool(refuses, OURS, THEIRS)
    assert pool.idle() == {"ours": 5} and pool.foreign == (Foreign("evil", 3),)
