"""The socket's file, who is at the other end, and the pace at which strangers are answered."""

import os
import select
import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

import msgspec

RUN_FOLDER = Path("/run/deskgrid")
SOCKET_NAME = "agent.sock"


class LocalError(Exception):
    """The socket can't be made. The message says why and what to do."""


class Limits(msgspec.Struct, frozen=True):
    """How much the agent listens to.

    lines, lines_per_second: what one connection may say: so many, and so many more for each second that it lasts.
    pace_seconds: so long each question takes once `burst` have been asked at once; a helper's word counts as five.
    """

    connections: int = 32
    connections_per_account: int = 8
    silence_seconds: float = 10.0
    told_seconds: float = 60.0
    lines: int = 100
    lines_per_second: float = 5.0
    burst: float = 50.0
    pace_seconds: float = 0.02


class Pace:
    """Rests before an answer once too many have been given in a short time: a flood costs little more than silence."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent, self._at = 0.0, time.monotonic()

    def spend(self, cost: float = 1.0) -> None:
        """Take note of work, and rest if there has been too much."""
        now, pace_seconds = time.monotonic(), self._limits.pace_seconds
        self._spent = max(0.0, self._spent - (now - self._at) / pace_seconds) + cost
        self._at = now
        if self._spent > self._limits.burst:
            time.sleep(cost * pace_seconds)


def listening_place(chosen: Path | None, state: Path) -> Path:
    """Where an agent listens: as its settings say; else in /run/deskgrid where it may; else in its state folder."""
    if chosen is not None:
        return chosen
    return (RUN_FOLDER if os.access(RUN_FOLDER, os.W_OK | os.X_OK) else state) / SOCKET_NAME


def listen(path: Path) -> socket.socket:
    """Listen at `path` for every account; a file that a dead agent left there is replaced.

    Raises: LocalError: another agent listens there, the file can't be made, or this system can't tell who speaks.
    """
    if not hasattr(socket, "SO_PEERCRED"):
        raise LocalError("local socket: this system does not tell who speaks (SO_PEERCRED), so nobody is heard")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _somebody_listens(path):
            raise LocalError(f"local socket {path}: another agent listens there; give each its own (`local`)")
        path.unlink(missing_ok=True)
        listener.bind(os.fsencode(path))
        path.chmod(0o666)
        listener.listen(64)
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


def peer_uid(link: socket.socket) -> int:
    """The account at the other end. Source: unix(7), SO_PEERCRED: struct ucred {pid, uid, gid}."""
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


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
