"""Who is at the other end of a Unix socket, as the kernel says (unix(7), SO_PEERCRED)."""

import socket
import struct

import msgspec


class PeerProcess(msgspec.Struct, frozen=True):
    """Who connected or, on the side that connected, who listened: at that moment."""

    pid: int
    uid: int
    gid: int


def peer_known() -> bool:
    """Whether this system says it."""
    return hasattr(socket, "SO_PEERCRED")


def peer(link: socket.socket) -> PeerProcess:
    """Return who it is. Raises: OSError; AttributeError where `peer_known` says no."""
    return PeerProcess(*struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)))
