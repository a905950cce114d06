"""The demo as its user runs it: to its end, and interrupted in the middle."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deskgrid.demo.figures import GOALS

from .grid import HANG_SECONDS, until

pytestmark = [pytest.mark.real, pytest.mark.paired, pytest.mark.timeout(1500)]


_PR_SET_CHILD_SUBREAPER = 36


class Room:
    """Where a demo runs: nothing that it starts can leave, and nothing that it writes is elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mine = {child.pid for child in psutil.Process().children(recursive=True)}

    def start(self, output: Path) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "deskgrid", "demo", "--output", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "TMPDIR": str(self.folder)},
            start_new_session=True,
        )

    def left_behind(self) -> list[str]:
        """What still runs of what was started here, and what is in the folder."""
        found = [str(path) for path in self.folder.iterdir()]
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if child.pid not in self._mine and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(child.cmdline())[:200] or child.name())
        return found


@pytest.fixture
def room() -> Iterator[Room]:
    """Orphans of what is started here become children of this process (prctl(2)), so that none is overlooked."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = Path(tempfile.mkdtemp(prefix="dg-"))
    folder.chmod(0o1777)
    assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield Room(folder)
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        shutil.rmtree(folder, ignore_errors=True)


def test_the_demo_finishes_its_three_jobs_measures_everything_and_leaves_nothing(room: Room, tmp_path: Path) -> None:
    process = room.start(tmp_path / "demo.json")
    said, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, said
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert {name: figures[name] for name in GOALS if figures[name] in (None, "")} == {}
    assert (figures["jobs_done"], figures["faults"]) == (3, [])
    for word in ("look: done", "long: counted to", "plain: done", "owner_to_pause_ms", "putting everything away"):
        assert word in said
    assert room.left_behind() == []


@pytest.mark.parametrize(
    ("number", "word", "runs"),
    [(signal.SIGTERM, "starting HTCondor", "condor_master"), (signal.SIGINT, " booting: ", "qemu-system")],
    ids=["SIGTERM while HTCondor starts", "Ctrl-C while a machine boots"],
)
def test_the_demo_interrupted_leaves_nothing(room: Room, tmp_path: Path, number: int, word: str, runs: str) -> None:
    process = room.start(tmp_path / "demo.json")
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if word in line:
            break
    until(f"{runs} to run", lambda: any(runs in words for words in room.left_behind()), step_seconds=0.1)
    process.send_signal(number)
    time.sleep(0.3)
    process.send_signal(number)  # impatience
    said += process.stdout.read()
    assert process.wait(HANG_SECONDS) == 130, said
    assert "Traceback" not in said
    assert "putting everything away" in said
    assert not (tmp_path / "demo.json").exists()
    assert room.left_behind() == []
