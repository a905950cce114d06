"""The resources of a Windows desktop, held against psutil and the standard library."""

import shutil
import time
from pathlib import Path

import psutil

from deskgrid.model.policy import Policy
from deskgrid.presence.machine.windows import WindowsMachine, process_names, system_seconds


def test_memory_and_disk_are_what_others_say_too(tmp_path: Path) -> None:
    reader = WindowsMachine(tmp_path)
    machine = reader.read(Policy())
    memory = psutil.virtual_memory()
    assert machine.memory_bytes == memory.total
    assert abs(machine.memory_available_bytes - memory.available) < memory.total / 10
    assert abs(machine.disk_free_bytes - shutil.disk_usage(tmp_path).free) < 1 << 30
    assert machine.cpus == psutil.cpu_count()
    assert machine.up_seconds is not None and machine.up_seconds > 0
    print(machine)
    reader.close()
    reader.close()


def test_the_load_of_others_is_known_from_the_second_look_on_and_leaves_out_what_we_used(tmp_path: Path) -> None:
    reader = WindowsMachine(tmp_path)
    assert reader.read(Policy()).others_cpu is None
    until = time.process_time() + 1.0
    while time.process_time() < until:
        pass
    share = reader.read(Policy()).others_cpu
    assert share is not None
    assert 0 <= share <= 1
    lost = WindowsMachine(tmp_path, lambda: None)
    assert (lost.read(Policy()).others_cpu, lost.read(Policy()).others_cpu) == (None, None)


def test_the_time_of_all_processors_runs_on() -> None:
    idle, everything = system_seconds()
    time.sleep(0.5)
    later_idle, later = system_seconds()
    assert later > everything
    assert later_idle >= idle


def test_programs_that_run_are_found_by_name(tmp_path: Path) -> None:
    assert "python.exe" in process_names()
    reader = WindowsMachine(tmp_path)
    assert reader.read(Policy(quiet_programs=("Python", "matlab.exe"))).programs == ("Python",)
    assert reader.read(Policy()).programs == ()
