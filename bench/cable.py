"""A desktop at the end of a cable that can be pulled: an agent and its VMs in a network namespace of their own.

Rules, told first
- The namespace has one veth to us. Pulled: the link is down, packets are lost, nobody is told; as with a real cable.
- What the desktop calls on its loopback (coordinator, collector) is carried through the cable by socat, which keeps
  its connections while the cable is out, as TCP does.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from bench.machine import CannotMeasure

OURS, THEIRS = "10.213.78.1", "10.213.78.2"


class Cable:
    """Plugged in at first. inside: what goes before an argv to run it at the desktop's end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.inside = ["ip", "netns", "exec", name]

    def pull(self) -> None:
        """Take it out."""
        _run("ip", "link", "set", f"{self._name}a", "down")

    def plug(self) -> None:
        """Put it back."""
        _run("ip", "link", "set", f"{self._name}a", "up")


@contextmanager
def cable(ports: Sequence[int]) -> Iterator[Cable]:
    """Lay a cable over which the other end's loopback has our loopback's ports. Raises: CannotMeasure."""
    if os.geteuid() != 0 or shutil.which("socat") is None:
        raise CannotMeasure("a cable to pull needs root and socat (`tools/system-packages --bench`)")
    name = f"dgc{os.getpid()}"
    made = Cable(name)
    carriers: list[subprocess.Popen[bytes]] = []
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        _run("ip", "link", "set", f"{name}b", "netns", name)
        _run("ip", "addr", "add", f"{OURS}/30", "dev", f"{name}a")
        _run(*made.inside, "ip", "addr", "add", f"{THEIRS}/30", "dev", f"{name}b")
        _run("ip", "link", "set", f"{name}a", "up")
        for link in ("lo", f"{name}b"):
            _run(*made.inside, "ip", "link", "set", link, "up")
        for port in ports:
            carriers.append(_carry([], f"{port},bind={OURS}", f"127.0.0.1:{port}"))
            carriers.append(_carry(made.inside, f"{port},bind=127.0.0.1", f"{OURS}:{port}"))
        yield made
    finally:
        for carrier in carriers:
            with suppress(ProcessLookupError):
                os.killpg(carrier.pid, 15)
            carrier.wait(10)
        _run("ip", "netns", "del", name)


def _carry(inside: list[str], listen: str, to: str) -> "subprocess.Popen[bytes]":
    argv = [*inside, "socat", f"TCP-LISTEN:{listen},reuseaddr,fork,backlog=64", f"TCP:{to}"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(argv[:4])}: {done.stderr.strip()}")
