"""Begin the process that serves a VM's disk, before anything else is loaded; the words: `wire/disk.py`.

The rules:
- It is this process's child and dies with it, in QEMU's cgroup, class and cores.
- It gets the opening, which holds a SECRET, over a socket pair, and two memory files to fill with kernel and initrd.
- Before it has the opening, what must be opened of it in /proc is: with a secret in it, it lets nobody of this account.
"""

import contextlib
import fcntl
import os
import socket
import subprocess
from pathlib import Path

import msgspec

from deskgrid.hypervisor.keeper_place import CannotKeep
from deskgrid.hypervisor.keeper_words import DISK_SOCKET_NAME
from deskgrid.hypervisor.spawn import Limits, open_share, spawn
from deskgrid.wire.disk import DiskServer, environment

_NO_FILE = "-"


class Begun(msgspec.Struct):
    """A process that has begun. link: its standard input and output. unsent: the rest of its opening. SECRET.

    errors: the file that its stderr goes to. kernel, initrd: memory files; -1: none. share: as of `open_share`.
    """

    process: subprocess.Popen[bytes]
    link: socket.socket
    unsent: bytes
    errors: int
    kernel: int
    initrd: int
    share: int

    def close(self, what: str) -> None:
        """Give back the "kernel" or the "initrd"."""
        if (handle := getattr(self, what)) >= 0:
            os.close(handle)
            setattr(self, what, -1)


def begin(served: DiskServer, folder: Path, limits: Limits) -> Begun:
    """Start it, to serve in the VM's folder; tell it what. Raises: CannotKeep."""
    kernel, initrd = (
        _memory_file(name, there) for name, there in (("kernel", served.kernel), ("initrd", served.initrd))
    )
    files = [handle for handle in (kernel, initrd) if handle >= 0]
    errors = os.memfd_create("disk-errors", os.MFD_CLOEXEC)
    ours, theirs = socket.socketpair()
    names = [str(handle) if handle >= 0 else _NO_FILE for handle in (kernel, initrd)]
    args = [*served.argv, str(folder / DISK_SOCKET_NAME), *names]
    try:
        process = spawn(args, files, errors, limits, theirs.fileno(), environment(os.environ))
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotKeep(f"the process that serves its disk could not be started: {error}; install it again") from error
    finally:
        theirs.close()
    share = open_share(process.pid) if limits.idle_class else -1
    ours.setblocking(False)
    sent = 0
    with contextlib.suppress(OSError):  # One that has ended already is seen later.
        sent = ours.send(served.opening)
    return Begun(process, ours, served.opening[sent:], errors, kernel, initrd, share)


def abandon(begun: Begun) -> None:
    """End it before it was of any use."""
    begun.process.kill()
    begun.process.wait()


def _memory_file(name: str, there: bool) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING) if there else -1


def seal(handle: int, seals: int) -> None:
    """Nobody writes to this memory file any more. Raises: OSError."""
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
