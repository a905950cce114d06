"""Random stories: messages get lost, come twice, come late, in any order; HTCondor, the coordinator and agents fail.

What holds at every step:
- What is ordered is recorded, alive and that desktop's own; a VM that has ended is never ordered again.
- Instance data go along exactly while the desktop has not shown the VM.
- An end that is acknowledged is recorded.
- No desktop is given more VMs than it has room for.
And when everything works again: all VMs that run have a lease, all leases a VM, and no ended VM is in the collector.
"""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, given
from hypothesis import settings as looking
from hypothesis import strategies as st

from deskgrid.coordinator.state.fleet import AnotherAgent
from deskgrid.model.desktop import Fault, VmState
from deskgrid.wire.messages import Answer, Report
from tests.pool.fake import FakePool

from .values import BUSY, FREE, IMAGE, ROOM, Clock, Desk, Office, office

FAULTS = tuple(Fault)
STEPS = (
    ("report", 10),
    ("lose-report", 3),
    ("lose-answer", 3),
    ("delay", 3),
    ("deliver-late", 3),
    ("repeat", 2),
    ("cycle", 8),
    ("join", 5),
    ("vm-ends", 3),
    ("owner", 2),
    ("agent-restarts", 1),
    ("pool-fails", 1),
    ("coordinator-restarts", 1),
    ("time", 1),
)
step = st.tuples(
    st.sampled_from([name for name, weight in STEPS for _ in range(weight)]), st.integers(0, 2), st.integers(0, 99)
)


class World:
    """Three desktops, a pool, a coordinator that can be replaced, and a bad network."""

    def __init__(self, here: Office) -> None:
        self.here = here
        self.desks = [Desk(here, f"desk-{i}") for i in range(3)]
        self.pending: dict[str, list[tuple[str, Fault]]] = {desk.name: [] for desk in self.desks}
        self.ended: dict[str, dict[str, object]] = {desk.name: {} for desk in self.desks}
        self.late: list[tuple[Desk, Report]] = []
        self.last: dict[str, Report] = {}
        self.seen: set[str] = set()
        self.over: set[str] = set()

    def compose(self, desk: Desk) -> Report:
        report = desk.report(ended=tuple(self.ended[desk.name].values()))
        self.last[desk.name] = report
        return report

    async def deliver(self, desk: Desk, report: Report) -> Answer | None:
        """The report arrives; what is answered must be right."""
        over = set(self.over)
        try:
            answer = await desk.send(report)
        except AnotherAgent:
            return None
        shown = {vm.vm_id for vm in report.vms}
        for order in answer.orders:
            record = await self.here.lease(order.lease.vm_id)
            assert record.lease.desktop == desk.name
            assert record.ended_at is None
            assert order.lease.vm_id not in over
            assert (order.instance is None) == (order.lease.vm_id in shown)
        assert len(answer.orders) <= 1  # each desktop has room for one
        for vm_id in answer.acknowledged:
            assert (await self.here.lease(vm_id)).ended_at is not None
            self.over.add(vm_id)
        return answer

    def obey(self, desk: Desk, answer: Answer | None) -> None:
        """The answer arrives: the agent does as it is told."""
        if answer is None:
            return
        for vm_id in answer.acknowledged:
            self.ended[desk.name].pop(vm_id, None)
        named = {order.lease.vm_id for order in answer.orders}
        for vm_id in [vm_id for vm_id in desk.vms if vm_id not in named]:
            self.end(desk, vm_id, Fault.NONE)
        for order in answer.orders:
            if order.lease.vm_id not in self.seen and order.instance is not None:
                self.seen.add(order.lease.vm_id)
                desk.shows(order.lease, VmState.BOOTING)
                if not desk.availability.available:
                    self.end(desk, order.lease.vm_id, Fault.NONE)

    def end(self, desk: Desk, vm_id: str, fault: Fault) -> None:
        self.ended[desk.name][vm_id] = desk.ends(vm_id, fault=fault)
        self.here.pool.die(vm_id)

    async def do(self, name: str, which: int, dice: int) -> None:  # noqa: C901 (a table of what can happen)
        desk, pool = self.desks[which], self.here.pool
        match name:
            case "report":
                self.obey(desk, await self.deliver(desk, self.compose(desk)))
            case "lose-report":
                self.compose(desk)
            case "lose-answer":
                await self.deliver(desk, self.compose(desk))
            case "delay":
                self.late.append((desk, self.compose(desk)))
            case "deliver-late" if self.late:
                late, report = self.late.pop(dice % len(self.late))
                await self.deliver(late, report)
            case "repeat" if desk.name in self.last:
                await self.deliver(desk, self.last[desk.name])
            case "cycle":
                await self.here.cycle(1.0 + dice % 10)
            case "join":
                for vm_id in desk.vms:
                    pool.join(vm_id, IMAGE.name, desk.name)
            case "vm-ends":
                for vm_id in list(desk.vms):
                    self.end(desk, vm_id, FAULTS[dice % 3])
            case "owner":
                desk.availability = BUSY if desk.availability is FREE else FREE
            case "agent-restarts":
                desk.incarnation, desk.sequence = f"life-{dice}-{desk.sequence}", 0
                for vm_id in list(desk.vms):
                    pool.die(vm_id)
                desk.vms, desk.room, self.ended[desk.name] = {}, ROOM, {}
            case "pool-fails":
                pool.faults.unreachable = not pool.faults.unreachable
            case "time":
                await self.here.cycle(100.0)

    async def heal(self) -> None:
        """Everything works; after some time all is in order."""
        self.here.pool.faults.unreachable = False
        self.late = []
        for _ in range(12):
            for desk in self.desks:
                desk.availability = FREE
                self.obey(desk, await self.deliver(desk, self.compose(desk)))
                for vm_id in desk.vms:
                    self.here.pool.join(vm_id, IMAGE.name, desk.name)
            await self.here.cycle(40.0)
        for _ in range(100):
            if not any(vm_id in self.here.part.ad_invalidation for vm_id in self.seen):
                break
            await asyncio.sleep(0.01)
        living = {live.lease.vm_id for live in self.here.part.ledger.all() if live.record.shown_at}
        assert living == {vm_id for desk in self.desks for vm_id in desk.vms}
        known = self.here.pool.snapshot().machines
        assert known is not None
        assert {machine.vm_id for machine in known if not machine.jobs} <= living


