"""A link with a delay and a rate, and a web server at its other end.

    python -m bench.link NAME DELAY_MS MBIT     the forwarder: run by `slow_link`, as root

Rules:
- The other end is a network namespace of its own, joined to ours by two TUN devices; a program carries the packets,
  each after the delay and no faster than the rate, both ways. TCP is the kernel's own at both ends. (The kernel's
  netem would do the same, where it is there.)
- A queue holds 200 ms; what comes beyond is dropped, as a router does.
- The web server is nginx; its log says how many bytes it sent, headers included.
"""

import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from bench.machine import CannotMeasure, inside

OURS, THEIRS = "10.213.77.1", "10.213.77.2"
_QUEUE_SECONDS = 0.2
_TUNSETIFF, _TUN, _NO_PACKET_INFORMATION = 0x400454CA, 1, 0x1000
_NGINX = """daemon off; worker_processes 1; pid {work}/pid; error_log {work}/error.log; user {user};
events {{ worker_connections 256; }}
http {{
  log_format told "$bytes_sent $request_length $status $request"; access_log {work}/access.log told;
  client_body_temp_path {work}/t1; proxy_temp_path {work}/t2; fastcgi_temp_path {work}/t3; uwsgi_temp_path {work}/t4;
  scgi_temp_path {work}/t5; sendfile on; keepalive_requests 1000000; default_type application/octet-stream;
  server {{ listen {address}:80; root {root}; max_ranges 1000000; }}
}}
"""


class Sent(msgspec.Struct, frozen=True):
    """What a web server sent: bytes with headers, and how many requests it answered."""

    bytes: int
    requests: int


class Web:
    """The web server at the other end. url: of its root, from here."""

    def __init__(self, log: Path) -> None:
        self.url = f"http://{THEIRS}"
        self._log = log

    def sent(self) -> Sent:
        """What it sent until now."""
        time.sleep(0.2)
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return Sent(sum(int(line.split()[0]) for line in lines), len(lines))


@contextmanager
def slow_link(root: Path, work: Path, delay_ms: float = 10.0, mbit: float = 100.0) -> Iterator[Web]:
    """Serve `root` over a link with this delay each way and this rate. work: an empty folder. Raises: CannotMeasure."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if os.geteuid() != 0 or nginx is None or not Path("/dev/net/tun").exists():
        raise CannotMeasure("a link with a delay needs root, /dev/net/tun and nginx (`tools/system-packages --bench`)")
    name = f"dgb{os.getpid()}"
    _run("ip", "netns", "add", name)
    processes = []
    try:
        argv = [sys.executable, "-m", "bench.link", name, str(delay_ms), str(mbit)]
        forwarder = subprocess.Popen(argv, stdout=subprocess.PIPE)
        processes.append(forwarder)
        assert forwarder.stdout is not None
        if forwarder.stdout.readline() != b"up\n":
            raise CannotMeasure("the slow link did not come up")
        settings = work / "nginx.conf"
        settings.write_text(_NGINX.format(work=work, root=root, address=THEIRS, user="root"))
        argv = [nginx, "-p", str(work), "-e", str(work / "error.log"), "-c", str(settings)]
        processes.append(subprocess.Popen([*inside(name), *argv]))
        _await(f"http://{THEIRS}/")
        (work / "access.log").write_bytes(b"")
        yield Web(work / "access.log")
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(10)
        with suppress(CannotMeasure):
            _run("ip", "netns", "del", name)


def _await(url: str) -> None:
    import urllib.error
    import urllib.request

    for _ in range(50):
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise CannotMeasure("nginx at the other end of the slow link: no answer in 5 s")


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise CannotMeasure(f"{' '.join(argv[:3])}: {done.stderr.strip()}")


class _Way:
    """One direction."""

    def __init__(self, source: int, target: int, delay: float, rate: float) -> None:
        self.source, self._target, self._delay, self._rate = source, target, delay, rate
        self._queue: deque[tuple[float, bytes]] = deque()
        self._free_at = 0.0

    def take(self, now: float) -> None:
        """Take what has come."""
        for _ in range(64):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            begin = max(now, self._free_at)
            if begin - now < _QUEUE_SECONDS:
                self._free_at = begin + len(packet) / self._rate
                self._queue.append((self._free_at + self._delay, packet))

    def give(self, now: float) -> float:
        """Hand over what is due. Returns: when the next is."""
        while self._queue and self._queue[0][0] <= now:
            with suppress(OSError):
                os.write(self._target, self._queue.popleft()[1])
        return self._queue[0][0] if self._queue else now + 1.0


def _tun(name: str) -> int:
    handle = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN | _NO_PACKET_INFORMATION))
    return handle


def main(name: str, delay_ms: str, mbit: str) -> None:
    """Carry packets until ended."""
    ours, theirs = _tun(f"{name}a"), _tun(f"{name}b")
    there = inside(name)
    _run("ip", "link", "set", f"{name}b", "netns", name)
    _run("ip", "addr", "add", OURS, "peer", THEIRS, "dev", f"{name}a")
    _run(*there, "ip", "addr", "add", THEIRS, "peer", OURS, "dev", f"{name}b")
    _run("ip", "link", "set", f"{name}a", "up", "txqueuelen", "2000")
    _run(*there, "ip", "link", "set", f"{name}b", "up", "txqueuelen", "2000")
    delay, rate = float(delay_ms) / 1000, float(mbit) * 1e6 / 8
    ways = [_Way(ours, theirs, delay, rate), _Way(theirs, ours, delay, rate)]
    os.write(1, b"up\n")
    due = 0.0
    while True:
        ready = select.select([ours, theirs], [], [], max(0.0, due - time.monotonic()))[0]
        now = time.monotonic()
        for way in ways:
            if way.source in ready:
                way.take(now)
        due = min(way.give(time.monotonic()) for way in ways)


if __name__ == "__main__":
    main(*sys.argv[1:])
