"""Starts that fail, on real HTCondor and QEMU with a guest that boots in seconds.

Who is blamed, what is told, who backs off, and that nothing stays.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.model.desktop import Fault

from .grid import MIB, Grid, ended_after_seconds, qemu_of, the_qemu_of, until

pytestmark = [pytest.mark.real, pytest.mark.paired, pytest.mark.timeout(1200)]

BACKOFF_SECONDS = 6
SETTINGS = {
    "plan": {
        "sizes": [{"cpus": 1, "memory_bytes": "256MiB"}, {"cpus": 1, "memory_bytes": "1GiB"}],
        "backoff_seconds": BACKOFF_SECONDS,
    }
}
LABS = ("lab-1", "lab-2")


@pytest.fixture(scope="module")
def labs(grid: Grid) -> Grid:
    """A coordinator and two desktops."""
    grid.start_coordinator(SETTINGS)
    for desktop in LABS:
        grid.start_desktop(desktop)
    return grid


@pytest.fixture
def image(labs: Grid, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an image of the tiny guest; nothing of it runs before or after."""
    name: str = request.param
    until("two idle desktops", lambda: labs.stage.client.status().available >= len(LABS))
    yield name
    labs.remove_jobs()
    for record in labs.live(name):
        labs.stage.client.end_vm(record.lease.vm_id, "the test is over")
    until("its machines to end", lambda: not labs.live(name))


def test_members_offer_their_room_and_why_says_that_no_job_waits(labs: Grid) -> None:
    until("both desktops", lambda: labs.stage.client.status().available == len(LABS))
    until("the reason", lambda: labs.reason_of_desktop("lab-1") == "no-demand")
    assert "No job waits for an image that this desktop could start. [no-demand]" in labs.why("desktop", "lab-1")


@pytest.mark.parametrize("image", ["panics"], indirect=True)
def test_an_image_that_panics_backs_off_is_probed_with_one_machine_and_why_says_so(labs: Grid, image: str) -> None:
    job = labs.submit(image, count=4)
    until("two machines to end", lambda: len([r for r in labs.leases(image) if r.ended_at]) >= 2)
    until("why to say so", lambda: labs.reason_of_job(job) == "image-backoff")
    assert "it is tried again, with one virtual machine, at" in labs.why("job", job)
    for record in labs.leases(image)[:2]:
        assert record.fault is Fault.IMAGE
        assert record.end is not None
        assert "gave up" in record.end.sentence or "Its guest's kernel" in record.end.sentence
        told = labs.sentences(record.lease.vm_id)
        assert "was told to start it" in told
        assert "the guest's kernel gave up" in told
    until("a probe to end", lambda: len([r for r in labs.leases(image) if r.ended_at]) >= 3)
    for record in labs.leases(image):
        _check_backed_off(record, labs.leases(image))
    assert "backoff" not in labs.why("desktop", LABS[0]) + labs.why("desktop", LABS[1])


def _check_backed_off(record: LeaseRecord, records: list[LeaseRecord]) -> None:
    """After n failures in a row a start waited n - 1 times doubled, and was alone."""
    granted_at = record.lease.granted_at
    before = [r.ended_at for r in records if r.lease.granted_at < granted_at]
    failed = [ended_at for ended_at in before if ended_at is not None and ended_at <= granted_at]
    if failed:
        assert len(failed) == len(before), "a probe was not alone"
        waited = (granted_at - max(failed)).total_seconds()
        assert waited >= BACKOFF_SECONDS * 2 ** (len(failed) - 1) - 1


@pytest.mark.parametrize("image", ["mute"], indirect=True)
def test_a_guest_that_comes_up_but_never_joins_is_ended_and_its_image_blamed(labs: Grid, image: str) -> None:
    job = labs.submit(image)
    until("a machine that is up", lambda: any(labs.state(r.lease.vm_id) == "running" for r in labs.live(image)))
    vm_id = labs.live(image)[0].lease.vm_id
    until("the guest's word", lambda: "joined" in labs.events(vm_id))
    assert "[vm-starting]" in labs.why("job", job)
    labs.kill("coordinator")
    labs.start_coordinator({"plan": {**SETTINGS["plan"], "join_seconds": 8}})
    try:
        until("its end", lambda: labs.lease(vm_id).ended_at)
        until("why to say so", lambda: labs.reason_of_job(job) == "image-backoff")
    finally:
        labs.kill("coordinator")
        labs.start_coordinator(SETTINGS)
    record = labs.lease(vm_id)
    assert record.end is not None
    assert (record.end.name, record.fault, record.joined_at) == ("never-joined", Fault.IMAGE, None)
    assert "It was up, but HTCondor never saw it." in labs.sentences(vm_id)
    assert qemu_of(vm_id) is None


