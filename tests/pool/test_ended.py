"""The file of VMs that have ended, as HTCondor's collector reads it."""

import os
import time
from pathlib import Path

from deskgrid.pool.tools.ended import KEEP_SECONDS, EndedVms


def test_each_vm_is_named_once_and_every_writing_makes_the_file_newer_by_whole_seconds(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    times = []
    for number in range(3):
        assert EndedVms(path).add(f"vm-{number}")
        times.append(int(path.stat().st_mtime))
    assert not EndedVms(path).add("vm-0")
    assert len({*times}) == 3 and times == sorted(times), "HTCondor looks at whole seconds"
    assert [line.split()[:2] for line in path.read_text().splitlines()] == [["*", f"vm-{n}"] for n in range(3)]


def test_what_is_older_than_any_token_goes_and_damaged_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "ended"
    now = int(time.time())
    old = now - KEEP_SECONDS - 1
    path.write_text(f"* vm-old {old}\n* vm-new {now - 5}\nnonsense\n* vm-odd ²\n")
    os.utime(path, (old, old))
    assert EndedVms(path).add("vm-1")
    assert [line.split()[1] for line in path.read_text().splitlines()] == ["vm-new", "vm-1"]
