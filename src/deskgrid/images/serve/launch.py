"""Start a process that serves an image: how a keeper does it (`disk_server`); one to talk to, for tests and figures.

Rules:
- The process ends when whoever holds its standard input closes it, or ends: the kernel closes it.
- The key goes down its standard input only.
"""

import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import msgspec

from deskgrid.host.system.programs import KEPT, SPARING, environment, python
from deskgrid.images.contract import ImageError
from deskgrid.images.format.published import PublishedManifest
from deskgrid.images.serve.serve import ServeOrder, ServeStatus
from deskgrid.wire.disk import MESSAGES, DiskCommand, DiskMessage, DiskServer
from deskgrid.wire.lines import encode

_READY_SECONDS = 60.0
_GONE = "the process that serves images is gone; start the VM again"

Report = Callable[[str], None]


def argv() -> tuple[str, ...]:
    """The program, without the three arguments that `wire/disk.py` names."""
    return tuple(python("deskgrid.images.serve.serve"))


def opening(order: ServeOrder, key: bytes | bytearray | memoryview) -> bytes:
    """What is written to it first. It ends with the key, so that a key may be added later. SECRET."""
    content = msgspec.json.encode(order)
    return b"".join((struct.pack(">I", len(content)), content, key))


def disk_server(order: ServeOrder, key: bytes | bytearray | memoryview, manifest: PublishedManifest) -> DiskServer:
    """How a keeper has this image served. manifest: of the image that the order names."""
    return DiskServer(
        argv=argv(),
        opening=opening(order, key),
        size_bytes=manifest.disk.bytes,
        kernel=manifest.kernel.bytes > 0,
        initrd=manifest.initrd.bytes > 0,
        seed=manifest.seed.bytes > 0,
    )


def _silent(sentence: str) -> None:
    """Tell nobody."""


class Server:
    """A running process that serves an image. socket: where. said: what it reported, oldest first."""

    def __init__(
        self,
        order: ServeOrder,
        key: bytes | bytearray | memoryview,
        tell: Report = _silent,
        socket: Path | None = None,
        files: tuple[int, int] | None = None,
    ) -> None:
        """Start it and wait until it serves.

        Args:
            tell: told what it reports. socket: where to serve; None: in a folder that is made for it.
            files: numbers of memory files for kernel and initrd.

        Raises:
            ImageError: it does not serve; why.
        """
        self.order, self._tell = order, tell
        self._folder = tempfile.TemporaryDirectory(prefix="deskgrid-disk-") if socket is None else None
        self.socket = Path(self._folder.name) / "nbd" if self._folder is not None else Path(str(socket))
        self._words: Queue[DiskMessage | None] = Queue()
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [*argv(), str(self.socket), *map(str, files or ("-", "-"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(*KEPT) | SPARING,
            pass_fds=files or (),
        )
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self._send(opening(order, key))
            self.facts = self._next(_READY_SECONDS).ready or {}
        except ImageError:
            self.close()
            raise ImageError(self.said[-1] if self.said else "the process that serves images did not start") from None

    def status(self) -> ServeStatus:
        """How it goes. Raises: ImageError when it is gone."""
        return msgspec.convert(self.ask("status"), ServeStatus)

    def first_reads(self) -> list[int]:
        """Offsets of the disk in the order of their first reads. Raises: ImageError when it is gone."""
        return list(self.ask("order")["order"])

    def ask(self, do: str, value: int = 0) -> dict[str, Any]:
        """Give a command; see `wire/disk.py`. Raises: ImageError when it is gone."""
        self._send(encode(DiskCommand(do, value)))
        return dict(self._next(30.0).answer)

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
        if self._folder is not None:
            self._folder.cleanup()

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(content)
            self.process.stdin.flush()
        except (OSError, ValueError):
            raise ImageError(_GONE) from None

    def _next(self, seconds: float) -> DiskMessage:
        """The next word that is no report."""
        try:
            found = self._words.get(timeout=seconds)
        except Empty:
            raise ImageError(f"the process that serves images: no answer in {seconds:.0f} s") from None
        if found is None:
            raise ImageError(_GONE)
        return found

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                word = MESSAGES.decode(line)
                if word.said:
                    self.said.append(word.said)
                    self._tell(word.said)
                else:
                    self._words.put(word)
        self._words.put(None)


def blockdev(socket: Path | str, node: str = "base-file", export: str = "disk") -> dict[str, object]:
    """How QEMU opens what is served, for `-blockdev` or QMP: in place of the node that reads the base from a file."""
    return {
        "driver": "nbd",
        "node-name": node,
        "server": {"type": "unix", "path": str(socket)},
        "export": export,
        "read-only": True,
    }
