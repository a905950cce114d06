"""A disk that is served, on the real thing: who is killed, what is refused, what is fetched, and what nobody finds."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rigs import QemuRig, servers
from served import CANARY, KEY, ServedRig, publication
from tiny_guest import DISK_LINE

from deskgrid.core.commands import Kill, Pause, Resume, Vacate
from deskgrid.core.events import Alive, Gone, Joined, Paused, Started, StartFailed
from deskgrid.hypervisor.confine.cores import here
from deskgrid.hypervisor.qemu.driver import QemuHypervisor
from deskgrid.images.serve.serve import ServeOrder
from tests.images.chunks.ground import Web, web
from tests.waiting import comes_true

pytestmark = pytest.mark.real


@pytest.fixture
def rig() -> Iterator[ServedRig]:
    made = ServedRig()
    yield made
    made.close()


@pytest.fixture
def source() -> Iterator[Web]:
    with web(publication()[0]) as made:
        yield made


@pytest.fixture
def slow(source: Web) -> Iterator[ServedRig]:
    """Its source is a web server, and is read slowly."""
    made = ServedRig(source.origin, lambda order: msgspec.structs.replace(order, bytes_per_second=1_500_000))
    yield made
    made.close()


def server(rig: QemuRig, vm: str) -> psutil.Process:
    """What serves the VM's disk."""
    (found,) = servers(vm)
    assert found.ppid() == rig.keeper(vm).pid
    return found


# -- who is killed ------------------------------------------------------------------------------------------


