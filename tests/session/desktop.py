"""Desktops as their owners meet them: values of a status, and an agent's ear that really listens."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.agent.owner.server import LocalServer
from deskgrid.agent.owner.wishes import WishBook
from deskgrid.model.desktop import Availability, Room, VmReport, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.policy import GIB, Policy
from deskgrid.model.presence import SessionReading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish
from deskgrid.wire.local import Gift, Rights, Status, Usage

NOW = datetime(2026, 11, 22, 14, 20, tzinfo=UTC)
OWNER = Reason(
    "owner-active",
    "Somebody used this computer 4 s ago; virtual machines wait for 600 s without use.",
    "idle 4.2 s of 600 s (tty1 4 s)",
    NOW + timedelta(seconds=596),
)
HOURS = Reason(
    "working-hours",
    "Somebody is logged in, and between 07:00 and 17:00 nothing runs then.",
    "local time 14:20, logged in: yes",
    NOW.replace(hour=17, minute=0),
)
NO_ROOM = Room(0, 0, 0, 0)
RIGHTS = Rights("anna", True)


def vm(state: VmState = VmState.RUNNING, vm_id: str = "vm-1", image: str = "its-sl6-lscsoft-20120415") -> VmReport:
    reason = Reason("demand", "3 jobs wait for this image.")
    return VmReport(vm_id, ImageRef(image, "a" * 64), Size(2, 4 * GIB), state, NOW - timedelta(hours=2), reason)


def gift() -> Gift:
    days = []
    for back in range(30, -1, -1):
        day = NOW - timedelta(days=back)
        hours = (0, 3.5, 6, 2, 9, 14, 16)[day.weekday()] * ((back * 7) % 5 + 1) / 4
        days.append((f"{day:%Y-%m-%d}", hours * 3600))
    used = Usage(148.5 * 3600, 297 * 3600, 280 * 3600, 41, 63, 9)
    other = Usage(12 * 3600, 24 * 3600, 20 * 3600, 6, 4, 2)
    return Gift({"its-sl6-lscsoft-20120415": used, "einstein-at-home": other}, tuple(days), (("2026-11", used),))


def status(*vms: VmReport, refusals: tuple[Reason, ...] = (OWNER, HOURS), **more: object) -> Status:
    """One desktop's status: by default in use, with nothing here."""
    plain = Status(
        "lab-217-04",
        4711,
        NOW,
        Availability(not refusals, refusals),
        NO_ROOM,
        vms,
        ("seat 4 s", "utmp: 1 session"),
        gift=gift(),
        cpus=8,
        memory_bytes=32 * GIB,
        policy=Policy(closed=("Mon-Fri 07:00-17:00",), closed_nobody=("Sun 03:00-05:00",)),
        reached_at=NOW - timedelta(seconds=12),
    )
    return msgspec.structs.replace(plain, **more)


class Ear:
    """An agent's ear with a status that a test sets, and what it heard."""

    def __init__(self, folder: Path) -> None:
        self.status = status()
        self.wishes: list[Wish] = []
        self.told: queue.SimpleQueue[tuple[int, SessionReading | None]] = queue.SimpleQueue()
        self.path = folder / "agent.sock"
        self.server = LocalServer(
            self.path,
            WishBook(folder / "wish.json", 61998, datetime.now(UTC)),
            lambda: msgspec.structs.replace(self.status, wish=self.standing()),
            self.wishes.append,
            lambda key, said: self.told.put((key, said)),
            lambda: folder / "dump.json",
        )

    def standing(self) -> Wish | None:
        return self.wishes[-1] if self.wishes and self.wishes[-1].ask != "resume" else None


@contextmanager
def ear(folder: Path) -> Iterator[Ear]:
    made = Ear(folder)
    made.server.start()
    try:
        yield made
    finally:
        made.server.close()
