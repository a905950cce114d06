"""A coordinator in memory time: a clock that stands until it is moved, the fake pool, and desktops that report."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.coordinator.coordinator import Coordinator, RestoredState
from deskgrid.coordinator.cycle import Cycle
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import open_database
from deskgrid.coordinator.images.catalogue import FixedCatalogue
from deskgrid.coordinator.orders import answer
from deskgrid.coordinator.settings import CoordinatorSettings, GuestSettings
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.own_time import OwnTime
from deskgrid.coordinator.state.revocations import FILE, Journal
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.model.desktop import Availability, Fault, Room, Transition, VmReport, VmState
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import PlanSettings
from deskgrid.model.reason import Reason
from deskgrid.model.values.backoff import Backoff
from deskgrid.wire.messages import Answer, Enrol, Report
from tests.pool.fake import FakePool

GIB = 1 << 30
START = datetime(2026, 3, 3, 20, 0, tzinfo=UTC)
IMAGE = ImageRef("its-sl6", "a" * 64)
FACTS = ImageFacts(IMAGE, GIB // 2, 4 * GIB)
FREE = Availability(True, idle_seconds=3600.0, logged_in=False)
BUSY = Availability(False, (Reason("owner-active", "Somebody used this computer 3 s ago."),), 3.0, True)
ROOM = Room(cpus=2, memory_bytes=4 * GIB, disk_bytes=50 * GIB, vms=1)
FULL = Room(cpus=1, memory_bytes=3 * GIB, disk_bytes=50 * GIB, vms=0)
WHY = Reason("owner-active", "Somebody came back.")


class Clock(OwnTime):
    """Time that passes when it is told to. Set back, it is the wall clock that is: time passes no less."""

    def __init__(self) -> None:
        self._now, self.ticks = START, 0.0
        super().__init__(lambda: self._now, lambda: self.ticks)

    @property
    def now(self) -> datetime:
        return self._now

    @now.setter
    def now(self, then: datetime) -> None:
        self.ticks += max(0.0, (then - self._now).total_seconds())
        self._now = then

    def pass_by(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def is_set(self, seconds: float) -> None:
        """Somebody sets the wall clock."""
        self._now += timedelta(seconds=seconds)


def settings(state: Path, **more: object) -> CoordinatorSettings:
    plan = PlanSettings(join_seconds=900.0, sizes=(Size(1, GIB),))
    return CoordinatorSettings(state_dir=state, port=0, plan=plan, guest=GuestSettings(), **more)  # type: ignore[arg-type]


class Office:
    """A coordinator with its cycle, its pool and its clock."""

    def __init__(
        self, part: Coordinator, pool: FakePool, clock: Clock, catalogue: FixedCatalogue | None = None
    ) -> None:
        self.part, self.pool, self.clock = part, pool, clock
        self.catalogue = catalogue or FixedCatalogue()
        self.cycles = Cycle(part)

    async def cycle(self, seconds: float = 5.0) -> None:
        """Time passes, HTCondor negotiates, the coordinator plans."""
        self.clock.pass_by(seconds)
        self.pool.negotiate()
        await self.cycles.run()

    async def enrol(self, name: str) -> str:
        """A new member; its credential."""
        now = self.clock()
        token, _ = await self.part.recorder.call(lambda c: membership.make_token(c, 3600, 1, "operator", now))
        enrolled, member = await self.part.recorder.call(lambda c: membership.enrol(c, Enrol(token, name), now))
        self.part.members[name] = member
        return enrolled.credential

    async def offer(self, facts: ImageFacts = FACTS) -> None:
        """An image on offer."""
        self.catalogue.offer(facts)
        await self.part.offering.refresh(self.clock(), 10.0)

    async def lease(self, vm_id: str) -> LeaseRecord:
        """What is recorded of a lease."""
        found = await self.part.recorder.call(lambda c: queries.lease(c, vm_id))
        assert found is not None
        return found

    async def story(self, vm_id: str) -> list[str]:
        """The events of a VM's story."""
        await self.part.recorder.flush()
        return [line.event for line in await self.part.recorder.call(lambda c: queries.story(c, vm_id))]


