"""Files are whole or not there; a lock ends with its process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import create_plain, give, own_folder, take_back, write_atomic, write_new
from deskgrid.host.system.locks import Locked, locked

HOLDER = """
import sys, time
from pathlib import Path
from deskgrid.host.system.locks import locked
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


def test_a_new_file_is_whole_or_not_there_and_takes_no_other_s_place(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_new(tmp_path / "new", b"one", 0o644)
    finally:
        os.umask(before)
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "new", b"two")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "link", b"three")
    assert (tmp_path / "new").read_bytes() == b"one" and (tmp_path / "new").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "new"]


def test_what_is_given_away_is_taken_back_only_when_nobody_writes_to_it(tmp_path: Path) -> None:
    with create_plain(tmp_path / "file") as file:
        give(file, service_account())
        with pytest.raises(OSError, match="another process still writes"):
            take_back(tmp_path / "file")
    take_back(tmp_path / "file", 0o640)
    facts = (tmp_path / "file").stat()
    assert (facts.st_uid, facts.st_mode & 0o777) == (os.geteuid(), 0o640)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError):
        take_back(tmp_path / "link")
    with pytest.raises(FileExistsError):
        create_plain(tmp_path / "link")


def test_an_account_s_folder_is_no_link_that_somebody_put_there(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    before = tmp_path.stat().st_uid
    with pytest.raises(OSError):
        own_folder(tmp_path / "link", service_account())
    assert tmp_path.stat().st_uid == before
