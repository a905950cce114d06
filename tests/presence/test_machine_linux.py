"""What a Linux desktop has, from made-up tables, and on this machine with real processes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from deskgrid.model.policy import Policy
from deskgrid.presence.linux.presence import Roots
from deskgrid.presence.machine.linux import LinuxMachine, read_memory
from deskgrid.presence.machine.load import Total, grown, memory_pressure, others_share, parse_total
from deskgrid.presence.machine.processes import Processes, ProcessTime, parse_stat
from tests.waiting import eventually

POLICY = Policy()


def test_this_machine_is_read() -> None:
    reader = LinuxMachine(Path("/tmp"))
    reader.read(POLICY)
    machine = reader.read(POLICY)
    assert machine.cpus == os.cpu_count()
    assert 0 < machine.memory_available_bytes < machine.memory_bytes
    assert machine.disk_free_bytes > 0
    assert machine.up_seconds is not None
    assert machine.up_seconds > 0
    assert (machine.metered, machine.programs) == (False, ())


def spin() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


def test_what_the_grids_own_processes_use_is_not_others_load() -> None:
    with spin() as busy:
        try:
            ours, theirs = LinuxMachine(Path("/tmp"), lambda: [busy.pid]), LinuxMachine(Path("/tmp"), list)
            ours.read(POLICY)
            theirs.read(POLICY)
            time.sleep(3)
            less, more = ours.read(POLICY).others_cpu, theirs.read(POLICY).others_cpu
        finally:
            busy.kill()
    assert less is not None
    assert more is not None
    assert less < more


def test_the_first_look_knows_no_load_and_the_next_within_a_second_says_the_same() -> None:
    reader = LinuxMachine(Path("/tmp"))
    assert reader.read(POLICY).others_cpu is None
    assert reader.read(POLICY).others_cpu is None


def test_programs_are_found_by_both_names_and_in_any_case_but_not_the_grids_own(tmp_path: Path) -> None:
    script = tmp_path / "A-Program-With-A-Long-Name"
    script.symlink_to(sys.executable)
    with subprocess.Popen([script, "-c", "input()"], stderr=subprocess.DEVNULL, stdin=subprocess.PIPE) as one:
        wanted = Policy(quiet_programs=("a-program-with-a-long-name", "nothing-like-it"))
        eventually(lambda: running(None, wanted) == wanted.quiet_programs[:1])
        assert running(os.geteuid(), wanted) == ()
        if os.geteuid() == 0:  # root's own processes are not the grid's
            assert LinuxMachine(tmp_path).read(wanted).programs == wanted.quiet_programs[:1]
        one.communicate(b"\n")
    assert running(None, wanted) == ()


def running(uid: int | None, policy: Policy) -> tuple[str, ...]:
    processes = Processes(Path("/proc"), uid)
    processes.relist()
    return processes.running(policy.quiet_programs)


def made_up(folder: Path, *pids: int) -> Roots:
    roots = Roots(folder / "dev", folder / "run", folder / "proc", folder / "sys")
    for pid in pids:
        name(roots.proc, pid, f"program{pid}")
    (roots.proc / "stat").write_text("cpu  1 2 3 4 5 6 7 8 9 10\n")
    (roots.proc / "meminfo").write_text("MemTotal: 2000 kB\nMemFree: 1 kB\nMemAvailable: 1500 kB\n")
    return roots


def name(proc: Path, pid: int, text: str) -> None:
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    (proc / str(pid) / "comm").write_text(text[:15] + "\n")
    (proc / str(pid) / "cmdline").write_text(f"/usr/bin/{text}\0--flag\0")


def test_a_process_that_turns_into_another_program_is_seen_at_the_next_look(tmp_path: Path) -> None:
    proc = made_up(tmp_path, 1, 50).proc
    processes = Processes(proc, None)
    processes.relist()
    assert processes.running(("zoom",)) == ()
    name(proc, 50, "zoom")
    processes.relist()
    assert processes.running(("zoom",)) == ("zoom",)


def test_where_proc_hides_others_all_wanted_programs_count_as_running(tmp_path: Path) -> None:
    hidden = LinuxMachine(tmp_path, roots=made_up(tmp_path / "a", 50, os.getpid()))
    assert hidden.read(Policy(quiet_programs=("zoom", "teams"))).programs == ("zoom", "teams")
    shown = LinuxMachine(tmp_path, roots=made_up(tmp_path / "b", 1, 50))
    assert shown.read(Policy(quiet_programs=("zoom",))).programs == ()


def test_memory_that_can_not_be_read_is_an_error_with_what_was_found(tmp_path: Path) -> None:
    assert read_memory(made_up(tmp_path, 1).proc) == (2000 * 1024, 1500 * 1024)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 2000 kB\n")
    with pytest.raises(OSError, match=r"got \['MemTotal'\], expected MemTotal and MemAvailable"):
        read_memory(tmp_path / "proc")


def test_the_kernels_own_lines_are_understood() -> None:
    assert parse_total("cpu  10 20 30 400 50 6 7 8 9 10\ncpu0 …") == Total(10 + 20 + 30 + 6 + 7, 531)
    line = "77 (a (strange) name) S 1 77 77 0 -1 4194560 1 2 3 4 500 60 7 8 20 0 1 0 98765 1 2 3"
    assert parse_stat(line) == ProcessTime(98765, 560)


def test_only_what_was_surely_used_since_the_last_look_is_the_grids() -> None:
    before = {1: ProcessTime(10, 100), 2: ProcessTime(20, 50), 3: ProcessTime(30, 10)}
    now = {
        1: ProcessTime(10, 130),  # went on
        3: ProcessTime(990, 5),  # its number was used anew, since
        4: ProcessTime(995, 7),  # began since
        5: ProcessTime(15, 9999),  # was there before, and not known as ours
    }
    assert grown(before, now, looked_at_ticks=980) == 30 + 5 + 7


ticks = some.integers(0, 10**6)
tables = some.dictionaries(some.integers(1, 6), some.builds(ProcessTime, some.integers(0, 5), ticks))


@given(tables, tables, ticks, ticks, some.integers(0, 10**6), some.integers(0, 10**6))
def test_the_share_of_others_is_always_a_share(
    earlier: dict[int, ProcessTime],
    later: dict[int, ProcessTime],
    looked: int,
    busy: int,
    more_busy: int,
    more_idle: int,
) -> None:
    ours = grown(earlier, later, looked)
    share = others_share(Total(busy, busy), Total(busy + more_busy, busy + more_busy + more_idle), ours)
    assert share is None if more_busy + more_idle == 0 else share is not None and 0 <= share <= 1
    assert ours >= 0


def test_no_time_gives_no_share_and_a_counter_that_goes_back_neither() -> None:
    assert others_share(Total(5, 10), Total(5, 10), 0) is None
    assert others_share(Total(5, 10), Total(4, 9), 0) is None


class Groups:
    """A made-up tree of control groups: the agent's service with the group of VMs, and the owner's slice."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.mount = folder / "proc", folder / "cgroup"
        (self.proc / "pressure").mkdir(parents=True)
        (self.proc / "self").mkdir()
        (self.proc / "self/cgroup").write_text("0::/system.slice/deskgrid.service/agent\n")
        self.press("system.slice", 40.0)
        self.press("system.slice/deskgrid.service", 40.0)
        self.press("system.slice/cron.service", 1.0)
        self.press("user.slice", 2.5)
        for group, pid in (("agent", 70), ("vms", 71)):
            folder = self.mount / "system.slice/deskgrid.service" / group
            folder.mkdir()
            (folder / "cgroup.procs").write_text(f"{pid}\n")

    def press(self, group: str, percent: float) -> None:
        (self.mount / group).mkdir(parents=True, exist_ok=True)
        (self.mount / group / "memory.pressure").write_text(line(percent))

    def all(self, percent: float) -> None:
        (self.proc / "pressure/memory").write_text(line(percent))


