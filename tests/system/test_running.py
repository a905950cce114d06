"""Whoever is killed while a job runs: nothing is lost that need not be. Real HTCondor, QEMU and the demo's own image.

The tests tell one story in their order: they share one virtual machine as long as it may live.
"""

import json
import time
from collections.abc import Iterator

import psutil
import pytest

from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.pool.config import YOUNG_SECONDS
from deskgrid.wire.operator import StoryLine

from .grid import DONE, IDLE, RUNNING, Bell, Grid, ended_after_seconds, qemu_of, the_qemu_of, until

pytestmark = [pytest.mark.real, pytest.mark.paired, pytest.mark.timeout(1500)]

DESKTOP = "desk-1"
WITHOUT_SECONDS = 60.0
SETTINGS = {"plan": {"backoff_seconds": 20}}


class Work:
    """A job that works in a guest until it is told to end, and where it is."""

    def __init__(self, grid: Grid, bell: Bell, name: str, *lines: str) -> None:
        self.grid, self.bell, self.name = grid, bell, name
        self.id = grid.submit("demo", *bell.job_lines(grid.stage.pool.jobs, name), *lines)

    def await_running(self) -> "Work":
        until(f"{self.name} to run", lambda: self.bell.beats[self.name] > 0 and self.grid.job(self.id) == RUNNING)
        until("the collector to say where", lambda: self.id in {job for _, job in self.grid.slots()})
        return self

    @property
    def vm_id(self) -> str:
        """The VM that it runs in."""
        return next(vm for vm, job in self.grid.slots() if job == self.id)

    @property
    def starts(self) -> int:
        """How often it has begun, as it says itself."""
        return len(self.bell.starts[self.name])

    def goes_on(self) -> None:
        """It still works, in the same start."""
        self.bell.await_beats(self.name, 3)
        until("HTCondor to show it running", lambda: self.grid.job(self.id) == RUNNING)

    def end(self) -> None:
        self.bell.tell_to_end(self.name)
        until(f"{self.name} to finish", lambda: self.grid.job(self.id) == DONE)
        assert f"{self.name} was told to end" in (self.grid.stage.pool.jobs / f"{self.name}.out").read_text()


@pytest.fixture(scope="module")
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


@pytest.fixture(scope="module")
def desk(grid: Grid) -> Grid:
    """A coordinator and one desktop, idle."""
    grid.start_coordinator(SETTINGS)
    grid.start_desktop(DESKTOP)
    return grid


@pytest.fixture(scope="module")
def work(desk: Grid, bell: Bell) -> Work:
    """The job that the tests share; it is running."""
    return Work(desk, bell, "work").await_running()


def test_a_job_runs_and_why_story_and_lists_say_where_and_how_it_came_there(work: Work) -> None:
    grid, vm_id = work.grid, work.vm_id
    assert f"job {work.id}: It runs on " in grid.why("job", work.id)
    assert f"see: deskgrid story {vm_id}" in grid.why("job", work.id)
    assert f"{DESKTOP} has 1 virtual machine. ({vm_id} (demo) running)" in grid.why("desktop", DESKTOP)
    until("the claim", lambda: grid.lease(vm_id).claimed)
    told = grid.sentences(vm_id)
    for sentence in (
        f"1 waiting job named demo, and {DESKTOP} is idle",
        f"{DESKTOP} was told to start it.",
        "Its processors run, on ",
        "Its guest has given its first sign of life.",
        "HTCondor knows it.",
        "HTCondor gave it to a job.",
    ):
        assert sentence in told
    (shown,) = json.loads(grid.stage.ask("vm", "list", "--json"))
    assert (shown["vm_id"], shown["state"], shown["jobs"]) == (vm_id, "running", [work.id])


def test_the_schedd_killed_comes_back_and_the_job_has_not_noticed(work: Work) -> None:
    grid, vm_id = work.grid, work.vm_id
    began = int(grid.job(work.id, "JobCurrentStartDate"))
    until("it to be old enough for that", lambda: time.time() > began + YOUNG_SECONDS + 2)
    before = grid.stage.pool.daemon_pids()["condor_schedd"]
    psutil.Process(before).kill()
    until("a new schedd", lambda: grid.stage.pool.daemon_pids().get("condor_schedd", before) != before)
    work.goes_on()
    assert (work.vm_id, work.starts) == (vm_id, 1)


def test_the_coordinator_killed_and_started_again_has_lost_no_desktop_no_lease_and_no_record(work: Work) -> None:
    grid, client, vm_id = work.grid, work.grid.stage.client, work.vm_id
    desktops = [(d.name, d.enrolled_at) for d in client.desktops()]
    leases = {record.lease.vm_id: _lasting(record) for record in grid.leases()}
    stories = {known: client.story(known) for known in leases}
    images = client.images()
    qemu = the_qemu_of(vm_id)
    grid.kill("coordinator")
    work.bell.await_beats(work.name)
    grid.start_coordinator(SETTINGS)
    client = grid.stage.client
    assert [(d.name, d.enrolled_at) for d in client.desktops()] == desktops
    until("its images to be seen again", lambda: client.images() == images)
    assert {record.lease.vm_id: _lasting(record) for record in grid.leases()} == leases
    for known, story in stories.items():
        assert _lines(client.story(known))[: len(story)] == _lines(story)
    until("the desktop's report", lambda: grid.state(vm_id) == "running")
    work.goes_on()
    assert (work.vm_id, work.starts) == (vm_id, 1)
    assert the_qemu_of(vm_id).pid == qemu.pid
    assert "It runs on" in grid.why("job", work.id)