class Desk:
    """A desktop that reports, as far as it is told to."""

    def __init__(self, office: Office, name: str = "desk-1", incarnation: str = "first") -> None:
        self.office, self.name, self.incarnation = office, name, incarnation
        self.sequence = 0
        self.availability, self.room = FREE, ROOM
        self.vms: dict[str, VmReport] = {}
        self.clock_seconds = 0.0

    def report(self, **more: object) -> Report:
        """The next report."""
        self.sequence += 1
        report = Report(
            incarnation=self.incarnation,
            sequence=self.sequence,
            sent_at=self.office.clock() + timedelta(seconds=self.clock_seconds),
            availability=self.availability,
            room=self.room,
            cpus=4,
            memory_bytes=8 * GIB,
            vms=tuple(self.vms.values()),
        )
        return msgspec.structs.replace(report, **more)

    async def send(self, report: Report) -> Answer:
        """Say it, as the API would after it knows who speaks."""
        return await answer(self.office.part, self.name, report, msgspec.json.encode(report))

    async def say(self, **more: object) -> Answer:
        """The next report, said."""
        return await self.send(self.report(**more))

    def shows(self, lease: Lease, state: VmState = VmState.RUNNING, **more: object) -> VmReport:
        """From now on it shows this VM."""
        vm = VmReport(lease.vm_id, lease.image, lease.size, state, self.office.clock(), lease.reason, "tcg")
        self.vms[lease.vm_id] = vm = msgspec.structs.replace(vm, **more)
        self.room = FULL
        return vm

    def ends(self, vm_id: str, reason: Reason = WHY, fault: Fault = Fault.NONE) -> VmReport:
        """A VM has ended; what is to be said of it in `ended`."""
        self.room = ROOM
        return msgspec.structs.replace(self.vms.pop(vm_id), state=VmState.ENDED, reason=reason, fault=fault)

    def line(self, vm_id: str, event: str, at: datetime | None = None) -> Transition:
        """A line of story by its clock."""
        told = at or self.office.clock() + timedelta(seconds=self.clock_seconds)
        return Transition(vm_id, told, "running", event, f"It was {event}.")


@contextlib.asynccontextmanager
async def office(
    state: Path,
    clock: Clock | None = None,
    pool: FakePool | None = None,
    change: Callable[[CoordinatorSettings], CoordinatorSettings] = lambda chosen: chosen,
) -> AsyncIterator[Office]:
    """A coordinator that lives from here to there."""
    clock = clock or Clock()
    pool = pool or FakePool(clock)
    chosen = change(settings(state))
    database = open_database(chosen.database_url)
    catalogue = FixedCatalogue()
    loaded = RestoredState(database, clock(), retry=Backoff(0.01, 0.01), journal=Journal(state / FILE))
    part = Coordinator(chosen, pool, clock, loaded, catalogue)
    part.invalidate_ended()
    try:
        yield Office(part, pool, clock, catalogue)
    finally:
        await part.close()
        database.close()


@contextlib.asynccontextmanager
async def started(state: Path, jobs: int = 1, clock: Clock | None = None) -> AsyncIterator[tuple[Office, Desk, Lease]]:
    """A coordinator, one desktop, and the lease of a VM that it has been told to start."""
    async with office(state, clock) as here:
        desk = await member(here)
        await here.offer()
        here.pool.submit(IMAGE.name, jobs)
        yield here, desk, await ordered(here, desk)


async def member(here: Office, name: str = "desk-1") -> Desk:
    """A desktop that is enrolled and free."""
    await here.enrol(name)
    return Desk(here, name)


async def ordered(here: Office, desk: Desk) -> Lease:
    """Wait until the desktop is told to start a VM."""
    for _ in range(4):
        told = (await desk.say()).orders
        if told:
            return told[0].lease
        await here.cycle()
    raise AssertionError(f"nothing was ordered: {here.part.view.plan}")