def line(percent: float) -> str:
    return f"some avg10={percent:.2f} avg60=1.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"


def test_pressure_that_only_the_grids_own_group_feels_is_not_others(tmp_path: Path) -> None:
    groups = Groups(tmp_path)
    groups.all(40.0)
    assert memory_pressure(groups.proc, groups.mount, lambda pid: pid in (70, 71)) == 3.5
    groups.press("user.slice", 90.0)
    assert memory_pressure(groups.proc, groups.mount, lambda pid: pid in (70, 71)) == 40.0


def test_a_group_that_others_are_in_too_is_not_the_grids(tmp_path: Path) -> None:
    groups = Groups(tmp_path)
    groups.all(40.0)
    assert memory_pressure(groups.proc, groups.mount, lambda pid: pid == 70) == 40.0
    (groups.proc / "self/cgroup").write_text("4:memory:/somewhere\n")
    assert memory_pressure(groups.proc, groups.mount, lambda pid: True) == 40.0


def test_little_pressure_is_not_looked_into_and_none_is_unknown(tmp_path: Path) -> None:
    groups = Groups(tmp_path)
    assert memory_pressure(groups.proc, groups.mount, lambda pid: True) is None
    groups.all(0.5)
    assert memory_pressure(groups.proc, groups.mount, lambda pid: True) == 0.5


@pytest.mark.parametrize("said", ["C:\\Program Files\\Viewer\\PowerPointViewer.exe", "/opt/x/PowerPointViewer.exe"])
def test_a_program_is_known_by_all_of_its_name_though_the_kernel_cuts_it(tmp_path: Path, said: str) -> None:
    folder = tmp_path / "4242"
    folder.mkdir()
    (folder / "comm").write_text("PowerPointViewe\n")
    (folder / "cmdline").write_text(f"{said}\0/s\0")
    processes = Processes(tmp_path, 9999)
    processes.relist()
    assert processes.running(["powerpointviewer.exe", "viewer.exe"]) == ("powerpointviewer.exe",)
