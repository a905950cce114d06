"""Starts and ends the process that gives parts of images to neighbours (`images/neighbour/serve.py`).

Rules:
- It runs only while the policy says `neighbours` and virtual machines may run here (`core/neighbours.gives`). When that
  is over, such as when the owner comes back, it is killed at once, and nothing listens any more.
- It dies with this agent: the kernel closes its standard input.
- One that ended by itself is started again, after a while, later each time.
- Nothing here waits. With the setting off only this module is in memory.
"""

import logging
import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.core.fleet.neighbours import gives
from deskgrid.host.system.programs import KEPT, SPARING, environment, python
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.values.backoff import Backoff
from deskgrid.wire.disk import LINE_BYTES, MESSAGES, DiskCommand
from deskgrid.wire.lines import Lines, encode
from deskgrid.wire.neighbour import NeighbourTask

log = logging.getLogger("deskgrid.agent")
RESTART = Backoff(10.0, 3600.0)


class Neighbour:
    """The process, when there is one. port: where it listens; 0: it does not (yet)."""

    def __init__(self, store: Path, port: int = 0) -> None:
        """Nothing runs yet. store: folder of images. port: to listen on; 0: a free one."""
        self.port = 0
        self._store, self._listen_port = store, port
        self._mutex = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._bytes_per_second = self._starts = 0
        self._not_before = 0.0

    def obey(self, policy: Policy, availability: Availability) -> None:
        """Run or do not run, as fast as it may; call it whenever one of both has changed, and now and then."""
        if not gives(policy, availability):
            self.close()
            return
        rate = policy.download_bytes_per_second
        if self._process is None or self._process.poll() is not None:
            self._start(rate)
        elif rate != self._bytes_per_second:
            self._bytes_per_second = rate
            self._say(encode(DiskCommand("rate", rate)))

    def close(self) -> None:
        """End it at once."""
        with self._mutex:
            process, self._process, self.port = self._process, None, 0
        self._starts, self._not_before = 0, 0.0
        if process is not None:
            _end(process)

    def _start(self, rate: int) -> None:
        if time.monotonic() < self._not_before:
            return
        if self._process is not None:
            _end(self._process)
        self._starts += 1
        self._not_before = time.monotonic() + RESTART.seconds(self._starts)
        self._bytes_per_second = rate
        try:
            self._process = subprocess.Popen(
                python("deskgrid.images.neighbour.serve"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(*KEPT) | SPARING,
                cwd="/",
            )
        except OSError as error:
            log.warning("neighbours: the process that gives to them did not start: %s", error.strerror)
            return
        serving = NeighbourTask(str(self._store), rate, port=self._listen_port)
        self._say(encode(serving))
        threading.Thread(target=self._listen, args=(self._process,), name="neighbour", daemon=True).start()

    def _say(self, line: bytes) -> None:
        assert self._process is not None and self._process.stdin is not None
        with suppress(OSError):  # it has ended; it is started again
            self._process.stdin.write(line)
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        """Hear what it says until it ends; in a thread of its own."""
        assert process.stdout is not None
        lines = Lines(LINE_BYTES)
        with process.stdout as stream:
            while data := os.read(stream.fileno(), LINE_BYTES):
                for line in lines.feed(data):
                    with suppress(msgspec.MsgspecError, KeyError, TypeError, ValueError):
                        word = MESSAGES.decode(line)
                        if word.said:
                            log.warning("%s", word.said)
                        if word.ready is not None:
                            self._set_port(process, int(word.ready["port"]))
        process.wait()
        self._set_port(process, 0)

    def _set_port(self, process: subprocess.Popen[bytes], port: int) -> None:
        with self._mutex:
            if self._process is process:  # else it was ended
                self.port = port


def _end(process: subprocess.Popen[bytes]) -> None:
    """The thread that listens to it waits for its end."""
    process.kill()
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
