"""Files are whole or not there; a lock ends with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deskgrid.host.files import Locked, locked, write_atomic

HOLDER = """
import sys, time
from pathlib import Path
from deskgrid.host.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_whole_and_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"the second, longer one"):
        write_atomic(path, content, 0o640)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError):
        write_atomic(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_lock_that_another_process_holds_is_refused_and_free_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(Locked, match="another process holds it"), locked(path, wait=False):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with locked(path, wait=False):
        pass
