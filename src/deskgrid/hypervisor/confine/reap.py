"""Take the memory back from a process that has been killed, without waiting for it to get the CPU; Linux 5.15 or later.

A killed process frees its memory itself, and one in the idle class gets hardly any CPU to do that just when the owner
is back and busy. process_mrelease(2) does it in the caller's time; it needs no privilege. It can do nothing for a
process that has already begun by itself.
"""

import contextlib
import os
import time
from pathlib import Path

_PROCESS_MRELEASE = 448
_EAGAIN_TRIES = 5


def release_memory(pid: int) -> bool:
    """Free the memory of a process that has got SIGKILL. Returns: false if that is left to the process itself."""
    import ctypes  # Here, because an agent hardly ever gets this far.

    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            return any(libc.syscall(_PROCESS_MRELEASE, handle, 0) == 0 for _ in range(_EAGAIN_TRIES))
        finally:
            os.close(handle)
    return False


def wait_until_ended(pid: int, seconds: float) -> bool:
    """Wait for the end of a process that is not our child. Returns: whether it has ended."""
    end = time.monotonic() + seconds
    while lives(pid):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def lives(pid: int) -> bool:
    """Whether any of its threads lives; one that has ended and that nobody has asked after (a zombie) doesn't."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in ("Z", "X") or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (OSError, IndexError):
        return False
