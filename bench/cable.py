"""A desktop at the end of a cable that can be pulled: an agent and its VMs in a network namespace of their own.

Rules:
- We are in a network namespace too (`alone`), so that no rule of ours touches the machine's own network.
- The desktop has one veth to us. Pulled: packets are dropped at our end, nobody is told; as with a real cable.
- What the desktop calls on its loopback (coordinator, collector) is sent through the cable by its kernel (NAT) and
  arrives on our loopback: one connection from end to end, which feels the cable as HTCondor's would.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.machine import CannotMeasure, inside

OURS, THEIRS = "10.213.78.1", "10.213.78.2"
_ALONE = "DESKGRID_BENCH_ALONE"


def alone(module: str, argv: Sequence[str]) -> None:
    """Go on in a network namespace that has nothing but its loopback: this program again. Raises: CannotMeasure."""
    if os.environ.get(_ALONE):
        _run("ip", "link", "set", "lo", "up")
        _run("sysctl", "-q", "-w", "net.ipv4.tcp_keepalive_intvl=5")  # as docs/adr/0018 asks of a pool's head
        return
    lacking = [name for name in ("unshare", "ip", "nft") if shutil.which(name) is None]
    if os.geteuid() != 0 or lacking:
        needs = ", ".join(lacking) or "root"
        raise CannotMeasure(f"a cable to pull needs {needs} (`tools/system-packages --bench`)")
    os.environ[_ALONE] = "1"
    os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", module, *argv])


class Cable:
    """Plugged in at first. inside: what goes before an argv to run it at the desktop's end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.inside = inside(name)

    def pull(self) -> None:
        """Take it out."""
        _nft(
            [],
            "add table ip pulled",
            "add chain ip pulled in { type filter hook prerouting priority -400; }",
            "add chain ip pulled out { type filter hook postrouting priority 400; }",
            f"add rule ip pulled in iifname {self.name}a drop",
            f"add rule ip pulled out oifname {self.name}a drop",
        )

    def plug(self) -> None:
        """Put it back."""
        _nft([], "delete table ip pulled")


@contextmanager
def cable(ports: Sequence[int]) -> Iterator[Cable]:
    """Lay a cable over which the other end's loopback has our loopback's ports. Raises: CannotMeasure."""
    name = f"dgc{os.getpid()}"
    made, several = Cable(name), ", ".join(map(str, ports))
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        _run("ip", "link", "set", f"{name}b", "netns", name)
        for before, address, end in (([], OURS, "a"), (made.inside, THEIRS, "b")):
            _run(*before, "ip", "addr", "add", f"{address}/30", "dev", f"{name}{end}")
            for link in ("lo", f"{name}{end}"):
                _run(*before, "ip", "link", "set", link, "up")
            _run(*before, "sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
        _nft(
            made.inside,
            "add table ip cable",
            "add chain ip cable there { type nat hook output priority -100; }",
            "add chain ip cable back { type nat hook postrouting priority 100; }",
            f"add rule ip cable there ip daddr 127.0.0.1 tcp dport {{ {several} }} dnat to {OURS}",
            f"add rule ip cable back oifname {name}b snat to {THEIRS}",
        )
        _nft(
            [],
            "add table ip cable",
            "add chain ip cable here { type nat hook prerouting priority -100; }",
            f"add rule ip cable here iifname {name}a tcp dport {{ {several} }} dnat to 127.0.0.1",
        )
        yield made
    finally:
        _run("ip", "netns", "del", name)


def _nft(before: list[str], *commands: str) -> None:
    _run(*before, "nft", "-f", "-", said="\n".join(commands) + "\n")


def _run(*argv: str, said: str = "") -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, input=said)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(argv[:4])}: {done.stderr.strip()}")