@contextlib.asynccontextmanager
async def coordinator(state: Path, clock: Clock, pool: FakePool) -> AsyncIterator[Office]:
    async with office(state, clock, pool) as here:
        yield here


async def play(steps: list[tuple[str, int, int]], state: Path) -> None:
    clock = Clock()
    pool = FakePool(clock)
    stack = contextlib.AsyncExitStack()
    try:
        here = await stack.enter_async_context(coordinator(state, clock, pool))
        world = World(here)
        for desk in world.desks:
            await here.enrol(desk.name)
        await here.offer()
        pool.submit(IMAGE.name, 4)
        for name, which, dice in steps:
            if name == "coordinator-restarts":
                await stack.aclose()
                here = await stack.enter_async_context(coordinator(state, clock, pool))
                world.here = here
                for desk in world.desks:
                    desk.office = here
            else:
                await world.do(name, which, dice)
        await world.heal()
    finally:
        await stack.aclose()


@looking(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(step, min_size=10, max_size=60))
def test_whatever_gets_lost_nothing_wrong_is_ordered_and_all_heals(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(steps, Path(folder)))


def test_a_long_story_of_one_seed_heals(tmp_path: Path) -> None:
    dice = random.Random(20260303)
    names = [name for name, weight in STEPS for _ in range(weight)]
    steps = [(dice.choice(names), dice.randrange(3), dice.randrange(100)) for _ in range(600)]
    asyncio.run(play(steps, tmp_path))
    assert msgspec.json.encode(steps)
