"""What the fake does beyond the contract: time passes, leases end, a campus is fast."""

import time
from datetime import UTC, datetime, timedelta

from deskgrid.model.lease import Size
from deskgrid.model.pool import OfflineAd
from tests.pool.fake import COMPLETED, IDLE, RUNNING, FakePool


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def add(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def state(pool: FakePool, job_id: str) -> int:
    job = pool.job(job_id)
    assert job is not None
    return job.status


def test_a_job_ends_after_it_has_run_long_enough_in_one_piece() -> None:
    clock = Clock()
    pool = FakePool(clock)
    (job_id,) = pool.submit("img-a", run_seconds=100)
    pool.join("vm-1", "img-a", "desk-1")
    pool.negotiate()
    clock.add(60)
    pool.leave("vm-1")
    pool.join("vm-2", "img-a", "desk-2")
    pool.negotiate()
    clock.add(60)
    pool.pass_time()
    assert state(pool, job_id) == RUNNING
    clock.add(40)
    pool.pass_time()
    assert state(pool, job_id) == COMPLETED


def test_a_job_of_a_machine_that_died_silently_waits_for_its_lease() -> None:
    clock = Clock()
    pool = FakePool(clock, lease_seconds=180)
    (job_id,) = pool.submit("img-a")
    pool.join("vm-1", "img-a", "desk-1")
    pool.negotiate()
    pool.die("vm-1")
    pool.forget_vm("vm-1")
    clock.add(179)
    pool.negotiate()
    assert state(pool, job_id) == RUNNING
    clock.add(1)
    pool.pass_time()
    assert state(pool, job_id) == IDLE


def test_jobs_share_a_machine_as_far_as_they_fit() -> None:
    pool = FakePool(Clock())
    pool.submit("img-a", 5, cpus=1, memory_mb=100)
    pool.join("vm-1", "img-a", "desk-1", cpus=2, memory_mb=1024)
    pool.negotiate()
    (machine,) = pool.snapshot().machines or ()
    assert len(machine.jobs) == 2


def test_a_campus_of_hundreds_of_machines_and_thousands_of_jobs_negotiates_fast() -> None:
    clock = Clock()
    pool = FakePool(clock)
    pool.advertise([OfflineAd(f"img-{n}", Size(1, 1 << 30), 1 << 32) for n in range(10)])
    for n in range(10):
        pool.submit(f"img-{n}", 1000, run_seconds=600)
    for n in range(500):
        pool.join(f"vm-{n}", f"img-{n % 10}", f"desk-{n}", cpus=1, memory_mb=1024)
    began = time.monotonic()
    for _ in range(20):
        pool.negotiate()
        pool.snapshot()
        clock.add(60)
    assert time.monotonic() - began < 5
