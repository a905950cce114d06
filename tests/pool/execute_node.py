"""HTCondor's execute daemons on this machine, as an ordinary execute node of an embedded pool.

For tests of the pool without a hypervisor (it advertises what a VM of ours would) and for comparing an agent at rest
with HTCondor's own daemons. Runs as the tree's account in a folder of its own.

    with ExecuteNode.start(tree, folder, NodeIdentity(...), collector=pool.collector) as node: …
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
import psutil

from deskgrid.host.system.files import own_folder, write_atomic
from deskgrid.host.system.process import kill_group
from deskgrid.host.system.programs import ENVIRONMENT
from deskgrid.host.trees.entry import enter
from deskgrid.host.trees.trees import Tree

_FOLDERS = ("etc", "log", "spool", "execute", "lock")


class NodeIdentity(msgspec.Struct, frozen=True):
    """What the node says of itself, and the token that it joins with. token: SECRET."""

    vm_id: str
    vm_name: str
    desktop: str
    token: str
    trust_domain: str = "deskgrid"
    cpus: int = 1
    memory_mb: int = 512
    extra: tuple[str, ...] = ()
    """Further lines of configuration."""

    def __repr__(self) -> str:
        return f"NodeIdentity(vm_id={self.vm_id!r}, vm_name={self.vm_name!r}, token=<secret>)"


class ExecuteNode:
    """Running execute daemons: a master and a startd."""

    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.folder = folder
        self._process = process

    @classmethod
    def start(
        cls, tree: Tree, folder: Path, member: NodeIdentity, collector: str, prefix: Sequence[str] = ()
    ) -> "ExecuteNode":
        """Start the daemons; they join when they are ready.

        Args:
            collector: "host:port" as the node sees it.
            prefix: goes before the argv, to start it in a network namespace for example.
        """
        own_folder(folder, tree.account)
        for name in _FOLDERS:
            own_folder(folder / name, tree.account)
        own_folder(folder / "etc/tokens.d", tree.account, 0o700)
        write_atomic(folder / "etc/tokens.d/pool", member.token.encode() + b"\n", 0o600, tree.account)
        config = folder / "etc/condor_config"
        write_atomic(config, configuration(folder, member, collector).encode(), owner=tree.account)
        (folder / "master.pid").unlink(missing_ok=True)
        argv = ["condor_master", "-f", "-pidfile", str(folder / "master.pid")]
        env = {"CONDOR_CONFIG": str(config), "HOME": str(folder)}
        with (folder / "log/start.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, *enter(tree, argv, [folder], env)],
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return cls(folder, process)

    def processes(self) -> list[psutil.Process]:
        """The daemons that run, the master first."""
        with suppress(OSError, ValueError, psutil.Error):
            master = psutil.Process(int((self.folder / "master.pid").read_text()))
            if str(self.folder / "master.pid") in master.cmdline() and master.status() != psutil.STATUS_ZOMBIE:
                return [master, *master.children(recursive=True)]
        return []

    def leave(self, timeout_seconds: float = 15) -> None:
        """Shut down fast: jobs are vacated, the ads are taken out."""
        for process in self.processes()[:1]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGQUIT)
        end = time.monotonic() + timeout_seconds
        while self.processes() and time.monotonic() < end:
            self._process.poll()
            time.sleep(0.05)
        self.die()

    def die(self) -> None:
        """Kill everything at once, as when QEMU is killed. Idempotent."""
        running = self.processes()
        for process in running:
            with suppress(psutil.Error):
                process.kill()
        kill_group(self._process.pid, signal.SIGKILL)
        psutil.wait_procs(running, timeout=5)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)

    def __enter__(self) -> "ExecuteNode":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


def configuration(folder: Path, member: NodeIdentity, collector: str) -> str:
    """Return the node's configuration. It listens on the loopback interface and shares the head's private network."""
    return "\n".join(
        (
            "# Written by deskgrid: execute daemons on this machine.",
            "RELEASE_DIR = /usr",
            "BIN = /usr/bin",
            "SBIN = /usr/sbin",
            "LIB = /usr/lib/condor",
            "LIBEXEC = /usr/libexec/condor",
            "SHARE = /usr/share/condor",
            f"LOCAL_DIR = {folder}",
            *(f"{what} = {folder}/{name}" for what, name in (("LOG", "log"), ("SPOOL", "spool"), ("LOCK", "lock"))),
            f"RUN = {folder}/lock",
            f"ETC = {folder}/etc",
            f"EXECUTE = {folder}/execute",
            "DAEMON_LIST = MASTER STARTD",
            f"COLLECTOR_HOST = {collector}",
            "NETWORK_INTERFACE = 127.0.0.1",
            "PRIVATE_NETWORK_NAME = deskgrid-head",
            "PRIVATE_NETWORK_INTERFACE = 127.0.0.1",
            "USE_SHARED_PORT = False",
            "ENABLE_IPV6 = False",
            f"TRUST_DOMAIN = {member.trust_domain}",
            f"UID_DOMAIN = {member.vm_id}",
            f"FILESYSTEM_DOMAIN = {member.vm_id}",
            "SEC_DEFAULT_AUTHENTICATION = REQUIRED",
            "SEC_DEFAULT_AUTHENTICATION_METHODS = IDTOKENS",
            "SEC_DEFAULT_ENCRYPTION = REQUIRED",
            "SEC_DEFAULT_INTEGRITY = REQUIRED",
            f"SEC_TOKEN_DIRECTORY = {folder}/etc/tokens.d",
            f"SEC_TOKEN_SYSTEM_DIRECTORY = {folder}/etc/tokens.d",
            f"SEC_PASSWORD_DIRECTORY = {folder}/etc/none",
            "SEC_USE_FAMILY_SESSION = False",
            "ALLOW_READ = *",
            f"STARTD_NAME = {member.vm_id}@{member.vm_id}.deskgrid.internal",  # its slots are named as a guest's
            f"MASTER_NAME = {member.vm_id}@{member.vm_id}.deskgrid.internal",
            f'vm_name = "{member.vm_name}"',
            f'deskgrid_vm_id = "{member.vm_id}"',
            f'deskgrid_desktop = "{member.desktop}"',
            "ClassAdLifetime = 180",
            "STARTD_ATTRS = vm_name, deskgrid_vm_id, deskgrid_desktop, ClassAdLifetime",
            "MASTER_ATTRS = deskgrid_vm_id",
            "UPDATE_INTERVAL = 60",
            f"NUM_CPUS = {member.cpus}",
            f"MEMORY = {member.memory_mb}",
            "NUM_SLOTS_TYPE_1 = 1",
            "SLOT_TYPE_1 = 100%",
            "SLOT_TYPE_1_PARTITIONABLE = True",
            "START = isUndefined(TARGET.vm_name) || TARGET.vm_name =?= MY.vm_name",
            "USE_PROCD = False",
            "BASE_CGROUP =",
            "RunBenchmarks = False",
            "STARTD_CRON_JOBLIST =",
            "ENABLE_KERNEL_TUNING = False",
            "PREEN =",
            "MachineMaxVacateTime = 1",
            *member.extra,
            "",
        )
    )
