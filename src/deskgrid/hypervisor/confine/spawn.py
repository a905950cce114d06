"""Start QEMU, or what serves its disk, so that it dies with its keeper and stays out of the owner's way; Linux.

The rules, all set between fork and exec, so that every thread has them from its first instruction:
- It is killed by the kernel when its keeper ends, however that ends (PR_SET_PDEATHSIG).
- It is in the desktop's group for VMs, where there is one (`cgroup.py`), and on the VMs' cores (`cores.py`).
- It gets the CPU and the disk only when nobody else wants them: SCHED_IDLE, nice 19, idle I/O class. These count only
  inside its session's autogroup (sched(7)), so that gets the lowest weight too, by `set_share`, as soon as it runs.
- When memory runs out, it goes first (oom_score_adj).

Sources: prctl(2), sched(7), ioprio_set(2), proc(5).
"""

import contextlib
import ctypes
import os
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from deskgrid.host.system.harden import forbid_dumps
from deskgrid.host.system.programs import ENVIRONMENT
from deskgrid.hypervisor.confine.cores import threads

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4
_IOPRIO_IDLE = 3 << 13
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
FAIR_SHARE, LEAST_SHARE = 0, 19
_libc = ctypes.CDLL(None, use_errno=True)


def harden() -> None:
    """Of this process nothing is ever dumped, and nobody of the same account may look into its memory."""
    forbid_dumps()
    os.umask(0o077)


class ProcessLimits(msgspec.Struct, frozen=True):
    """What a process is held to from its first instruction.

    cores: that it may use. idle_class: run it only when nobody else wants the CPU. group: the folder of a cgroup.
    """

    cores: frozenset[int]
    idle_class: bool = True
    group: Path | None = None


def spawn(
    args: Sequence[str],
    handles: Sequence[int],
    errors: int,
    limits: ProcessLimits,
    stream: int = subprocess.DEVNULL,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> subprocess.Popen[bytes]:
    """Start a program that dies with the calling process; call from the main thread.

    Args:
        handles: open files that it inherits under the same numbers. errors: where its stderr goes.
        stream: its standard input and output.
    """
    parent = os.getpid()
    return subprocess.Popen(
        args,
        stdin=stream,
        stdout=stream,
        stderr=errors,
        pass_fds=handles,
        cwd="/",
        env=dict(environment),
        start_new_session=True,
        preexec_fn=lambda: _before_exec(parent, limits),
    )


def _before_exec(parent: int, limits: ProcessLimits) -> None:
    # Dumpable again, until exec: else /proc/self belongs to root and the files below can't be written.
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    with contextlib.suppress(OSError):
        _say("/proc/self/oom_score_adj", b"1000")
    if limits.group is not None:
        with contextlib.suppress(OSError):
            _say(f"{limits.group}/cgroup.procs", b"0")
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, limits.cores)
    if limits.idle_class:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        _to_idle_class(0)
        if (number := _IOPRIO_SET.get(platform.machine())) is not None:
            _libc.syscall(number, 1, 0, _IOPRIO_IDLE)


def open_share(pid: int) -> int:
    """Open the weight of a process's autogroup, for `set_share`, before the process lets nobody look into it.

    Returns: an open file; -1 on a kernel without autogroups: nice values count by themselves there.
    """
    try:
        return os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def set_share(share: int, nice: int) -> bool:
    """Set that weight against other sessions: LEAST_SHARE or FAIR_SHARE; needs no privilege.

    Returns: false when the kernel wants it tried again in a tenth of a second (it takes few such orders).
    """
    try:
        if share >= 0:
            os.write(share, str(nice).encode())
    except BlockingIOError:
        return False
    except OSError:
        pass  # It has ended.
    return True


def _say(path: str, text: bytes) -> None:
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text)
    finally:
        os.close(handle)


def _to_idle_class(thread: int) -> None:
    with contextlib.suppress(OSError):
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def to_idle_class(pid: int) -> None:
    """Put every thread of a process into the idle class."""
    for thread in threads(pid):
        _to_idle_class(thread)


def cpu_seconds_of(pid: int) -> float:
    """What a process has used of processors, its threads together; 0 when it is not there (proc_pid_stat(5))."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
