"""Limits of real VMs, measured from outside; and that nothing of a VM outlives its agent, whatever it tries."""

import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rigs import QemuRig, qemus

from deskgrid.core.events import Gone, Joined, Paused, Started
from deskgrid.hypervisor.confine.cores import here
from deskgrid.hypervisor.keeper.life import KEEP_CORES_SECONDS
from tests.waiting import comes_true

pytestmark = pytest.mark.real


def cores_used(rig: QemuRig, vms: list[str], seconds: float) -> float:
    """What these VMs' processes, keepers too, use of the CPU, in cores, by the kernel's count."""
    processes = [found for vm in vms for found in (rig.qemu(vm), rig.keeper(vm))]
    began, before = time.monotonic(), sum(sum(process.cpu_times()[:2]) for process in processes)
    time.sleep(seconds)
    used = sum(sum(process.cpu_times()[:2]) for process in processes) - before
    return used / (time.monotonic() - began)


def test_two_busy_vms_of_two_processors_use_one_core_together_when_that_is_the_limit(rig: QemuRig) -> None:
    rig.driver.limit(1)
    vms = [rig.start("busy", "dg.spin=2", cpus=2), rig.start("busy", "dg.spin=2", cpus=2)]
    for vm in vms:
        rig.wait(vm, Joined, 240)
    used = cores_used(rig, vms, 4.0)
    print(f"two VMs with 4 busy processors, limit of 1 core: {used:.3f} cores")
    assert used <= 1.05
    assert {frozenset(rig.core_set(vm)) for vm in vms} == {here(1)}
    rig.driver.limit(2)
    time.sleep(0.5)
    print(f"the same, limit of 2 cores: {cores_used(rig, vms, 4.0):.3f} cores")
    rig.driver.limit(0)
    for vm in vms:
        rig.wait(vm, Paused, 2.0 + rig.slack_seconds)
    still = cores_used(rig, vms, 2.0)
    print(f"the same, limit of no core: {still:.3f} cores")
    assert still <= 0.05


def test_cores_that_others_have_changed_are_set_again(rig: QemuRig) -> None:
    rig.driver.limit(1)
    vm = rig.start("silent", cpus=2)
    rig.wait(vm, Started)
    for thread in rig.qemu(vm).threads():
        os.sched_setaffinity(thread.id, here(None))
    assert comes_true(lambda: rig.core_set(vm) == here(1), KEEP_CORES_SECONDS + 2 * rig.slack_seconds)


def test_qemu_cannot_start_a_process_that_would_outlive_it(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    qemu = rig.qemu(vm)
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{qemu.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Seccomp"] == "2"
    assert qemu.children(recursive=True) == []
    assert rig.keeper(vm).children(recursive=True) == [qemu]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_keeper_killed_takes_its_qemu_with_it_even_one_that_a_signal_has_stopped(rig: QemuRig, frozen: bool) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    qemu = rig.qemu(vm)
    assert os.getsid(qemu.pid) not in (
        os.getsid(0),
        os.getsid(rig.keeper(vm).pid),
    )  # a session of its own is no way out
    if frozen:
        qemu.suspend()
    rig.crash()  # the agent dies in the same moment
    os.kill(rig.keeper(vm).pid, signal.SIGKILL)
    assert comes_true(lambda: not qemu.is_running() or qemu.status() == psutil.STATUS_ZOMBIE, 2.0)
    assert qemus(vm) == []
    rig.come_back()


def test_a_keeper_whose_agent_died_ends_a_qemu_that_does_not_answer(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    rig.qemu(vm).suspend()
    rig.driver.heartbeat()
    rig.crash()
    assert comes_true(lambda: qemus(vm) == [], 5.0 + rig.slack_seconds)
    rig.come_back()


def test_after_a_crash_of_everything_the_next_agent_starts_the_same_vm_afresh(rig: QemuRig) -> None:
    vm = rig.start("silent")
    rig.wait(vm, Started)
    os.kill(rig.keeper(vm).pid, signal.SIGKILL)
    assert not rig.wait(vm, Gone, 3.0).clean
    rig.crash()
    rig.come_back()
    assert rig.driver.observe() == []
    assert list((rig.home / "vms").iterdir()) == []
