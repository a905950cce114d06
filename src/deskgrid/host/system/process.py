"""Run a program for a bounded time and return its outcome as a value.

The program gets a session of its own; when the time is over its whole process group is killed. A program behind
`sudo` can't be killed by us: give it `timeout` inside (`host/trees/entry.py` does).
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.host.system.programs import KEPT, environment

_DRAIN_SECONDS = 2.0


class Finished(msgspec.Struct, frozen=True):
    """How a program ended. code: exit code, negative for a signal, 127 when it could not be started."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """It ended in time with exit code 0."""
        return self.code == 0 and not self.timed_out

    @property
    def fault(self) -> str:
        """What it said of its failure, or how it ended if it said nothing; one line."""
        if self.timed_out:
            return "it did not end in time"
        return " ".join(self.stderr.split())[-300:] or f"it ended with code {self.code} and said nothing"

    def __repr__(self) -> str:
        """Without stdout, which may be a secret."""
        return f"Finished(code={self.code}, timed_out={self.timed_out}, stderr={self.stderr[-200:]!r})"


def run(
    argv: Sequence[str],
    timeout_seconds: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Finished:
    """Run `argv` and wait for at most `timeout_seconds`; never raises for what the program does.

    Args:
        stdin: all that the program reads.
        env: its whole environment; None: what says where things of ours are, and nothing that makes it load anything
            (programs.py). It is looked for there too. pass_fds: open files that it inherits under the same numbers.
    """
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(*KEPT) if env is None else dict(env),
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        return Finished(127, "", f"{argv[0]}: {error.strerror}")
    timed_out = False
    try:
        out, err = process.communicate(stdin, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        timed_out = True
        out, err = _kill(process)
    except BaseException:
        _kill(process)
        raise
    return Finished(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), timed_out)


def kill_group(group: int, number: int) -> None:
    """Send a signal to a process group that may be gone or not ours."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Kill the group; a grandchild that left the group and holds the pipes is waited for only shortly."""
    kill_group(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=_DRAIN_SECONDS)
    except subprocess.TimeoutExpired as late:
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if process.poll() is None:
            process.returncode = -signal.SIGKILL
        return late.stdout or b"", late.stderr or b""
