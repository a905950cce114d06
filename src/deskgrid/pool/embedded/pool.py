"""A whole HTCondor pool (central manager and schedd) in a folder, for the demo, tests and a first look.

    tree = trees.provide()
    with EmbeddedPool.start(tree, run_folder, HeadSettings(cycle_seconds=3), binds=[work_folder]) as pool:
        pool.collector                    # "127.0.0.1:PORT", for tools on this machine
        pool.guest_collector              # "10.0.2.2:PORT", for InstanceData.collector
        pool.command(["condor_submit", "job.sub"], cwd=work_folder)      # as the submitting user
        CondorPool(pool.reach())          # pool/tools/driver.py; the Reach goes into the coordinator's settings

Everything runs as the tree's unprivileged account, listens on the loopback interface only, and lives below the run
folder (which must be on a local disk; what was there of an earlier pool is used again: the queue survives). A pool
is observed by its pid file, so another process finds it with `EmbeddedPool.find`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from deskgrid.host.system.process import Finished, kill_group
from deskgrid.host.system.programs import ENVIRONMENT
from deskgrid.host.trees.entry import enter, run_in, tidy
from deskgrid.host.trees.trees import Tree
from deskgrid.pool.config import COORDINATOR_USER
from deskgrid.pool.embedded.head import Folders, HeadSettings
from deskgrid.pool.embedded.place import (
    EmbeddedError,
    PoolState,
    check_binds,
    check_port,
    daemons_of,
    end,
    folders_of,
    free_port,
    last_state,
    prepare,
    usual_port,
)
from deskgrid.pool.tools.reach import Reach

__all__ = ["EmbeddedError", "EmbeddedPool", "free_port"]

_COORDINATOR_SCOPES = ("READ", "ADVERTISE_STARTD", "ADVERTISE_MASTER", "ADMINISTRATOR")
"""The last one of the collector only, to let it read again which VMs have ended."""


class EmbeddedPool:
    """A running embedded pool."""

    def __init__(
        self, tree: Tree, folders: Folders, state: PoolState, process: "subprocess.Popen[bytes] | None"
    ) -> None:
        self.tree = tree
        self.folders = folders
        self.state = state
        self._process = process

    @classmethod
    def start(
        cls,
        tree: Tree,
        folder: Path,
        settings: HeadSettings | None = None,
        binds: Sequence[Path] = (),
        timeout_seconds: float = 60,
        waiting: Callable[[], None] = lambda: None,
    ) -> "EmbeddedPool":
        """Start the pool and return when collector, schedd and negotiator answer.

        Args:
            folder: its folder, made if missing; becomes the property of the tree's account.
            binds: further folders that jobs use as their initial working directory. They get no rights by it: only
                what the tree's account may reach anyway is bound.
            waiting: called now and then, for a spinner.

        Raises:
            EmbeddedError: with the reason; nothing is left running.
        """
        settings = settings or HeadSettings()
        folders = folders_of(folder)
        if cls.find(tree, folder) is not None:
            raise EmbeddedError(f"embedded pool {folder}: it runs already; stop it or choose another folder")
        end(daemons_of(folders))
        port = settings.port or usual_port(folders)
        check_port(port)
        check_binds(tree.account, binds)
        state = PoolState(
            port, settings.guest_host, settings.pool.trust_domain, settings.pool.key, tuple(map(str, binds))
        )
        prepare(tree.account, folders, settings, state)
        pool = cls(tree, folders, state, None)
        pool._make_token()
        try:
            pool._process = pool._spawn()
            pool._await(timeout_seconds, waiting)
        except BaseException:
            pool.stop()
            raise
        return pool

    @classmethod
    def find(cls, tree: Tree, folder: Path) -> "EmbeddedPool | None":
        """Return the pool that runs in this folder, or None."""
        folders = folders_of(folder)
        state = last_state(folders)
        if state is None:
            return None
        pool = cls(tree, folders, state, None)
        return pool if pool.master_pid() is not None else None

    @property
    def collector(self) -> str:
        """The collector's "host:port" on this machine."""
        return f"127.0.0.1:{self.state.port}"

    @property
    def guest_collector(self) -> str:
        """The collector's "host:port" as a guest behind QEMU's user network sees it."""
        return f"{self.state.guest_host}:{self.state.port}"

    @property
    def jobs(self) -> Path:
        """A folder for submit files and job output that the pool's daemons can see."""
        return self.folders.run / "jobs"

    @property
    def binds(self) -> tuple[Path, ...]:
        """Folders of others that the pool's daemons see."""
        return tuple(map(Path, self.state.binds))

    def sees(self, folder: Path) -> bool:
        """Whether the pool's daemons see this folder, and so jobs may be submitted there."""
        return any(folder.is_relative_to(seen) for seen in self._binds())

    def reach(self, timeout_seconds: float = 20.0) -> Reach:
        """How the coordinator, under the same account but in any process, reaches this pool."""
        return Reach(
            tree=str(self.tree.root),
            config=str(self.folders.config),
            account=self.tree.account,
            tokens=str(self.folders.tokens),
            keys=str(self.folders.keys),
            key=self.state.key,
            trust_domain=self.state.trust_domain,
            ended=str(self.folders.ended),
            timeout_seconds=timeout_seconds,
        )

    def argv(self, argv: Sequence[str], cwd: Path | None = None, timeout_seconds: float | None = None) -> list[str]:
        """Return the argv that runs one of HTCondor's programs in the tree, for subprocess."""
        return enter(self.tree, argv, self._binds(), self._env(), cwd, timeout_seconds)

    def command(
        self, argv: Sequence[str], cwd: Path | None = None, timeout_seconds: float = 30, stdin: bytes = b""
    ) -> Finished:
        """Run condor_submit, condor_q, condor_rm, condor_history … as the submitting user and wait for it."""
        return run_in(self.tree, argv, timeout_seconds, self._binds(), self._env(), cwd, stdin)

    def master_pid(self) -> int | None:
        """Return the master's process id if it runs."""
        try:
            pid = int(self.folders.pid.read_text())
            process = psutil.Process(pid)
            ours = str(self.folders.pid) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if ours else None

    def daemon_pids(self) -> dict[str, int]:
        """Return the process ids of the running daemons by program name ("condor_schedd")."""
        master = self.master_pid()
        if master is None:
            return {}
        found = {"condor_master": master}
        with suppress(psutil.Error):
            for child in psutil.Process(master).children():
                with suppress(psutil.Error):
                    found[child.name()] = child.pid
        return found

    def stop(self, timeout_seconds: float = 20) -> None:
        """End the pool: politely, then fast, then by force. Idempotent; also for a pool that was found."""
        for number, seconds in ((signal.SIGTERM, timeout_seconds / 2), (signal.SIGQUIT, timeout_seconds / 2)):
            if self._signal_master(number):
                self._await_end(seconds)
        if self._process is not None:
            kill_group(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        end(daemons_of(self.folders))
        self.folders.pid.unlink(missing_ok=True)
        for bind in self._binds():
            tidy(self.tree, bind)

    def __enter__(self) -> "EmbeddedPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _binds(self) -> tuple[Path, ...]:
        return (self.folders.run, *self.binds)

    def _env(self) -> dict[str, str]:
        return {"CONDOR_CONFIG": str(self.folders.config), "HOME": str(self.folders.run)}

    def _make_token(self) -> None:
        """Give the coordinator its token; HTCondor writes it readable by the account only."""
        for old in self.folders.tokens.iterdir():
            old.unlink()
        argv = ["condor_token_create", "-key", self.state.key, "-token", "coordinator"]
        argv += ["-identity", f"{COORDINATOR_USER}@{self.state.trust_domain}"]
        argv += [word for scope in _COORDINATOR_SCOPES for word in ("-authz", scope)]
        folder = {"_CONDOR_SEC_TOKEN_DIRECTORY": str(self.folders.tokens)}
        made = run_in(self.tree, argv, 20, self._binds(), {**self._env(), **folder})
        if not made.ok:
            raise EmbeddedError(f"embedded pool: no token could be made: {made.fault}")

    def _spawn(self) -> "subprocess.Popen[bytes]":
        argv = self.argv(["condor_master", "-f", "-pidfile", str(self.folders.pid)])
        with (self.folders.run / "log/start.log").open("wb") as log:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )

    def _await(self, timeout_seconds: float, waiting: Callable[[], None]) -> None:
        """Wait until the collector knows schedd and negotiator."""
        assert self._process is not None
        deadline = time.monotonic() + timeout_seconds
        while True:
            waiting()
            if self._process.poll() is not None:
                raise EmbeddedError(f"embedded pool: condor_master ended at once: {self._said()}")
            if self._answers():
                return
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"embedded pool: no answer from collector, schedd and negotiator in {timeout_seconds:.0f} s: "
                    f"{self._said()}; see {self.folders.run}/log"
                )
            time.sleep(0.3)

    def _answers(self) -> bool:
        asked = self.command(["condor_status", "-any", "-af", "MyType", "MyAddress"], timeout_seconds=10)
        types = {line.split()[0] for line in asked.stdout.splitlines() if line.strip()}
        return asked.ok and {"Collector", "Scheduler", "Negotiator"} <= types

    def _said(self) -> str:
        for name in ("start.log", "MasterLog"):
            with suppress(OSError):
                lines = (self.folders.run / "log" / name).read_text(errors="replace").strip().splitlines()
                if lines:
                    return lines[-1]
        return "it said nothing"

    def _signal_master(self, number: int) -> bool:
        pid = self.master_pid()
        if pid is None:
            return False
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
        return True

    def _await_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.master_pid() is not None and time.monotonic() < deadline:
            if self._process is not None:
                self._process.poll()
            time.sleep(0.05)
