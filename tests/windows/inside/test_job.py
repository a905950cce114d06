"""JobObject objects: what holds under Wine is tried, what Wine refuses must come back as a fault."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from deskgrid.host.system.windows_job import QUIET, JobFailed, JobObject, stand_back, used_by

KEEPER = Path(__file__).with_name("keeper_of_vms.py")
IDLE_PRIORITY_CLASS, NORMAL_PRIORITY_CLASS = 0x40, 0x20


class Family:
    """A keeper in a job, with a child and a grandchild."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keeper = subprocess.Popen([sys.executable, str(KEEPER), name, "2"], stdout=subprocess.PIPE, text=True)
        assert self.keeper.stdout is not None
        self.pids = [int(self.keeper.stdout.readline()) for _ in range(3)]

    def left(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid)]

    def gone(self, seconds: float = 10) -> float | None:
        """Seconds until none is left; None: some are."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if not self.left():
                return time.monotonic() - started
            time.sleep(0.02)
        return None


@pytest.fixture
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    made = Family(f"deskgrid-test-{time.time_ns()}")
    yield made
    made.keeper.kill()
    made.keeper.wait()


def test_a_keeper_that_is_killed_takes_child_and_grandchild_with_it(family: Family) -> None:
    assert len(family.left()) == 3
    family.keeper.kill()
    seconds = family.gone()
    print("from the keeper's end to none left, s:", seconds)
    assert seconds is not None


def test_a_named_job_is_found_by_others_of_the_session(family: Family) -> None:
    found = used_by(family.name)
    print("used, by another process:", found)
    assert found is not None
    assert used_by("deskgrid-no-such-job") is None


def test_what_is_started_quietly_is_in_the_idle_class_and_dies_with_the_inner_job() -> None:
    quiet = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], creationflags=QUIET)
    assert psutil.Process(quiet.pid).nice() in (IDLE_PRIORITY_CLASS, NORMAL_PRIORITY_CLASS), "Wine ignores the flag"
    assert stand_back(quiet.pid) == ()
    assert psutil.Process(quiet.pid).nice() == IDLE_PRIORITY_CLASS
    reins = JobObject(idle=True)
    reins.take(quiet.pid)
    reins.close()
    assert quiet.wait(timeout=30) is not None


def test_a_process_that_is_not_there_cannot_be_taken() -> None:
    with pytest.raises(JobFailed, match="OpenProcess of 3: got error"):
        JobObject().take(3)


def test_limits_that_cannot_be_had_are_faults_and_nothing_ends() -> None:
    job = JobObject()
    try:
        faults = job.limit(share=0.25, memory_bytes=1 << 30)
        print("limit:", faults)
        assert all("expected success" in fault for fault in faults)
        print("used:", job.used())
    finally:
        job.close()
    with pytest.raises(ValueError, match="expected more than 0"):
        JobObject().limit(share=0.0)


def test_ecoqos_is_asked_for_and_a_refusal_is_a_fault() -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        faults = stand_back(sleeper.pid)
        print("ecoqos:", faults)
        assert all("EcoQoS" in fault for fault in faults)
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
    assert "OpenProcess" in stand_back(0)[0]


def test_a_job_can_be_ended_as_a_whole() -> None:
    code = (
        "from deskgrid.host.system.windows_job import JobObject\n"
        "import subprocess, sys\n"
        "job = JobObject(); job.join()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "job.end()\n"
    )
    keeper = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert keeper.stdout is not None
    child = int(keeper.stdout.readline())
    assert keeper.wait(timeout=30) == 1
    until = time.monotonic() + 10
    while psutil.pid_exists(child) and time.monotonic() < until:
        time.sleep(0.02)
    assert not psutil.pid_exists(child)
