"""The demo's processes: coordinator and agents, without privileges, in one folder of their own.

Rules:
- Whoever calls, the parts run as the unprivileged service account (`host/system/account.py`); root only prepares.
- Everything is put away in reverse order, whatever happened, also on Ctrl-C; a process that does not end is killed.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.system.programs import python

DESKTOPS = ("desk-1", "desk-2")
STOP_SECONDS = 15.0
HANG_SECONDS = 900.0
"""Tells what hangs from what is slow on a busy machine: nothing is given up before."""


class DemoError(Exception):
    """The demo cannot go on. The message says why and what to do."""


class Cast:
    """Starts processes and ends them all."""

    def __init__(self, keep: bool = False) -> None:
        self.account = service_account()
        self._stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="deskgrid-demo-"))
        own_folder(self.folder, self.account, 0o755)
        if not keep:
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def close(self) -> None:
        """Put everything away."""
        self._stack.close()

    def at_end(self, stop: Callable[[], None]) -> None:
        """Call `stop()` when the demo ends."""
        self._stack.callback(stop)

    def make_folder(self, name: str, mode: int = 0o700) -> Path:
        """A folder of the account's."""
        path = self.folder / name
        own_folder(path, self.account, mode)
        return path

    def write(self, path: Path, text: str, mode: int = 0o600) -> Path:
        """A file of the account's."""
        path.write_text(text)
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, self.account.uid, self.account.gid)
        return path

    def run(
        self, *arguments: str, stdin: str = "", timeout_seconds: float = HANG_SECONDS, module: str = "deskgrid"
    ) -> str:
        """Run a deskgrid command (or another module) as the account; return what it printed. Raises: DemoError."""
        done = subprocess.run(
            self._argv(arguments, module),
            input=stdin.encode(),
            capture_output=True,
            timeout=timeout_seconds,
            cwd=self.folder,
            env=self._env(),
            check=False,
        )
        if done.returncode:
            raise DemoError(f"{module} {' '.join(arguments[:2])}: {done.stderr.decode().strip() or 'it failed'}")
        return done.stdout.decode()

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a deskgrid command as the account, its log beside; it is ended with the demo."""
        return self.start_argv(name, self._argv(("--verbose", *arguments)))

    def start_argv(self, name: str, argv: list[str]) -> subprocess.Popen[bytes]:
        """Start any program, its log beside; it is ended with the demo."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                env=self._env(),
                start_new_session=True,
            )
        self.processes[name] = process
        self._stack.callback(_end, process)
        return process

    def watch(self) -> None:
        """Raises: DemoError when one of the processes has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                lines = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
                raise DemoError(f"{name} ended with code {process.returncode}: {lines[-1] if lines else 'no word'}")

    def _argv(self, arguments: tuple[str, ...], module: str = "deskgrid") -> list[str]:
        return [*become(self.account), *python(module, arguments)]

    def _env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM", "TZ") if name in os.environ}
        return {**kept, "HOME": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and whatever it has started (an agent's virtual machines)."""
    if process.poll() is not None:
        return
    with suppress(psutil.Error):
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for one in family:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(family, timeout=STOP_SECONDS)
