"""Start a process that serves an image, talk to it, and say how QEMU opens what it serves.

Rules, told first
- The process ends when we close its standard input, or when we end: the kernel closes it.
- Its environment is empty but for what Python needs; the key goes down the pipe only.
"""

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import msgspec

from deskgrid.images.chunks.serve import Order, Status
from deskgrid.images.contract import ImageError

_READY_SECONDS = 60.0
_SPARING = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""For glibc: many pieces of many sizes come and go in several threads."""
_PASSED_ON = ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH", "PYTHONPATH")


Report = Callable[[str], None]


def _silent(sentence: str) -> None:
    """Tell nobody."""


class Server:
    """A running process that serves an image. said: what it reported, oldest first."""

    def __init__(self, order: Order, key: bytes | bytearray | memoryview, tell: Report = _silent) -> None:
        """Start it and wait until it serves. tell: told what it reports. Raises: ImageError."""
        self.order, self._tell = order, tell
        self._answers: Queue[dict[str, Any]] = Queue()
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deskgrid.images.chunks.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | _SPARING,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        content = msgspec.json.encode(order)
        try:
            self._send(struct.pack(">I", len(content)) + content)
            self._send(key)
            self.facts = self._answer(_READY_SECONDS)["ready"]
        except (ImageError, KeyError):
            self.close()
            raise ImageError(self.said[-1] if self.said else "the process that serves images did not start") from None

    def status(self) -> Status:
        """How it goes. Raises: ImageError when it is gone."""
        return msgspec.convert(self.ask("status"), Status)

    def first_reads(self) -> list[int]:
        """Offsets of the disk in the order of their first reads. Raises: ImageError when it is gone."""
        return list(self.ask("order")["order"])

    def ask(self, do: str, value: int = 0) -> dict[str, Any]:
        """Give a command; see serve.py. Raises: ImageError when it is gone."""
        self._send(msgspec.json.encode({"do": do, "value": value}) + b"\n")
        return self._answer(30.0)

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _send(self, content: bytes | bytearray | memoryview) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise ImageError("the process that serves images is gone; start the VM again") from None

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            found = self._answers.get(timeout=seconds)
        except Empty:
            raise ImageError(f"the process that serves images: no answer in {seconds:.0f} s") from None
        if not found:
            raise ImageError("the process that serves images is gone; start the VM again")
        return found

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                found = msgspec.json.decode(line)
                if "said" in found:
                    self.said.append(found["said"])
                    self._tell(found["said"])
                else:
                    self._answers.put(found)
        self._answers.put({})


def blockdev(socket: Path | str, node: str = "base-file", export: str = "disk") -> dict[str, object]:
    """How QEMU opens what is served, for `-blockdev` or QMP: in place of the node that reads the base from a file."""
    return {
        "driver": "nbd",
        "node-name": node,
        "server": {"type": "unix", "path": str(socket)},
        "export": export,
        "read-only": True,
    }
