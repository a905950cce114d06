"""A process that its keeper has started for the VM, QEMU or what serves its disk: seen to its end, and kept in place.

Rule: one in the idle class gets a fair share of the CPU while it has something to do at once (to come up, to stop,
to end): then it does that at once, also on a busy machine.
"""

import asyncio
import contextlib
import os
import signal
import subprocess

from deskgrid.hypervisor.confine.cores import keep_on
from deskgrid.hypervisor.confine.reap import release_memory
from deskgrid.hypervisor.confine.spawn import FAIR_SHARE, LEAST_SHARE, set_share, to_idle_class
from deskgrid.model.values.text import printable

SHARE_TRIES, SHARE_SECONDS = 10, 0.03
_ERROR_CHARS = 400


class Child:
    """One process of `spawn`. errors: the file that its stderr goes to. share: of `open_share`; -1: leave it alone."""

    def __init__(self, process: subprocess.Popen[bytes], errors: int, share: int) -> None:
        self.pid = process.pid
        self._process = process
        self._errors = errors
        self._share_file, self._share = share, FAIR_SHARE
        self._exit = asyncio.get_running_loop().create_future()
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        if not self._exit.done():
            self._exit.set_result(code)

    async def exit(self) -> int:
        """Wait until the process has ended and its memory is back; its exit code, or minus the signal."""
        return int(await asyncio.shield(self._exit))

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._exit.done()

    def fair(self) -> None:
        """Give it a fair share of the CPU."""
        self._set_share(FAIR_SHARE)

    def least(self) -> None:
        """Give it the least share of the CPU."""
        self._set_share(LEAST_SHARE)

    def _set_share(self, nice: int) -> None:
        self._share = nice
        self._try_share(nice, SHARE_TRIES)

    def _try_share(self, nice: int, tries: int) -> None:
        if tries and self._share == nice and not self._exit.done() and not set_share(self._share_file, nice):
            asyncio.get_running_loop().call_later(SHARE_SECONDS, self._try_share, nice, tries - 1)

    def keep_on(self, cores: frozenset[int], to_idle: bool) -> None:
        """Run on these cores only, whatever threads it has by now. to_idle: in the idle class from now on."""
        if not self._exit.done():
            keep_on(self.pid, cores)
            if to_idle:
                to_idle_class(self.pid)

    def kill(self) -> None:
        """End it now; its memory is back when this returns, `exit` says when it has ended."""
        self.fair()
        self.signal(signal.SIGKILL)
        if not self._exit.done():
            release_memory(self.pid)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if not self._exit.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def error_words(self) -> str:
        """The end of what it wrote to stderr, in one line."""
        size = os.fstat(self._errors).st_size
        text = os.pread(self._errors, 4096, max(0, size - 4096)).decode(errors="replace")
        return printable(text.removeprefix("qemu-system-x86_64: "), 4 * _ERROR_CHARS)[-_ERROR_CHARS:]
