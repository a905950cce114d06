"""The demo as a person runs it: all parts are real, and nothing is left of it."""

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from deskgrid.demo.jobs import JOBS, LOOK

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


def leftovers(folder: str) -> list[str]:
    """Processes that have to do with a demo's folder, and the folder."""
    found = [folder] if Path(folder).exists() else []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(folder in word for word in words):
            found.append(" ".join(words)[:200])
    return found


def folders() -> set[str]:
    return {str(path) for path in Path(tempfile.gettempdir()).glob("deskgrid-demo-*")}


def test_the_demo_finishes_its_three_jobs_measures_everything_and_leaves_nothing(tmp_path: Path) -> None:
    before = folders()
    output = tmp_path / "demo.json"
    argv = [sys.executable, "-m", "deskgrid", "demo", "--output", str(output)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    figures = json.loads(output.read_text())
    assert figures["jobs_done"] == 3
    assert figures["faults"] == []
    assert figures["accelerator"] in ("kvm", "tcg")
    for name in ("submit_to_order_s", "start_to_join_s", "owner_to_pause_ms", "owner_to_gone_ms", "evict_to_idle_s"):
        assert figures[name] > 0, name
    assert all(job.key in done.stdout for job in JOBS)
    assert all(re.search(pattern, done.stdout, re.MULTILINE) for pattern in LOOK.expected)
    assert [left for folder in folders() - before for left in leftovers(folder)] == []


def test_a_demo_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    before = folders()
    output = tmp_path / "demo.json"
    argv = [sys.executable, "-m", "deskgrid", "demo", "--output", str(output)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "booting" in line:  # pool, coordinator, agents, keepers and a QEMU are there
                break
        made = folders() - before
        demo.send_signal(signal.SIGINT)
        demo.stdout.read()
        assert demo.wait(timeout=120) == 130
    assert made
    deadline = time.monotonic() + 10
    while left := [one for folder in made for one in leftovers(folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    assert not output.exists()
