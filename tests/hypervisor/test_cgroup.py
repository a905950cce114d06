"""Where a group for VMs is made, and whether it gives way: from tables as the kernel writes them and a tree of files.

A real hierarchy with controllers needs systemd: `python -m deskgrid.hypervisor.confine.cgroup` is run in such a guest.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deskgrid.hypervisor.confine.cgroup import (
    GroupLevel,
    GroupsSeen,
    base_of,
    gives_way,
    levels_of,
    make,
    mount_point,
    own_path,
)
from deskgrid.hypervisor.confine.spawn import ProcessLimits, spawn

MOUNTS = """24 30 0:22 / /proc rw,nosuid shared:12 - proc proc rw
35 30 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_the_second_hierarchy_is_found_beside_the_first_or_alone() -> None:
    assert mount_point(MOUNTS) == Path("/sys/fs/cgroup")
    assert mount_point("35 30 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n") is None
    assert mount_point(MOUNTS.replace("/sys/fs/cgroup", "/a\\040b")) == Path("/a b")
    assert own_path("0::/system.slice/deskgrid.service\n") == "/system.slice/deskgrid.service"
    assert own_path("9:name=systemd:/x\n0::/y\n") == "/y"
    assert own_path("9:name=systemd:/x\n") is None


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (folder / name).write_text("")
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """A service in a slice of its own, as systemd makes one: its group is given to it."""
    group(tmp_path / "root" / "deskgrid.slice", cpu_idle="1\n", cpu_weight="0\n")
    return group(tmp_path / "root" / "deskgrid.slice" / "deskgrid-agent.service", cpu_idle="0\n", cpu_weight="100\n")


def test_beside_the_agents_own_subgroup_vms_get_an_idle_group_of_the_least_weight(
    tmp_path: Path, service: Path
) -> None:
    own = group(service / "agent")
    group(service / "vms", cpu_idle="0\n", io_weight="default 100\n")
    assert base_of(tmp_path / "root", own) == (service, True)
    assert make(tmp_path / "root", own) == service / "vms"
    assert (service / "cgroup.subtree_control").read_text() == "+memory"
    assert (service / "vms" / "cpu.idle").read_text() == "1"
    assert (service / "vms" / "io.weight").read_text() == "default 1"
    assert not (service / "vms" / "io.bfq.weight").exists()


def test_in_the_agents_own_group_no_controllers_are_switched_on(tmp_path: Path, service: Path) -> None:
    group(service / "vms")
    assert base_of(tmp_path / "root", service) == (service, False)
    assert make(tmp_path / "root", service) == service / "vms"
    assert (service / "cgroup.subtree_control").read_text() == ""


def test_the_root_is_never_shared_out(tmp_path: Path) -> None:
    root = group(tmp_path / "root")
    assert base_of(root, root) is None
    assert base_of(root, group(root / "agent")) == (root / "agent", False)


def test_what_was_not_given_to_us_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "root" / "x").mkdir(parents=True)
    assert base_of(tmp_path / "root", tmp_path / "root" / "x") is None
    assert make(tmp_path / "root", tmp_path / "root" / "x") is None
    assert list((tmp_path / "root" / "x").iterdir()) == []


@pytest.mark.parametrize(
    ("levels", "way"),
    [
        ((), None),
        ((GroupLevel("/a"), GroupLevel("/a/b")), None),
        ((GroupLevel("/deskgrid.slice", 1, 0), GroupLevel("/deskgrid.slice/s", 0, 100)), True),
        ((GroupLevel("/system.slice", 0, 100), GroupLevel("/system.slice/s", 1, 0)), False),
        ((GroupLevel("/a"), GroupLevel("/a/b", 1, 0)), True),
    ],
)
def test_a_group_gives_way_if_it_is_idle_where_its_way_parts_from_the_owners(
    levels: tuple[GroupLevel, ...], way: bool | None
) -> None:
    assert gives_way(levels) is way


def test_the_way_to_a_group_is_read_from_the_root_on(tmp_path: Path, service: Path) -> None:
    root = tmp_path / "root"
    assert levels_of(root, service) == (GroupLevel(str(service.parent), 1, 0), GroupLevel(str(service), 0, 100))
    assert levels_of(root, root) == ()
    assert levels_of(root, tmp_path) == ()


def test_a_program_is_in_its_group_and_on_its_cores_from_the_first_instruction() -> None:
    hierarchy = mount_point(Path("/proc/self/mountinfo").read_text())
    if hierarchy is None or not os.access(hierarchy / "cgroup.procs", os.W_OK):
        pytest.skip("a cgroup of version 2 in which this account may make one is needed")
    folder = hierarchy / f"deskgrid-test-{os.getpid()}"
    folder.mkdir()
    core = max(os.sched_getaffinity(0))
    try:
        code = "import os, sys; sys.stderr.write(open('/proc/self/cgroup').read() + str(os.sched_getaffinity(0)))"
        reader, writer = os.pipe()
        process = spawn([sys.executable, "-c", code], [], writer, ProcessLimits(frozenset({core}), False, folder))
        os.close(writer)
        with os.fdopen(reader) as said:
            words = said.read()
        process.wait()
        assert f"0::/{folder.name}\n" in words
        assert f"{{{core}}}" in words
    finally:
        folder.rmdir()


def test_the_check_prints_what_it_finds() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "deskgrid.hypervisor.confine.cgroup"], capture_output=True, check=True, timeout=60
    )
    msgspec.json.decode(said.stdout, type=GroupsSeen)
