"""Desktops that report to a coordinator as fast as it answers: the load for `reports.py`, in a process of its own.

Rules:
- Each desktop has one connection over TLS that stays open, and one report under way: the next goes when the answer has
  come, as a desktop does it, only without a pause.
- A report is one of a desktop at rest, its sequence growing, so that each is taken in as new.
- Counting begins after a warm-up; the coordinator's CPU time is read at the same two moments.
"""

import asyncio
import os
import ssl
import time
from datetime import UTC, datetime
from typing import cast

import msgspec

from deskgrid.model.desktop import Availability, Room
from deskgrid.model.image import ImageRef
from deskgrid.wire.messages import Report

GIB = 1 << 30
_FIRST = 1_000_000


class Task(msgspec.Struct, frozen=True):
    """What to do; comes on standard input. who: name and credential of each desktop. SECRET. pid: the coordinator."""

    port: int
    ca: str
    pid: int
    who: tuple[tuple[str, str], ...]
    warm_seconds: float = 3.0
    seconds: float = 10.0


class Result(msgspec.Struct, frozen=True):
    """What came of it. cpu_seconds: of the coordinator. own_cpu_seconds: of this load. bytes: of one report."""

    seconds: float
    answers: int
    cpu_seconds: float
    own_cpu_seconds: float
    bytes: int
    failures: tuple[str, ...] = ()


def report_at_rest() -> Report:
    """What a desktop says that is free and runs nothing."""
    return Report(
        incarnation=f"load-{os.getpid()}-{time.monotonic_ns()}",
        sequence=_FIRST,
        sent_at=datetime.now(UTC),
        availability=Availability(True, (), 3600.0, False),
        room=Room(cpus=3, memory_bytes=6 * GIB, disk_bytes=100 * GIB, vms=4),
        cpus=4,
        memory_bytes=8 * GIB,
        agent_version="0.1.0",
        images=(ImageRef("its-sl6-lscsoft-20120415", "0" * 64),),
    )


class Desktop(asyncio.Protocol):
    """One connection."""

    def __init__(self, name: str, credential: str, counted: "Counted") -> None:
        before, after = msgspec.json.encode(report_at_rest()).split(b'"sequence":%d' % _FIRST, 1)
        before += b'"sequence":'
        length = len(before) + len(str(_FIRST)) + len(after)
        head = (
            f"POST /v1/report HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {name}:{credential}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
        self._before, self._after = head.encode() + before, after
        self._sequence, self._counted, self._got = _FIRST, counted, b""
        counted.bytes = length

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say the first report."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by name
        self._say()

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._got += data
        head, there, body = self._got.partition(b"\r\n\r\n")
        if not there or len(body) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._counted.failures.append(self._got[-300:].decode(errors="replace"))
            self._transport.close()
            return
        self._got = b""
        self._counted.answers += 1
        self._say()

    def connection_lost(self, exc: Exception | None) -> None:
        """Only at the end."""
        if not self._counted.ending:
            self._counted.failures.append(f"a connection was lost: {exc}")

    def _say(self) -> None:
        self._sequence += 1
        self._transport.write(b"%b%d%b" % (self._before, self._sequence, self._after))


class Counted:
    """What all desktops count together."""

    def __init__(self) -> None:
        self.answers = self.bytes = 0
        self.failures: list[str] = []
        self.ending = False


async def drive(task: Task) -> Result:
    """Connect, warm up, count."""
    counted = Counted()
    context = ssl.create_default_context(cafile=task.ca)
    loop = asyncio.get_running_loop()
    connections = [
        await loop.create_connection(
            lambda name=name, secret=secret: Desktop(name, secret, counted),  # type: ignore[misc]
            "127.0.0.1",
            task.port,
            ssl=context,
            server_hostname="localhost",
        )
        for name, secret in task.who
    ]
    await asyncio.sleep(task.warm_seconds)
    began, answers, cpu, own = time.monotonic(), counted.answers, cpu_of(task.pid), time.process_time()
    await asyncio.sleep(task.seconds)
    result = Result(
        time.monotonic() - began,
        counted.answers - answers,
        cpu_of(task.pid) - cpu,
        time.process_time() - own,
        counted.bytes,
        tuple(counted.failures[:3]),
    )
    counted.ending = True
    for transport, _ in connections:
        transport.close()
    return result


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, ended threads included; see clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def main() -> None:
    """Read the task from standard input, print the result."""
    import sys

    import uvloop

    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(msgspec.json.encode(runner.run(drive(task))).decode())


if __name__ == "__main__":
    main()