def _lasting(record: LeaseRecord) -> tuple[object, ...]:
    """What of a lease may not be lost."""
    lease = record.lease
    return (lease.desktop, lease.image, lease.granted_at, record.joined_at, record.claimed, record.ended_at, record.end)


def _lines(story: list[StoryLine]) -> list[tuple[object, ...]]:
    return [(line.id, line.told_at, line.source, line.event, line.sentence) for line in story]


def test_the_agent_killed_and_started_at_once_finds_its_machine_and_the_job_goes_on(work: Work) -> None:
    grid, vm_id = work.grid, work.vm_id
    qemu = the_qemu_of(vm_id)
    grid.kill(DESKTOP)
    grid.start_agent(DESKTOP)
    until("the agent to find it", lambda: f"{vm_id} found again, running" in grid.log(DESKTOP))
    work.goes_on()
    assert (work.vm_id, work.starts) == (vm_id, 1)
    assert the_qemu_of(vm_id).pid == qemu.pid
    until("the report", lambda: grid.state(vm_id) == "running")
    assert "It was running when the agent came back" in grid.why("desktop", DESKTOP)


def test_without_a_coordinator_for_a_minute_the_job_goes_on_and_the_owner_still_wins(work: Work) -> None:
    grid, vm_id = work.grid, work.vm_id
    qemu = the_qemu_of(vm_id)
    grid.kill("coordinator")
    gone = time.monotonic()
    while time.monotonic() < gone + WITHOUT_SECONDS:
        work.bell.await_beats(work.name)
    assert (the_qemu_of(vm_id).pid, work.starts) == (qemu.pid, 1)
    grid.stage.owner(DESKTOP, "present")
    ended_after_seconds(qemu.pid, time.monotonic())
    until("the job to be idle", lambda: grid.job(work.id) == IDLE)
    until("its folder to go", lambda: grid.vm_folders(DESKTOP) == [], 10)
    grid.start_coordinator(SETTINGS)
    grid.stage.owner(DESKTOP, "away")  # a change is told at once; else up to a minute may pass until it tries again
    until("its end to be told", lambda: grid.lease(vm_id).ended_at, step_seconds=0.1)
    grid.stage.owner(DESKTOP, "present")
    end = grid.lease(vm_id).end
    assert end is not None
    assert end.name == "owner-active"
    assert "leaving" in {line.state for line in grid.stage.client.story(vm_id)}
    until("why to say so", lambda: grid.reason_of_desktop(DESKTOP) == "owner-active")
    until("why job to say so", lambda: "[no-desktop-free]" in grid.why("job", work.id))
    assert "backoff" not in grid.why("desktop", DESKTOP)


def test_when_the_owner_has_left_again_the_job_runs_again_to_its_end(work: Work) -> None:
    grid = work.grid
    seen = work.bell.beats[work.name]
    grid.stage.owner(DESKTOP, "away")
    until("the job to work again", lambda: work.bell.beats[work.name] > seen)
    until("HTCondor to show it", lambda: grid.job(work.id) == RUNNING)
    assert work.starts == 2
    work.end()


def test_qemu_killed_under_a_job_is_told_with_its_cause_and_the_job_is_soon_idle(work: Work, bell: Bell) -> None:
    grid = work.grid
    short = Work(grid, bell, "short").await_running()
    vm_id = short.vm_id
    until("the claim", lambda: grid.lease(vm_id).claimed)
    the_qemu_of(vm_id).kill()
    until("its end", lambda: grid.lease(vm_id).ended_at)
    assert "QEMU was killed by signal 9 (SIGKILL)" in grid.sentences(vm_id)
    until("its ads to leave the collector", lambda: vm_id not in {vm for vm, _ in grid.slots()})
    until("the job to be idle or to run elsewhere", lambda: grid.job(short.id) == IDLE or short.starts == 2)
    # The machine had joined and worked: that is nobody's failed start, and the next one may come at once.
    until("the next machine", lambda: [r for r in grid.live("demo") if r.lease.vm_id != vm_id])


def test_qemu_killed_while_a_sound_image_boots_is_held_against_the_desktop(work: Work) -> None:
    grid = work.grid
    until("a machine that boots", lambda: [vm for vm in grid.stage.client.vms() if vm.state in ("booting", "running")])
    (record,) = grid.live("demo")
    assert record.joined_at is None
    vm_id = record.lease.vm_id
    the_qemu_of(vm_id).kill()
    until("its end", lambda: grid.lease(vm_id).ended_at)
    assert qemu_of(vm_id) is None
    until("why to say so", lambda: grid.reason_of_desktop(DESKTOP) == "desktop-backoff")
    told = grid.why("desktop", DESKTOP)
    assert f"The last 1 start of desktop {DESKTOP} failed; it is tried again, with one virtual machine, at" in told
    assert len(grid.live("demo")) == 0
