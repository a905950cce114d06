"""A program runs for a bounded time, and its whole group ends with it."""

import os
import sys
import time
from pathlib import Path

from deskgrid.host.system.process import run
from tests.waiting import eventually


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_program_says_and_how_it_ends_is_a_value() -> None:
    done = run(["sh", "-c", "cat; echo fault >&2; exit 3"], 10, stdin=b"said")
    assert (done.code, done.stdout, done.stderr, done.ok, done.timed_out) == (3, "said", "fault\n", False, False)


def test_a_program_that_is_not_there_is_a_value_too() -> None:
    done = run(["/nonexistent/program"], 10)
    assert done.code == 127 and "No such file" in done.stderr


def test_a_program_that_takes_too_long_is_killed_with_its_children() -> None:
    began = time.monotonic()
    done = run(["sh", "-c", "sleep 100 & echo $!; wait"], 0.5)
    assert done.timed_out and not done.ok
    assert time.monotonic() - began < 90, "it was waited for"
    eventually(lambda: not alive(int(done.stdout)))


def test_a_grandchild_that_left_the_group_and_holds_the_pipe_does_not_hold_us() -> None:
    script = (
        "import os,time\nif os.fork()==0:\n os.setsid(); print(os.getpid(), flush=True); time.sleep(99)\ntime.sleep(99)"
    )
    began = time.monotonic()
    done = run([sys.executable, "-c", script], 1)
    assert done.timed_out and time.monotonic() - began < 90
    pid = int(done.stdout) if done.stdout.strip() else 0
    if pid and alive(pid):
        os.kill(pid, 9)


def test_how_it_failed_is_one_line_whatever_it_said() -> None:
    assert run(["sh", "-c", "echo one >&2; echo two >&2; exit 3"], 20).fault == "one two"
    assert run(["sh", "-c", "exit 3"], 20).fault == "it ended with code 3 and said nothing"
    assert run(["sleep", "20"], 0.1).fault == "it did not end in time"


def test_what_a_program_printed_is_not_in_its_repr() -> None:
    assert "secret" not in repr(run(["echo", "secret"], 10))


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert run(["printf", r"\377x"], 10).stdout == "\ufffdx"
