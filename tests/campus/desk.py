"""One simulated desktop: the real agent loop on fakes, an owner, a power switch, and a line that loses messages."""

import asyncio
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from deskgrid.agent.inbox import Answered, Item, LinkDown, Sense
from deskgrid.agent.leases import LeaseFile
from deskgrid.agent.loop import Loop
from deskgrid.agent.ports import Ports
from deskgrid.core.desktop.inputs import Ticked
from deskgrid.core.events import Gone, Happened
from deskgrid.hypervisor.fake import FakeDesktop, FakeHypervisor
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.images.fake import FakeStore
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Lease
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.presence.fake import FakePresence
from deskgrid.wire.messages import Answer, Report

from .clockwork import VirtualLoop
from .owners import LOGGED_OUT, ZONE, Move

TIMEOUT_SECONDS = 30.0


class Weather(msgspec.Struct):
    """How bad the network is, and what it has cost.

    slow_seconds: a report waits so long, on average, before it goes; one that a newer one has overtaken stays.
    """

    slow_seconds: float = 0.05
    lost: float = 0.02
    repeated: float = 0.02
    reports: int = 0
    losses: int = 0
    repeats: int = 0
    overtaken: int = 0


class MemoryLeases(LeaseFile):
    """The file of leases, without a disk: thousands of desktops' worth of syncs would be most of the time."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}

    def read(self, now: datetime) -> dict[str, Lease]:
        return self._leases

    def keep(self, leases: dict[str, Lease], now: datetime) -> None:
        self._leases = leases


class Desk:
    """A desktop and its agent's present life. `ask` takes a report to the coordinator; None: nobody is there."""

    def __init__(
        self,
        name: str,
        clock: VirtualLoop,
        rng: random.Random,
        policy: Policy,
        folder: Path,
        images: list[ImageFacts],
        behaviours: dict[str, GuestBehaviour],
        ask: Callable[[str, Report, bytes], asyncio.Future[Answer] | None],
        heard: Callable[["Desk", Happened], None],
        weather: Weather,
        hold_seconds: float,
        accelerators: tuple[str, ...] = ("kvm", "tcg"),
    ) -> None:
        self.name, self.clock, self.rng, self.policy = name, clock, rng, policy
        self.behaviours, self.ask, self.heard, self.weather = behaviours, ask, heard, weather
        self.hold_seconds, self.accelerators = hold_seconds, accelerators
        self.presence = FakePresence(owner=LOGGED_OUT, clock=lambda: clock.now().timestamp())
        self.store = FakeStore(folder / name, fetchable=images)
        self.iron = FakeDesktop(accelerators)
        self.leases = MemoryLeases()
        self.owner_gib = 2
        self.owner_here = False
        self.move: Move | None = None
        self.life = 0
        self.loop: Loop | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._alarm: tuple[datetime, asyncio.TimerHandle] | None = None

    # -- the agent's life -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """The agent begins, or begins again."""
        self.life += 1
        life = self.life
        put = partial(self._put, life)
        later = self.clock.call_later
        driver = FakeHypervisor(
            put, later, self.clock.now, desktop=self.iron, behaviours=self.behaviours, silence_seconds=None
        )
        ports = Ports(
            now=self.clock.now,
            wall=self.clock.now,
            local=lambda: self.clock.now().astimezone(ZONE),
            read_presence=self.presence.read,
            read_machine=lambda policy: self._machine(),
            hypervisor=driver,
            store=self.store,
            link=self,
            aside=lambda work: later(self.rng.uniform(1, 120), lambda: put(work())),
            leases=self.leases,
        )
        self.loop = Loop(
            ports,
            self.policy,
            self.name,
            f"life-{life}",
            hold_seconds=self.hold_seconds,
            sense_seconds=86400.0,
            sense_seconds_at_rest=86400.0,
            heartbeat_seconds=86400.0,
            jitter=self.rng.random,
        )
        self.driver = driver
        self._rearm()

    def kill_agent(self) -> None:
        """kill -9: the VMs stay until somebody comes for them."""
        self.life += 1
        self.loop = None
        self.driver.close()

    def power_off(self) -> None:
        """The plug is pulled: agent and VMs are gone without a word."""
        lost = list(self.iron.vms.values())
        self.kill_agent()
        self.iron = FakeDesktop(self.accelerators)
        for vm in lost:
            vm.stage = "over"
            self.heard(self, Happened(vm.id, Gone(False, "the power went off")))

    def put(self, item: Item) -> None:
        """Something for the agent's inbox, if there is an agent."""
        self._put(self.life, item)

    def _put(self, life: int, item: Item) -> None:
        if isinstance(item, Happened):
            self.heard(self, item)
        self.clock.call_soon(self._turn, life, item)

    def _turn(self, life: int, item: Item) -> None:
        if life == self.life and self.loop is not None:
            self.loop.turn(item)
            self._rearm()

    def _rearm(self) -> None:
        assert self.loop is not None
        at = self.loop.next_turn()
        if self._alarm is not None:
            if self._alarm[0] == at and not self._alarm[1].cancelled():
                return
            self._alarm[1].cancel()
        life = self.life
        self._alarm = (at, self.clock.at(at, lambda: self._ring(life)))

    def _ring(self, life: int) -> None:
        self._alarm = None
        self._turn(life, Ticked())

    def _machine(self) -> Machine:
        used = sum(vm.spec.size.memory_bytes for vm in self.iron.vms.values() if vm.stage == "running")
        return Machine(8, 16 * GIB, max(0, 16 * GIB - self.owner_gib * GIB - used), 200 * GIB)

    # -- its owner ------------------------------------------------------------------------------------------------

    def live(self, moves: Iterator[Move]) -> None:
        """Let the owner's life happen."""
        move = next(moves, None)
        if move is not None:
            self.clock.at(move.at, lambda: self._moved(move, moves))

    def _moved(self, move: Move, moves: Iterator[Move]) -> None:
        self.owner_here = move.owner.present
        self.owner_gib = self.rng.choice([2, 3, 4, 6, 14]) if move.owner.present else 2
        self.presence.set(move.owner)
        self.look()
        if not move.owner.present:
            wait = self.policy.idle_seconds if move.owner.logged_in else self.policy.idle_seconds_nobody
            for seconds in (self.policy.resume_seconds, wait):
                self.clock.call_later(seconds + 0.1, self._look_again, move)
        self.move = move
        self.live(moves)

    def _look_again(self, since: Move) -> None:
        if self.move is since:
            self.look()

    def look(self) -> None:
        """What a real agent does every few seconds: look at the owner. Not simulated where nothing can come of it."""
        if self.loop is None:
            return
        known = self.loop.state
        if known.vms or known.availability.available or known.wake_at is not None or not self.owner_here:
            self.put(Sense())

    # -- its line to the coordinator ------------------------------------------------------------------------------

    def say(self, report: Report) -> None:
        """A report goes out, and may get lost, come twice, come late; so may its answer."""
        self.weather.reports += 1
        self._newest = report.sequence
        raw = msgspec.json.encode(report)
        times = 2 if self.rng.random() < self.weather.repeated else 1
        self.weather.repeats += times - 1
        for _ in range(times):
            task = asyncio.get_running_loop().create_task(self._carry(self.life, report, raw))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def _carry(self, life: int, report: Report, raw: bytes) -> None:
        await asyncio.sleep(self.rng.expovariate(1 / self.weather.slow_seconds))
        if self._newest != report.sequence and self.weather.slow_seconds > 1:
            self.weather.overtaken += 1
            self._put(life, LinkDown(report.sequence, "overtaken"))
            return
        if self.rng.random() < self.weather.lost:
            self.weather.losses += 1
            await self._down(life, report, "no answer in time")
            return
        asked = self.ask(self.name, msgspec.json.decode(raw, type=Report), raw)
        answer = None
        if asked is not None:
            try:
                answer = await asked
            except asyncio.CancelledError:
                if not asked.cancelled():
                    raise
        if answer is None:
            self._put(life, LinkDown(report.sequence, "connection refused"))
            return
        if self.rng.random() < self.weather.lost:
            self.weather.losses += 1
            await self._down(life, report, "no answer in time")
            return
        await asyncio.sleep(self.rng.expovariate(20))
        self._put(life, Answered(answer))

    async def _down(self, life: int, report: Report, sentence: str) -> None:
        await asyncio.sleep(TIMEOUT_SECONDS)
        self._put(life, LinkDown(report.sequence, sentence))
