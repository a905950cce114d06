"""The socket's file, who is at the other end, and the pace at which strangers are answered."""

import os
import select
import socket
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.host.system.peer import peer_known
from deskgrid.model.values.bucket import TokenBucket

RUN_FOLDER = Path("/run/deskgrid")
SOCKET_NAME = "agent.sock"
BACKLOG = 4096
"""Connections that may wait to be accepted: many, so that a flood does not keep others out (listen(2))."""
PACED_ACCOUNTS = 1024


class LocalError(Exception):
    """The socket can't be made. The message says why and what to do."""


class SocketLimits(msgspec.Struct, frozen=True):
    """How much the agent listens to.

    connections, connections_per_account: at a time. An account that has none gets one of who has most.
    lines, lines_per_second: what one connection may say: so many, and so many more for each second that it lasts.
    pace_seconds: time between questions of an account that has asked `burst` at once; a helper's reading counts
    as five. Each account has a pace of its own, and another one for its connections.
    """

    connections: int = 32
    connections_per_account: int = 8
    silence_seconds: float = 10.0
    told_seconds: float = 60.0
    lines: int = 100
    lines_per_second: float = 5.0
    burst: float = 50.0
    pace_seconds: float = 0.02


class AccountPace:
    """How much each account has asked of late: who floods waits, and nobody else does."""

    def __init__(self, limits: SocketLimits) -> None:
        self._limits = limits
        self._buckets: dict[int, TokenBucket] = {}

    def spend(self, uid: int, cost: float = 1.0) -> None:
        """Take note of work for an account; who goes on while it is refused does not wait longer for it."""
        now = time.monotonic()
        if len(self._buckets) >= PACED_ACCOUNTS:
            self._buckets = {one: bucket for one, bucket in self._buckets.items() if not bucket.full(now)}
        if (bucket := self._buckets.get(uid)) is None:
            bucket = self._buckets[uid] = TokenBucket(1 / self._limits.pace_seconds, self._limits.burst, now)
        bucket.spend(cost, now, debt=cost)

    def wait_seconds(self, uid: int) -> float:
        """How long nothing more is done for this account."""
        bucket = self._buckets.get(uid)
        return max(0.0, bucket.wait_seconds(time.monotonic())) if bucket is not None else 0.0


def listening_place(chosen: Path | None, state: Path) -> Path:
    """Where an agent listens: as its settings say; else in /run/deskgrid where it may; else in its state folder."""
    if chosen is not None:
        return chosen
    return (RUN_FOLDER if os.access(RUN_FOLDER, os.W_OK | os.X_OK) else state) / SOCKET_NAME


def listen(path: Path) -> socket.socket:
    """Listen at `path` for every account; a file that a dead agent left there is replaced.

    Raises: LocalError: another agent listens there, the file can't be made, or this system can't tell who speaks.
    """
    if not peer_known():
        raise LocalError("local socket: this system does not tell who speaks (SO_PEERCRED), so nobody is heard")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _somebody_listens(path):
            raise LocalError(f"local socket {path}: another agent listens there; give each its own (`local`)")
        path.unlink(missing_ok=True)
        listener.bind(os.fsencode(path))
        path.chmod(0o666)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise LocalError(
            f"local socket {path}: {reason}; expected a folder that this account may write to (`local`)"
        ) from None
    except LocalError:
        listener.close()
        raise
    return listener


def inode(path: Path) -> int:
    """Which file is there; 0: none."""
    with suppress(OSError):
        return path.lstat().st_ino
    return 0


def hung_up(link: socket.socket) -> bool:
    """Whether the other end is closed, though what it said before may not be read yet."""
    poll = select.poll()
    poll.register(link, 0)  # POLLHUP comes unasked
    return any(what & select.POLLHUP for _, what in poll.poll(0))


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
        link.setblocking(False)
        try:
            link.connect(os.fsencode(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True