@pytest.mark.parametrize("image", ["silent"], indirect=True)
def test_a_qemu_killed_before_its_guest_spoke_is_told_with_its_cause_and_leaves_nothing(labs: Grid, image: str) -> None:
    labs.submit(image)
    until("a machine that boots", lambda: any(labs.state(r.lease.vm_id) == "booting" for r in labs.live(image)))
    record = labs.live(image)[0]
    vm_id = record.lease.vm_id
    the_qemu_of(vm_id).kill()
    until("its end", lambda: labs.lease(vm_id).ended_at)
    end = labs.lease(vm_id).end
    assert end is not None
    assert "QEMU was killed by signal 9 (SIGKILL)" in end.sentence
    assert "QEMU was killed by signal 9 (SIGKILL)" in labs.sentences(vm_id)
    assert vm_id not in {path.name for path in labs.vm_folders(record.lease.desktop)}
    until("the ads' withdrawal", lambda: "ads-withdrawn" in labs.events(vm_id))


@pytest.mark.parametrize("image", ["mute"], indirect=True)
def test_an_agent_killed_takes_its_machine_with_it_within_five_seconds(labs: Grid, image: str) -> None:
    labs.submit(image)
    until("a machine that is up", lambda: any(labs.state(r.lease.vm_id) == "running" for r in labs.live(image)))
    record = next(r for r in labs.live(image) if labs.state(r.lease.vm_id) == "running")
    vm_id, desktop = record.lease.vm_id, record.lease.desktop
    qemu = the_qemu_of(vm_id)
    keeper = qemu.parent()
    assert keeper is not None
    begin = time.monotonic()
    labs.kill(desktop)
    seconds = ended_after_seconds(qemu.pid, begin)
    assert seconds < 5.0
    until("its keeper to end", lambda: not keeper.is_running(), 10)
    until("its folder to go", lambda: labs.vm_folders(desktop) == [], 10)
    labs.start_agent(desktop)
    until("its end", lambda: labs.lease(vm_id).ended_at)
    end = labs.lease(vm_id).end
    assert end is not None
    assert end.name == "vanished"
    assert "its agent was restarted or lost it" in labs.sentences(vm_id)


@pytest.mark.parametrize("image", ["sound"], indirect=True)
def test_a_full_disk_is_the_desktops_fault_and_the_image_starts_elsewhere(labs: Grid, image: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system for it")
    cast = labs.stage.cast
    small = cast.make_folder("small")
    options = f"size=40m,mode=0700,uid={cast.account.uid},gid={cast.account.gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)], check=True)
    policy = {"disk_floor_bytes": 0, "vm_disk_bytes": 64 * MIB}
    for desktop in LABS:
        labs.stage.owner(desktop, "present")
    try:
        until("the owners", lambda: labs.stage.client.status().available == 0)
        labs.start_desktop("full", {"state": str(small), "policy": policy})
        until("the new desktop", lambda: labs.stage.client.status().available == 1)
        _fill(small, leave_bytes=128 * 1024)
        job = labs.submit(image)
        until("a start that fails", lambda: any(r.ended_at for r in labs.leases(image) if r.lease.desktop == "full"))
        record = next(r for r in labs.leases(image) if r.lease.desktop == "full")
        assert record.fault is Fault.DESKTOP
        assert record.end is not None
        assert "No space left on device" in record.end.sentence
        assert "make room on this disk" in labs.sentences(record.lease.vm_id)
        until("why to say so", lambda: labs.reason_of_desktop("full") == "desktop-backoff")
        assert list((small / "vms").iterdir()) == []
        assert "[no-desktop-free]" in labs.why("job", job)
        for desktop in LABS:
            labs.stage.owner(desktop, "away")
        until("a start elsewhere", lambda: any(r.lease.desktop in LABS for r in labs.live(image)))
        assert labs.stage.cast.processes["full"].poll() is None
    finally:
        for desktop in LABS:
            labs.stage.owner(desktop, "away")
        if "full" in labs.agents:
            labs.kill("full")
            labs.stage.client.revoke("full", "the test is over")
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_desktop_whose_disk_is_under_its_floor_says_so_and_is_given_nothing(labs: Grid) -> None:
    labs.start_desktop("floor", {"policy": {"disk_floor_bytes": 1 << 50}})
    try:
        until("why to say so", lambda: labs.reason_of_desktop("floor") == "disk-floor")
        assert "The disk is nearly full" in labs.why("desktop", "floor")
    finally:
        os.kill(labs.pid("floor"), signal.SIGTERM)
        labs.stage.cast.processes.pop("floor").wait(60)
        labs.agents.discard("floor")


def _fill(folder: Path, leave_bytes: int) -> None:
    """Fill a file system but for so much."""
    status = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - leave_bytes)
