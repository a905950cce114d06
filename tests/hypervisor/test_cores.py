"""Which cores VMs may use: from values; and a real process that is kept on them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deskgrid.hypervisor.confine.cores import choose, here, keep_on, parse, threads

EIGHT = frozenset(range(8))
PAIRS = {core: frozenset({core, core ^ 1}) for core in EIGHT}  # 0 and 1, 2 and 3, …
HALVES = {core: frozenset({core % 4, core % 4 + 4}) for core in EIGHT}  # 0 and 4, 1 and 5, …
SINGLE = {core: frozenset({core}) for core in EIGHT}


@pytest.mark.parametrize(
    ("cpus", "siblings", "chosen"),
    [
        (1, SINGLE, {7}),
        (3, SINGLE, {5, 6, 7}),
        (7, SINGLE, {1, 2, 3, 4, 5, 6, 7}),
        (2, PAIRS, {6, 7}),
        (3, PAIRS, {7, 6, 5}),
        (6, PAIRS, {2, 3, 4, 5, 6, 7}),
        (7, PAIRS, {1, 2, 3, 4, 5, 6, 7}),
        (2, HALVES, {3, 7}),
        (4, HALVES, {3, 7, 2, 6}),
        (6, HALVES, {1, 2, 3, 5, 6, 7}),
        (7, HALVES, {1, 2, 3, 4, 5, 6, 7}),
        (8, HALVES, EIGHT),
        (100, HALVES, EIGHT),
        (None, PAIRS, EIGHT),
        (0, PAIRS, {7}),
        (2, {}, {6, 7}),
    ],
)
def test_the_last_cores_are_taken_first_and_core_0_with_its_sibling_is_the_owners(
    cpus: int | None, siblings: dict[int, frozenset[int]], chosen: set[int]
) -> None:
    assert choose(cpus, EIGHT, siblings) == chosen


def test_only_cores_that_this_account_may_use_are_chosen() -> None:
    assert choose(2, {0, 2, 3}, PAIRS) == {2, 3}
    assert choose(3, {0, 1}, PAIRS) == {0, 1}


def test_every_keeper_finds_the_same_cores_here() -> None:
    assert here(1) == here(1)
    assert len(here(1)) == 1
    assert here(1) <= here(2) <= here(None) == os.sched_getaffinity(0)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0\n", {0}), ("0-3\n", {0, 1, 2, 3}), ("0,4", {0, 4}), ("0-1,8-9\n", {0, 1, 8, 9}), ("", set())],
)
def test_the_kernels_lists_are_read(text: str, cores: set[int]) -> None:
    assert parse(text) == cores


def test_a_missing_or_damaged_topology_counts_each_core_for_itself(tmp_path: Path) -> None:
    folder = tmp_path / "cpu0" / "topology"
    folder.mkdir(parents=True)
    (folder / "thread_siblings_list").write_text("what?\n")
    assert here(1, tmp_path) == {max(os.sched_getaffinity(0))}


def test_all_threads_of_a_process_are_moved_and_its_later_threads_inherit_that() -> None:
    code = (
        "import sys, threading, time\n"
        "start = lambda: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "start(); start(); print(1, flush=True); sys.stdin.readline(); start(); print(2, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        assert len(keep_on(process.pid, here(1))) == 3
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert len(threads(process.pid)) == 4
        assert {frozenset(os.sched_getaffinity(thread)) for thread in threads(process.pid)} == {here(1)}
        process.kill()
    assert keep_on(process.pid, here(1)) == []
