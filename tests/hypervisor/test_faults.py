"""Faults on the real thing: whoever is killed, whatever is full or hostile, nothing stays and nobody hangs."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rigs import MIB, SECRET, QemuRig, into, qemus, spec_of
from tiny_guest import DISK_LINE

from deskgrid.core.commands import Kill, Pause, Resume
from deskgrid.core.events import Alive, FromHypervisor, Gone, GuestLeft, Joined, Paused, Started, StartFailed
from deskgrid.hypervisor.machine.accelerators import offered
from deskgrid.hypervisor.qemu.driver import QemuHypervisor
from tests.waiting import comes_true

pytestmark = pytest.mark.real

UNPRIVILEGED = 61999


# -- secrets ------------------------------------------------------------------------------------------------


def readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def where_the_secret_is(home: Path) -> list[str]:
    """All files of the state directory and all arguments and environments on this machine that show the secret."""
    places = [path for path in home.rglob("*") if path.is_file()]
    places += [path for name in ("cmdline", "environ") for path in Path("/proc").glob(f"[0-9]*/{name}")]
    return [str(path) for path in places if SECRET.encode() in readable(path)]


def test_no_secret_is_in_arguments_environments_or_files_not_even_after_a_kill(rig: QemuRig) -> None:
    vm = rig.start("obedient")
    assert where_the_secret_is(rig.home) == []
    rig.wait(vm, Joined)
    assert where_the_secret_is(rig.home) == []
    rig.keeper(vm).kill()
    rig.wait(vm, Gone, 3.0)
    assert where_the_secret_is(rig.home) == []


def test_what_the_guest_writes_is_nowhere_in_the_clear_on_the_disk(rig: QemuRig) -> None:
    vm = rig.start("obedient", "dg.write=8")
    rig.wait(vm, Joined)
    pid = rig.qemu(vm).pid
    overlay = next(fd for fd in Path(f"/proc/{pid}/fd").iterdir() if str(fd.readlink()).endswith("overlay (deleted)"))
    assert comes_true(lambda: overlay.stat().st_blocks * 512 > 8 * MIB, 60)
    time.sleep(1)
    content = readable(overlay)
    assert len(content) > 8 * MIB
    assert b"xxxxxxxxxxxxxxxx" not in content
    assert rig.guest.disk.read_bytes().count(b"x" * 16) == 0


def test_a_token_that_the_guest_prints_is_not_in_the_sentence_of_its_end(rig: QemuRig) -> None:
    vm = rig.start("obedient", "dg.tell=1 dg.poweroff=1")
    gone = rig.wait(vm, Gone)
    assert SECRET not in gone.sentence
    assert "<secret>" in gone.sentence


# -- whoever is killed --------------------------------------------------------------------------------------


def test_qemu_killed_is_told_at_once_and_leaves_nothing(rig: QemuRig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.qemu(vm).kill()
    gone = rig.wait(vm, Gone, 3.0)
    assert not gone.clean
    assert "QEMU was killed by signal 9 (SIGKILL)" in gone.sentence
    assert rig.left_behind(vm) == []


def test_keeper_killed_takes_qemu_with_it(rig: QemuRig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    rig.keeper(vm).kill()
    gone = rig.wait(vm, Gone, 3.0)
    assert not gone.clean
    assert gone.sentence == "its keeper was killed by signal 9"
    assert rig.left_behind(vm) == []


def test_keeper_told_to_end_ends_its_vm(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.keeper(vm).terminate()
    gone = rig.wait(vm, Gone, 3.0)
    assert (gone.clean, gone.sentence) == (False, "its keeper was told to end")
    assert rig.left_behind(vm) == []


def test_a_keeper_that_hangs_cannot_keep_a_vm_alive(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.keeper(vm).suspend()
    rig.driver.order(vm, Kill())
    gone = rig.wait(vm, Gone, 3.0)
    assert gone.clean
    assert rig.left_behind(vm) == []


def test_a_qemu_that_does_not_answer_is_paused_by_a_signal_and_goes_on_after(rig: QemuRig) -> None:
    vm = rig.start("busy")
    rig.wait(vm, Joined)
    rig.qemu(vm).suspend()
    rig.driver.order(vm, Pause())
    assert 70 < rig.wait(vm, Paused, 2.0).milliseconds < 1000
    rig.driver.order(vm, Resume())
    before = rig.lived_seconds(vm)
    assert comes_true(lambda: rig.lived_seconds(vm) > before + 0.3, 10)


@contextlib.contextmanager
def agent(words: str = "") -> Iterator[tuple["subprocess.Popen[str]", Path, str]]:
    """An agent in a process of its own, as an ordinary user, with one VM that has joined."""
    rig = QemuRig()
    home = Path(tempfile.mkdtemp(prefix="dg-"))
    code = Path(tempfile.mkdtemp(prefix="dg-code-"))  # the checkout may lie where an ordinary user can't read
    code.chmod(0o755)
    for name in ("agent_process.py", "rigs.py", "tiny_guest.py"):
        shutil.copy(Path(__file__).parent / name, code)
    user = UNPRIVILEGED if os.geteuid() == 0 else None
    if user is not None:
        os.chown(home, user, user)
    vm = f"vm-a-{os.getpid()}-{time.monotonic_ns()}"
    args = [sys.executable, str(code / "agent_process.py"), str(home), vm, words]
    process = subprocess.Popen(
        [*args, str(rig.guest.kernel.parent)],
        stdout=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        cwd="/",
    )
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line.split()[0])
            if "Joined" in said:
                break
        assert said == ["Started", "Alive", "Joined"]
        yield process, home, vm
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(code)
        assert comes_true(lambda: not qemus(vm), 15)
        shutil.rmtree(home)
        rig.close()


def news(events: list[FromHypervisor]) -> list[FromHypervisor]:
    """What a second driver hears, less what the first may have died before confirming: that is told again."""
    return [event for event in events if not isinstance(event, Started | Alive | Joined)]


def test_an_agent_killed_ends_its_vm_within_five_seconds_and_nothing_stays() -> None:
    with agent() as (process, home, vm):
        assert where_the_secret_is(home) == []
        (qemu,) = qemus(vm)
        if os.geteuid() == 0:
            assert qemu.uids().effective == UNPRIVILEGED
        process.kill()
        killed = time.monotonic()
        assert comes_true(lambda: not qemus(vm), 5.0 + QemuRig.slack_seconds)
        assert time.monotonic() - killed > 2.0
        assert comes_true(lambda: list((home / "vms").iterdir()) == [], 1.0)
        assert where_the_secret_is(home) == []


def test_a_running_guest_is_asked_to_leave_before_the_silence_ends_it() -> None:
    with agent() as (process, home, vm):
        process.kill()
        time.sleep(0.2)
        events: list[FromHypervisor] = []
        (qemu,) = qemus(vm)
        assert comes_true(lambda: len(qemu.cpu_affinity() or ()) == 1, 4.0)
        driver = QemuHypervisor(home, into(events), accelerators=("tcg",))
        assert [seen.vm_id for seen in driver.observe()] == [vm]
        assert comes_true(lambda: any(isinstance(event, GuestLeft) for event in events), 2.0)
        driver.order(vm, Kill())
        assert comes_true(lambda: any(isinstance(event, Gone) for event in events), 2.0)


def test_an_agent_killed_and_started_again_finds_its_vm() -> None:
    with agent() as (process, home, vm):
        process.kill()
        process.wait()
        time.sleep(1.0)
        events: list[FromHypervisor] = []
        driver = QemuHypervisor(home, into(events), accelerators=("tcg",))
        (seen,) = driver.observe()
        assert (seen.vm_id, seen.alive, seen.accelerator) == (vm, True, "tcg")
        for _ in range(12):
            driver.heartbeat()
            time.sleep(0.5)
        assert news(events) == []
        assert len(qemus(vm)) == 1
        driver.order(vm, Kill())
        assert comes_true(lambda: news(events) != [], 2.0)
        assert news(events) == [Gone(True, "it was ended as ordered")]
        assert list((home / "vms").iterdir()) == []


def test_an_announced_silence_is_waited_out() -> None:
    with agent() as (process, home, vm):
        process.send_signal(signal.SIGUSR1)
        assert process.wait(5) == 0
        time.sleep(6.5)
        events: list[FromHypervisor] = []
        driver = QemuHypervisor(home, into(events), accelerators=("tcg",))
        assert [seen.vm_id for seen in driver.observe()] == [vm]
        time.sleep(0.5)
        assert news(events) == []
        driver.order(vm, Kill())
        assert comes_true(lambda: news(events) != [], 2.0)


def test_a_second_driver_takes_over_and_the_first_lets_go(rig: QemuRig) -> None:
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    events: list[FromHypervisor] = []
    second = QemuHypervisor(rig.home, into(events), accelerators=("tcg",))
    assert [seen.vm_id for seen in second.observe()] == [vm]
    time.sleep(0.3)
    rig.driver.order(vm, Kill())
    time.sleep(0.5)
    assert len(qemus(vm)) == 1
    second.order(vm, Kill())
    assert comes_true(lambda: events != [], 2.0)
    assert rig.events(vm)[-1] == Joined()


# -- whatever is full or missing ----------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB."""
    place = Path(tempfile.mkdtemp(prefix="dg-"))
    args = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", str(place)]
    mounted = subprocess.run(args, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        place.rmdir()
        pytest.skip(f"a small file system needs a mount, and that needs root: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def watched(home: Path) -> tuple[QemuHypervisor, list[FromHypervisor]]:
    events: list[FromHypervisor] = []
    return QemuHypervisor(home, into(events), accelerators=("tcg",), idle_class=False), events


def ended(driver: QemuHypervisor, events: list[FromHypervisor], seconds: float) -> FromHypervisor:
    def over() -> bool:
        driver.heartbeat()
        return any(isinstance(event, Gone | StartFailed) for event in events)

    assert comes_true(over, seconds), events
    return events[-1]


def test_a_full_disk_at_the_start_is_the_desktop_s_fault(rig: QemuRig, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(8 * MIB - 256 * 1024))
    driver, events = watched(small_disk)
    driver.start(spec_of("vm-full", "obedient", rig.guest))
    failed = ended(driver, events, 20)
    assert isinstance(failed, StartFailed)
    assert failed.fault == "desktop"
    assert "No space left on device" in failed.sentence
    assert str(small_disk) in failed.sentence
    assert list((small_disk / "vms").iterdir()) == []
    driver.close()


def test_a_disk_that_fills_up_ends_the_vm_and_names_the_disk(rig: QemuRig, small_disk: Path) -> None:
    driver, events = watched(small_disk)
    driver.start(spec_of("vm-fills", "obedient", rig.guest, "dg.write=40"))
    gone = ended(driver, events, 120)
    assert isinstance(gone, Gone)
    assert not gone.clean
    assert str(small_disk) in gone.sentence
    assert "make room" in gone.sentence
    assert list((small_disk / "vms").iterdir()) == []
    driver.close()


def test_a_guest_that_writes_more_than_it_may_ends(rig: QemuRig) -> None:
    vm = rig.start("obedient", "dg.write=50", overlay_bytes=32 * MIB)
    gone = rig.wait(vm, Gone)
    assert not gone.clean
    assert "wrote more than the 32 MiB that it may" in gone.sentence


def test_no_qemu_is_one_sentence(rig: QemuRig) -> None:
    events: list[FromHypervisor] = []
    driver = QemuHypervisor(rig.home, into(events), qemu="no-such-qemu")
    driver.start(spec_of("vm-none", "obedient", rig.guest))
    assert comes_true(lambda: events != [], 2.0)
    (failed,) = events
    assert isinstance(failed, StartFailed)
    assert failed.fault == "desktop"
    assert "apt install" in failed.sentence


def test_a_state_directory_with_a_name_that_is_too_long_is_one_sentence(rig: QemuRig) -> None:
    driver, events = watched(rig.home / ("x" * 100))
    driver.start(spec_of("vm-long", "obedient", rig.guest))
    failed = ended(driver, events, 10)
    assert isinstance(failed, StartFailed)
    assert "expected at most 107; choose a shorter state directory" in failed.sentence


def test_a_kernel_that_is_none_is_the_image_s_fault(rig: QemuRig, tmp_path: Path) -> None:
    spec = spec_of("vm-bad", "obedient", rig.guest)
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"this is not a kernel" * 1000)
    driver, events = watched(rig.home)
    driver.start(msgspec.structs.replace(spec, image=msgspec.structs.replace(spec.image, kernel=kernel)))
    failed = ended(driver, events, 10)
    assert isinstance(failed, StartFailed)
    assert failed.fault == "image"


def test_more_memory_than_there_is_is_the_desktop_s_fault(rig: QemuRig) -> None:
    spec = spec_of("vm-big", "obedient", rig.guest)
    size = msgspec.structs.replace(spec.size, memory_bytes=1 << 50)
    driver, events = watched(rig.home)
    driver.start(msgspec.structs.replace(spec, size=size))
    failed = ended(driver, events, 10)
    assert isinstance(failed, StartFailed)
    assert failed.fault == "desktop"


# -- guests -------------------------------------------------------------------------------------------------


def test_the_guest_reads_the_base_disk_and_its_writes_stay_in_the_overlay(rig: QemuRig) -> None:
    before = rig.guest.disk.read_bytes()
    vm = rig.start("obedient", "dg.read=1 dg.write=4 dg.poweroff=4")
    gone = rig.wait(vm, Gone)
    assert f"disk says: {DISK_LINE}" in gone.sentence
    assert "the guest powered itself off" in gone.sentence
    assert rig.guest.disk.read_bytes() == before


def test_a_guest_that_restarts_itself_ends(rig: QemuRig) -> None:
    vm = rig.start("obedient", "dg.reboot=1")
    assert "the guest restarted itself" in rig.wait(vm, Gone).sentence


@pytest.mark.parametrize("where", ["channel", "console"])
def test_a_guest_that_floods_costs_little_and_can_be_paused_and_ended(rig: QemuRig, where: str) -> None:
    vm = rig.start("obedient", f"dg.flood={where}")
    rig.wait(vm, Started)
    if where == "console":
        rig.wait(vm, Joined)
    time.sleep(20)
    keeper = rig.keeper(vm)
    before = sum(keeper.cpu_times()[:2])
    time.sleep(3)
    assert sum(keeper.cpu_times()[:2]) - before < 1.0
    assert keeper.memory_info().rss < 48 * MIB
    rig.driver.order(vm, Pause())
    rig.wait(vm, Paused, 2.0)
    rig.driver.order(vm, Kill())
    assert rig.wait(vm, Gone, 3.0).clean


def test_a_guest_that_says_hostile_things_first_still_comes_alive(rig: QemuRig) -> None:
    vm = rig.start("obedient", "dg.garbage=1")
    rig.wait(vm, Joined)
    assert [type(event) for event in rig.events(vm)] == [Started, Alive, Joined]


# -- out of the owner's way ---------------------------------------------------------------------------------


def test_qemu_stays_out_of_the_owner_s_way_with_all_its_threads(rig: QemuRig) -> None:
    driver = QemuHypervisor(rig.home, lambda event: None, accelerators=("tcg",))
    vm = f"vm-idle-{os.getpid()}"
    driver.start(spec_of(vm, "busy", rig.guest))
    assert comes_true(lambda: len(qemus(vm)) == 1, 10)
    time.sleep(2)
    driver.heartbeat()
    (qemu,) = qemus(vm)
    threads = [int(path.name) for path in Path(f"/proc/{qemu.pid}/task").iterdir()]
    assert len(threads) >= 2
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_IDLE}
    assert qemu.nice() == 19
    assert qemu.ionice().ioclass == psutil.IOPRIO_CLASS_IDLE
    assert Path(f"/proc/{qemu.pid}/oom_score_adj").read_text().strip() == "1000"
    group = Path(f"/proc/{qemu.pid}/autogroup")
    assert not group.exists() or group.read_text().strip().endswith("nice 19")
    status = Path(f"/proc/{qemu.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    driver.order(vm, Kill())
    assert comes_true(lambda: qemus(vm) == [], 2)


def test_the_keeper_s_folder_is_for_its_owner_only_and_its_socket_answers(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    folder = rig.home / "vms" / vm
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["keeper.sock"]
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(str(folder / "keeper.sock"))
        link.sendall(b"[[[[[ nonsense\n" * 100)
        assert b'"type":"observed"' in link.recv(65536)
    rig.keeper(vm)


# -- accelerators -------------------------------------------------------------------------------------------


def qemu_that_notes_what_it_is_asked(folder: Path, broken: str = "nothing") -> Path:
    """The real QEMU behind a script that notes the accelerator, and that fails with one of them."""
    script = folder / "qemu"
    script.write_text(
        "#!/bin/sh\n"
        f'for word; do case "$word" in tcg*|kvm*) echo "${{word%%,*}}" >> {folder}/asked;; esac; done\n'
        f'for word; do case "$word" in {broken}*) echo "{broken} is not for you" >&2; exit 1;; esac; done\n'
        'exec qemu-system-x86_64 "$@"\n'
    )
    script.chmod(0o755)
    return script


def start_noted(rig: QemuRig, folder: Path, vm_id: str, broken: str = "nothing") -> tuple[FromHypervisor, list[str]]:
    """Start a silent VM. Returns: Started or StartFailed, and the accelerators that QEMU was started with."""
    events: list[FromHypervisor] = []
    qemu = str(qemu_that_notes_what_it_is_asked(folder, broken))
    driver = QemuHypervisor(
        rig.home,
        into(events),
        qemu=qemu,
        accelerators=("kvm", "tcg"),
        idle_class=False,
    )
    driver.start(spec_of(vm_id, "silent", rig.guest))
    assert comes_true(lambda: events != [], 20)
    driver.order(vm_id, Kill())
    assert comes_true(lambda: isinstance(events[-1], Gone | StartFailed), 2)
    return events[0], (folder / "asked").read_text().split()


def test_each_accelerator_is_tried_alone_until_qemu_comes_up(rig: QemuRig, tmp_path: Path) -> None:
    started, asked = start_noted(rig, tmp_path, "vm-trial", broken="kvm")
    assert started == Started("tcg")
    assert asked == ["kvm", "tcg"]


def test_an_accelerator_that_is_distrusted_is_not_tried_again_not_even_after_a_restart(
    rig: QemuRig, tmp_path: Path
) -> None:
    rig.driver.distrust("kvm")
    started, asked = start_noted(rig, tmp_path, "vm-distrust")
    assert started == Started("tcg")
    assert asked == ["tcg"]


def test_the_accelerator_of_this_machine_is_found_by_trial() -> None:
    rig = QemuRig(accelerators=offered())
    try:
        vm = rig.start("silent")
        assert rig.wait(vm, Started, 60).accelerator in offered()
        rig.driver.order(vm, Pause())
        rig.wait(vm, Paused, 2.0)
        rig.driver.order(vm, Kill())
        assert rig.wait(vm, Gone, 3.0).clean
    finally:
        rig.close()
