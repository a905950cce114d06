"""Coordinator and agents over real HTTPS when the network between them is bad, and when clocks are wrong."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from deskgrid.demo.cast import Cast
from deskgrid.model.image import ImageFacts, ImageRef

from .campus import Campus, Watch
from .grid import until
from .wire import FATES, LATEST_SECONDS, BadNetwork

pytestmark = [pytest.mark.real, pytest.mark.paired, pytest.mark.timeout(900)]

IMAGE = "its-sl6"
STORM_SECONDS = 18.0


@pytest.fixture(scope="module")
def campus() -> Iterator[Campus]:
    cast = Cast()
    try:
        made = Campus(cast, ImageFacts(ImageRef(IMAGE, "0" * 64), 256 << 20, 1 << 30))
        cast.at_end(made.close)
        yield made
    finally:
        cast.close()


@pytest.fixture
def empty(campus: Campus) -> Iterator[Campus]:
    """No machines and no desktops at its end."""
    yield campus
    campus.ahead = timedelta(0)
    for desktop, process in list(campus.cast.processes.items()):
        del campus.cast.processes[desktop]
        process.kill()
        process.wait()
        campus.client.revoke(desktop, "the test is over")
    until("no machine", lambda: not campus.client.vms())


def end_all(campus: Campus) -> None:
    for vm in campus.client.vms():
        campus.client.end_vm(vm.vm_id, "the test is over")
    until("all machines to end", lambda: not campus.client.vms())


def run_here(campus: Campus, desktop: str) -> list[str]:
    """The machines that an agent runs, as it says itself."""
    status = campus.status(desktop)
    return sorted(vm.vm_id for vm in status.vms) if status is not None else []


def test_lost_repeated_late_and_reordered_messages_lose_nothing_and_start_nothing_twice(empty: Campus) -> None:
    campus, network = empty, BadNetwork(empty.at.url, empty.state, seed=7)
    desktops = tuple(f"storm-{number}" for number in range(3))
    for desktop in desktops:
        campus.start_desktop(desktop, network.url)
    until("the desktops", lambda: campus.client.status().available == len(desktops))
    watch = Watch(campus, desktops)
    watch.start()
    try:
        network.calm = False
        jobs = _storm(campus, desktops)
        network.calm = True
        for desktop in desktops:
            campus.owner(desktop, "away")
        until("all jobs to finish", lambda: campus.pool.done(jobs) == len(jobs))
        end_all(campus)
        until("all agents to have ended them", lambda: not any(run_here(campus, desktop) for desktop in desktops))
    finally:
        watch.stop()
        network.close()
    assert all(network.met[fate] for fate in FATES), network.met
    assert watch.faults == []
    assert watch.seen
    _check_records(campus, watch)
    campus.cast.watch()  # every agent still runs


def _storm(campus: Campus, desktops: tuple[str, ...]) -> tuple[str, ...]:
    """Jobs come, owners come and go, the network is bad."""
    chance, jobs = random.Random(11), []
    end = time.monotonic() + STORM_SECONDS
    while time.monotonic() < end:
        with campus.pool.lock:
            jobs += campus.pool.submit(IMAGE, 2, run_seconds=1.5)
        for desktop in desktops:
            campus.owner(desktop, chance.choice(["away", "away", "present"]))
        time.sleep(chance.uniform(0.5, 2.5))
    return tuple(jobs)


def _check_records(campus: Campus, watch: Watch) -> None:
    """Every machine that ran was ordered, has one start, one end with its reason, and each line of its story once."""
    leases = {record.lease.vm_id: record for record in campus.client.leases(limit=10_000)}
    assert watch.seen.keys() <= leases.keys()
    for vm_id, record in leases.items():
        assert record.ended_at is not None
        assert record.end is not None
        assert record.end.sentence
        assert watch.seen.get(vm_id, record.lease.desktop) == record.lease.desktop
        story = campus.client.story(vm_id)
        told = Counter((line.source, line.told_at, line.state, line.event) for line in story)
        assert max(told.values()) == 1, [line for line, times in told.items() if times > 1]
        events = Counter((line.source == "coordinator", line.event) for line in story)
        assert events[True, "granted"] == events[True, "ended"] == 1
        assert sum(line.state == "fetching" for line in story) <= 1
        assert sum(line.state == "running" and line.event == "alive" for line in story) <= 1
        # The clocks are one: a line is never placed further away than a message was late.
        assert all(abs((line.at - line.told_at).total_seconds()) <= LATEST_SECONDS + 1 for line in story)


@pytest.mark.parametrize("hours", [-1.0, 1.0])
def test_a_desktop_whose_clock_is_wrong_by_an_hour_works_all_the_same_and_is_told_of(
    empty: Campus, hours: float
) -> None:
    campus, desktop = empty, "early" if hours > 0 else "late"
    campus.start_desktop(desktop, hours_ahead=hours)
    until("the desktop", lambda: campus.client.status().available == 1)
    with campus.pool.lock:
        jobs = campus.pool.submit(IMAGE, run_seconds=2)
    until("the job", lambda: campus.pool.done(jobs) == 1)
    (vm,) = campus.client.vms()
    assert vm.state == "running"
    why = campus.client.why_desktop(desktop)
    assert any(reason.name == "clock-wrong" and "set it right" in reason.sentence for reason in why.further)
    seconds = campus.client.desktop(desktop).skew_seconds
    assert abs(seconds - hours * 3600) < 60
    end_all(campus)
    story = campus.client.story(vm.vm_id)
    assert abs((story[-1].at - campus.now()).total_seconds()) < 120
    assert {"alive", "ended"} <= {line.event for line in story}
    assert [line.at for line in story] == sorted(line.at for line in story)


@pytest.mark.parametrize("hours", [1, -1])
def test_when_the_coordinators_clock_jumps_by_an_hour_what_runs_goes_on_and_work_is_still_given(
    empty: Campus, hours: int
) -> None:
    campus, desktop = empty, f"steady-{'forward' if hours > 0 else 'back'}"
    campus.start_desktop(desktop)
    until("the desktop", lambda: campus.client.status().available == 1)
    with campus.pool.lock:
        first = campus.pool.submit(IMAGE, run_seconds=1)
    until("the first job", lambda: campus.pool.done(first) == 1)
    (vm,) = campus.client.vms()
    campus.ahead = timedelta(hours=hours)
    time.sleep(5)  # several reports and cycles
    assert [v.vm_id for v in campus.client.vms()] == [vm.vm_id] == run_here(campus, desktop)
    with campus.pool.lock:
        second = campus.pool.submit(IMAGE, run_seconds=1)
    until("the second job", lambda: campus.pool.done(second) == 1)
    assert vm.vm_id in run_here(campus, desktop)


def test_an_agent_that_reaches_nobody_obeys_its_owner_and_tells_it_later(empty: Campus) -> None:
    campus, network = empty, BadNetwork(empty.at.url, empty.state, seed=1)
    campus.start_desktop("alone", network.url)
    until("the desktop", lambda: campus.client.status().available == 1)
    with campus.pool.lock:
        jobs = campus.pool.submit(IMAGE, run_seconds=60)
    until("a machine", lambda: [vm for vm in campus.client.vms() if vm.state == "running"])
    (vm,) = campus.client.vms()
    network.down = True
    time.sleep(3)
    assert run_here(campus, "alone") == [vm.vm_id]
    campus.owner("alone", "present")
    until("its end", lambda: run_here(campus, "alone") == [])
    assert [v.vm_id for v in campus.client.vms()] == [vm.vm_id]  # nobody has told
    with campus.pool.lock:
        campus.pool.remove(jobs[0])
    network.down = False
    until("the coordinator to hear of it", lambda: not campus.client.vms())
    network.close()
    record = next(r for r in campus.client.leases() if r.lease.vm_id == vm.vm_id)
    assert record.end is not None
    assert record.end.name == "owner-active"
    story = [line for line in campus.client.story(vm.vm_id) if line.source == "alone"]
    assert [line.state for line in story if line.state][-1] == "ended"


def test_no_secret_is_in_what_agents_and_coordinator_logged(empty: Campus) -> None:
    secrets = [path.read_text().strip() for path in empty.cast.folder.glob("*/credential")]
    secrets.append((empty.state / "operator.token").read_text().strip())
    secrets += list(empty.pool.tokens)
    for log in Path(empty.cast.folder).glob("*.log"):
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text]