def test_a_vm_whose_disk_server_is_killed_ends_with_that_sentence_and_leaves_nothing(rig: ServedRig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    server(rig, vm).kill()
    gone = rig.wait(vm, Gone, 5.0)
    assert gone == Gone(
        False,
        "the process that serves its disk was killed by signal 9 (SIGKILL); its jobs run again elsewhere",
    )
    assert rig.left_behind(vm) == []


def test_a_guest_that_reads_just_then_gets_no_error_of_its_disk(slow: ServedRig) -> None:
    vm = slow.start("obedient", "dg.all=1")
    slow.wait(vm, Joined)
    time.sleep(1.0)
    server(slow, vm).kill()
    gone = slow.wait(vm, Gone, 5.0)
    assert "the process that serves its disk was killed by signal 9" in gone.sentence
    assert "read all" not in gone.sentence
    assert "I/O error" not in gone.sentence
    assert slow.left_behind(vm) == []


def test_a_killed_keeper_takes_the_disk_server_with_it(rig: ServedRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    assert server(rig, vm)
    rig.keeper(vm).kill()
    assert rig.wait(vm, Gone, 5.0).sentence == "its keeper was killed by signal 9"
    assert servers(vm) == []
    assert rig.left_behind(vm) == []


def test_a_disk_server_that_does_not_answer_does_not_hold_up_the_end(rig: ServedRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    server(rig, vm).suspend()
    rig.driver.order(vm, Kill())
    assert rig.wait(vm, Gone, 1.0 + rig.slack_seconds).clean
    assert rig.left_behind(vm) == []


def test_an_agent_that_dies_leaves_the_disk_server_to_the_keeper(rig: ServedRig) -> None:
    vm = rig.start("obedient", "dg.read=1")
    rig.wait(vm, Joined)
    process = server(rig, vm)
    rig.crash()
    rig.come_back()
    assert [seen.vm_id for seen in rig.driver.observe()] == [vm]
    assert server(rig, vm).pid == process.pid
    rig.crash()
    assert comes_true(lambda: rig.left_behind(vm) == [], 5.0 + rig.slack_seconds)


# -- what is refused ----------------------------------------------------------------------------------------


def failed(rig: ServedRig) -> StartFailed:
    vm = rig.start("obedient")
    found: StartFailed = rig.wait(vm, StartFailed, 60.0)
    assert rig.left_behind(vm) == []
    assert [type(event) for event in rig.events(vm)] == [StartFailed]
    return found


def test_another_project_s_key_is_refused(rig: ServedRig) -> None:
    rig.key = bytes(32)
    refused = failed(rig)
    assert (refused.fault, "ask for the key of lab" in refused.sentence) == ("desktop", True)


def test_a_store_that_is_gone_is_one_sentence(rig: ServedRig) -> None:
    rig.change = lambda order: msgspec.structs.replace(order, store=str(rig.home / "gone"))
    refused = failed(rig)
    assert (refused.fault, f"store {rig.home}/gone: it is not there" in refused.sentence) == ("desktop", True)


def test_a_program_that_is_not_there_is_one_sentence(rig: ServedRig) -> None:
    driver = rig.driver
    spec = rig.dressed(_plain(rig, "vm-none"))
    assert spec.image.served is not None
    served = msgspec.structs.replace(spec.image.served, argv=("/nonexistent/program",))
    driver.start(msgspec.structs.replace(spec, image=msgspec.structs.replace(spec.image, served=served)))
    refused = rig.wait("vm-none", StartFailed, 30.0)
    assert (refused.fault, "could not be started" in refused.sentence) == ("desktop", True)
    assert rig.left_behind("vm-none") == []


def _plain(rig: ServedRig, vm_id: str):
    from rigs import spec_of

    return spec_of(vm_id, "obedient", rig.guest)


def still(source: Web) -> None:
    """What was under way has arrived: nothing has been asked for a second."""
    for _ in range(30):
        asked = len(source.ranges)
        time.sleep(1.0)
        if len(source.ranges) == asked:
            return
    raise AssertionError("it is fetched on and on")


# -- what is fetched ----------------------------------------------------------------------------------------


def test_a_guest_reads_its_whole_disk_from_an_empty_store_and_a_slow_source(slow: ServedRig) -> None:
    vm = slow.start("obedient", "dg.read=1 dg.all=1")
    gone = slow.wait(vm, Gone, 180.0)
    assert "read all" in gone.sentence
    assert f"disk says: {DISK_LINE}" in gone.sentence


def test_paused_nothing_is_fetched_and_the_guest_reads_on_when_it_is_resumed(slow: ServedRig, source: Web) -> None:
    vm = slow.start("obedient", "dg.all=1")
    slow.wait(vm, Joined)
    before = len(source.ranges)
    assert comes_true(lambda: len(source.ranges) > before + 3, 60)
    slow.driver.order(vm, Pause())
    slow.wait(vm, Paused, 0.2 + slow.slack_seconds)
    still(source)
    asked, lived = len(source.ranges), slow.lived_seconds(vm)
    time.sleep(3.0)
    assert len(source.ranges) == asked
    assert slow.lived_seconds(vm) - lived < 0.05
    slow.driver.order(vm, Resume())
    assert "read all" in slow.wait(vm, Gone, 180.0).sentence
    assert len(source.ranges) > asked


def test_a_vm_that_is_to_leave_is_served_again(slow: ServedRig, source: Web) -> None:
    vm = slow.start("stubborn", "dg.all=1000")
    slow.wait(vm, Joined)
    slow.driver.order(vm, Pause())
    slow.wait(vm, Paused, 0.2 + slow.slack_seconds)
    still(source)
    asked = len(source.ranges)
    slow.driver.order(vm, Vacate())
    assert comes_true(lambda: len(source.ranges) > asked, 60)
    assert {frozenset(server(slow, vm).cpu_affinity() or ())} == {here(1)}


def test_a_source_that_is_away_makes_the_guest_wait_and_it_can_be_paused_and_goes_on(
    slow: ServedRig, source: Web
) -> None:
    vm = slow.start("obedient", "dg.all=1")
    slow.wait(vm, Joined)
    source.behave = "away"
    time.sleep(4.0)
    slow.driver.order(vm, Pause())
    assert slow.wait(vm, Paused, 0.2 + slow.slack_seconds).milliseconds < 200 + 1000 * slow.slack_seconds
    slow.driver.order(vm, Resume())
    time.sleep(1.0)
    source.behave = ""
    assert "read all" in slow.wait(vm, Gone, 180.0).sentence


def test_orders_are_obeyed_while_kernel_and_initrd_are_fetched_and_faults_are_logged(
    source: Web, caplog: pytest.LogCaptureFixture
) -> None:
    source.behave = "away"
    rig = ServedRig(source.origin)
    try:
        vm = rig.start("obedient")
        with caplog.at_level(logging.WARNING, "deskgrid.hypervisor"):
            assert comes_true(lambda: any(vm in one.getMessage() for one in caplog.records), 60)
        assert "the guest waits: " in caplog.text
        assert len(servers(vm)) == 1
        rig.driver.order(vm, Pause())
        rig.driver.order(vm, Resume())
        rig.driver.order(vm, Kill())
        assert rig.wait(vm, Gone, 1.0 + rig.slack_seconds).clean
        assert rig.left_behind(vm) == []
    finally:
        rig.close()


def test_a_source_that_comes_back_while_kernel_and_initrd_are_fetched_lets_the_vm_start(source: Web) -> None:
    source.behave = "away"
    rig = ServedRig(source.origin)
    try:
        vm = rig.start("obedient")
        time.sleep(3.0)
        assert rig.events(vm) == []
        source.behave = ""
        rig.wait(vm, Alive)
    finally:
        rig.close()


def test_an_image_without_a_kernel_is_booted_by_the_bios(rig: ServedRig) -> None:
    rig.image = "bios"
    vm = rig.start("silent")
    rig.wait(vm, Started)
    args = rig.qemu(vm).cmdline()
    assert "-kernel" not in args
    assert any('"driver": "nbd"' in arg for arg in args)
    assert server(rig, vm).cmdline()[-2:] == ["-", "-"]


# -- what nobody finds --------------------------------------------------------------------------------------


def shows(content: bytes) -> bool:
    return any(secret in content for secret in (CANARY[:24], KEY, KEY.hex().encode()))


def where_it_shows(rig: ServedRig) -> list[str]:
    """Files of agent and store, and arguments and environments on this machine, that show canary or key."""
    places = [path for folder in (rig.home, rig.shelf) for path in folder.rglob("*") if path.is_file()]
    places += [path for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")]
    return [str(path) for path in places if shows(_readable(path))]


def _readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_neither_key_nor_content_is_on_the_disk_in_arguments_or_environments(rig: ServedRig) -> None:
    assert shows((publication()[0].parent / "disk.raw").read_bytes())
    vm = rig.start("obedient", "dg.write=4 dg.all=30")
    rig.wait(vm, Joined)
    assert where_it_shows(rig) == []
    pid = rig.qemu(vm).pid
    overlay = next(fd for fd in Path(f"/proc/{pid}/fd").iterdir() if str(fd.readlink()).endswith("overlay (deleted)"))
    assert comes_true(lambda: overlay.stat().st_blocks * 512 > 4 << 20, 60)
    assert not shows(_readable(overlay))
    assert {path.name for path in (rig.home / "vms" / vm).iterdir()} == {"keeper.sock", "disk.sock"}
    server(rig, vm).kill()
    rig.wait(vm, Gone, 5.0)
    assert where_it_shows(rig) == []


def test_the_kernel_s_memory_is_given_back_and_the_keeper_holds_no_memory_file(rig: ServedRig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Alive)
    sizes = {
        str(fd.readlink()): fd.stat().st_size
        for fd in Path(f"/proc/{rig.qemu(vm).pid}/fd").iterdir()
        if str(fd.readlink()).startswith("/memfd:") and "errors" not in str(fd.readlink())
    }
    initrd = rig.guest.initrd.stat().st_size
    assert sizes == {"/memfd:kernel (deleted)": 0, "/memfd:initrd (deleted)": initrd}
    kept = [str(fd.readlink()) for fd in Path(f"/proc/{rig.keeper(vm).pid}/fd").iterdir()]
    assert not [name for name in kept if "kernel" in name or "initrd" in name]


def test_the_disk_server_stays_out_of_the_owner_s_way_with_all_its_threads(rig: ServedRig) -> None:
    driver = QemuHypervisor(rig.home, lambda event: None, accelerators=("tcg",))
    vm = f"vm-idle-{os.getpid()}"
    driver.start(rig.dressed(_plain(rig, vm)))
    assert comes_true(lambda: len(servers(vm)) == 1, 30)
    (process,) = servers(vm)
    assert comes_true(lambda: process.nice() == 19, 5)
    threads = [int(path.name) for path in Path(f"/proc/{process.pid}/task").iterdir()]
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    assert process.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() == "1000"
    group = Path(f"/proc/{process.pid}/autogroup")
    assert not group.exists() or comes_true(lambda: group.read_text().strip().endswith("nice 19"), 30)
    assert {name for name in process.environ() if "SECRET" in name or "KEY" in name} == set()
    assert process.environ()["MALLOC_ARENA_MAX"] == "1"
    driver.order(vm, Kill())
    assert comes_true(lambda: servers(vm) == [], 3)


def test_an_order_is_not_changed_on_its_way(rig: ServedRig) -> None:
    """The opening is bytes of any kind, up to the largest order that is taken."""
    rig.change = lambda order: ServeOrder(
        order.store, order.limits, order.digest, (*[order.sources[0]] * 300,), order.prefetch, order.bytes_per_second
    )
    vm = rig.start("obedient")
    rig.wait(vm, Alive)
