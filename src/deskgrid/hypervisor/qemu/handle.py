"""The driver's end of one keeper: its process, its socket, and what it has said last.

Any thread may send; one thread of the VM's own reads. Sending never waits: a keeper that does not read its orders is
ended, and its VM with it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deskgrid.core.commands import Kill
from deskgrid.core.events import Alive, FromHypervisor, Gone, Started, StartFailed
from deskgrid.host.system.peer import peer
from deskgrid.host.system.programs import KEPT, environment, python
from deskgrid.hypervisor.confine.reap import release_memory, wait_until_ended
from deskgrid.model.values.text import printable
from deskgrid.wire.keeper import (
    DISK_SOCKET_NAME,
    FROM_KEEPER,
    LINE_BYTES,
    SOCKET_NAME,
    FromKeeper,
    Observed,
    Task,
    ToKeeper,
)
from deskgrid.wire.lines import Lines, encode

END_SECONDS = 2.0
"""How long a keeper may take to end after its last word, before it is killed."""


class KeeperHandle:
    """One VM's keeper."""

    def __init__(self, vm_id: str, folder: Path, link: socket.socket) -> None:
        self.vm_id = vm_id
        self.folder = folder
        self.observed: Observed | None = None
        self.last: Gone | StartFailed | None = None
        self.started = False
        self.kill_ordered = False
        self.let_go = False
        self._link = link
        self._lock = threading.Lock()
        self._waiting: list[ToKeeper] | None = []
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._errors = -1
        self._lines = Lines(LINE_BYTES)
        self._said: deque[FromKeeper] = deque()

    def spawn(self, task: Task, theirs: socket.socket) -> None:
        """Start a keeper. Raises: OSError."""
        self._errors = os.memfd_create("keeper-errors", os.MFD_CLOEXEC)
        self._process = subprocess.Popen(
            python("deskgrid.hypervisor.keeper"),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            cwd="/",
            env=environment(*KEPT),
            start_new_session=True,
        )
        self._pid = self._process.pid
        with self._lock:
            with contextlib.suppress(OSError):  # A keeper that ended at once is seen, and told of, by the reader.
                self._link.sendall(encode(task))
            waiting, self._waiting = self._waiting or [], None
        for order in waiting:
            self.send(order)

    @classmethod
    def connect(cls, folder: Path) -> "KeeperHandle":
        """Attach to a keeper that is there. Raises: OSError, when none answers."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.settimeout(1.0)
            link.connect(os.fsencode(folder / SOCKET_NAME))
        except OSError:
            link.close()
            raise
        handle = cls(folder.name, folder, link)
        handle._waiting = None
        handle._pid = peer(link).pid
        return handle

    def send(self, order: ToKeeper) -> None:
        """Say it now, or as soon as the keeper runs."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(order)
                return
            try:
                self._link.send(encode(order), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                if isinstance(order, Kill):
                    self.end_keeper()
            except OSError:
                pass  # It has ended; the reading thread sees that.

    def messages(self, seconds: float | None = None) -> Iterator[FromKeeper]:
        """What the keeper says, until it is silent for ever, or for `seconds`."""
        self._link.settimeout(seconds)
        while True:
            while self._said:
                yield self._said.popleft()
            try:
                data = self._link.recv(65536)
            except OSError:
                return
            if not data:
                return
            for line in self._lines.feed(data):
                with contextlib.suppress(msgspec.MsgspecError):
                    self._said.append(FROM_KEEPER.decode(line))

    def note(self, event: FromHypervisor) -> None:
        """Keep what is known of the VM up to date; whether its processors run, the keeper says itself."""
        self.started = self.started or isinstance(event, Started)
        if isinstance(event, Alive) and self.observed is not None:
            self.observed = msgspec.structs.replace(self.observed, alive=True)

    def close(self) -> None:
        """Let go of the keeper without ending it."""
        self.let_go = True
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def end_keeper(self) -> None:
        """End the keeper by force; the kernel ends its QEMU."""
        if self._process is not None:
            self._process.kill()
        elif self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def wait_all_gone(self) -> None:
        """Wait until keeper, QEMU and what serves its disk have ended, however long; end them if they don't."""
        self._link.close()
        while not self._keeper_gone(END_SECONDS):
            self.end_keeper()
        if self.observed is not None and self.observed.qemu_pid:
            _end(self.observed.qemu_pid, f"guest={self.vm_id},")
        if self.observed is not None and self.observed.disk_pid:
            _end(self.observed.disk_pid, str(self.folder / DISK_SOCKET_NAME))

    def _keeper_gone(self, seconds: float) -> bool:
        if self._process is None:
            return wait_until_ended(self._pid, seconds)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how_it_ended(self) -> str:
        """A sentence for a keeper that ended without its last word."""
        code = self._process.returncode if self._process is not None else None
        if code is not None and code < 0:
            return f"its keeper was killed by signal {-code}"
        said = os.pread(self._errors, 65536, 0).decode(errors="replace").strip() if self._errors >= 0 else ""
        return f"its keeper ended by itself: {printable(said[-300:], 300) or 'it said nothing'}"

    def forget(self) -> None:
        """Give back what this end holds."""
        self._link.close()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


def _end(pid: int, name: str) -> None:
    """Normally it has ended with its keeper; the name in its arguments tells it from a stranger with its number."""
    with contextlib.suppress(OSError):
        while not wait_until_ended(pid, 0.1) and name in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
            release_memory(pid)
