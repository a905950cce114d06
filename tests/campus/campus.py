"""A campus for weeks: owners, jobs, a bad network, kills and power cuts; what must hold is looked at all the time.

Real: the agent's loop, the core, the coordinator with its cycle, ledger and database. Pretended: VMs, HTCondor, the
owners, time. `Campus.run` plays a scenario and returns what came of it.
"""

import asyncio
import random
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.coordinator.settings import CoordinatorSettings, GuestSettings
from deskgrid.core.desktop.vm import FINISH_SECONDS, KILL_AGAIN_SECONDS, LEAVE_SECONDS
from deskgrid.core.events import Gone, GuestLeft, Happened, Joined, Paused, Started
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.model.desktop import VmState
from deskgrid.model.hours import window
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.plan import Plan, PlanSettings
from deskgrid.model.policy import GIB, Policy
from tests.pool.fake import FakePool

from .clockwork import VirtualLoop
from .desk import Desk, Weather
from .head import Head
from .owners import ZONE, Kind, moves

SIZES = (Size(1, 2 * GIB), Size(2, 4 * GIB))
IMAGES = [
    ImageFacts(ImageRef(name, digit * 64), GIB, 4 * GIB) for name, digit in (("sl6", "a"), ("deb", "b"), ("new", "c"))
]
UNUSED_SECONDS = 600
SLACK_SECONDS = 1.5
SILENT_KVM, BROKEN = 7, 9
"""Of forty desktops, on this one guests stay silent on kvm, and on this one nothing starts."""


class Scenario(msgspec.Struct, frozen=True):
    """What is played. Times in seconds are of the simulated world. job_hours: median of the jobs' run time."""

    seed: int
    desktops: int
    days: int
    jobs_a_day: int
    cycle_seconds: float = 60.0
    negotiate_seconds: float = 60.0
    report_seconds: float = 300.0
    hold_seconds: float = 600.0
    restarts: int = 4
    power_cuts: int = 5
    agent_kills: int = 20
    ramp: int = 20
    slow_seconds: float = 0.05
    job_hours: float = 1.0
    policy: Policy = Policy(idle_seconds_nobody=600.0, max_vms=2, cpu_share=0.5)


class Summary(msgspec.Struct):
    """What came of it."""

    desktops: int = 0
    days: int = 0
    jobs_submitted: int = 0
    jobs_done: int = 0
    hours_given: float = 0.0
    hours_open: float = 0.0
    vms_started: int = 0
    vms_joined: int = 0
    starts_per_desktop_and_day: float = 0.0
    pauses: int = 0
    evictions: int = 0
    reports: int = 0
    reports_overtaken: int = 0
    messages_lost: int = 0
    messages_repeated: int = 0
    coordinator_restarts: int = 0
    cycles: int = 0
    checks: int = 0
    most_grants_in_a_cycle: int = 0
    kvm_distrusted: int = 0
    kvm_distrusted_wrongly: int = 0
    ends: dict[str, int] = {}
    wall_seconds: float = 0.0


class Campus:
    """The whole world of one scenario."""

    def __init__(self, scenario: Scenario, folder: Path, clock: VirtualLoop) -> None:
        self.scenario, self.clock = scenario, clock
        self.rng = random.Random(scenario.seed)
        self.began = clock.now()
        self.pool = FakePool(clock.now)
        silence = scenario.report_seconds + scenario.hold_seconds
        self.settings = CoordinatorSettings(
            state_dir=folder,
            cycle_seconds=scenario.cycle_seconds,
            report_seconds=scenario.report_seconds,
            hold_seconds=scenario.hold_seconds,
            guest=GuestSettings(unused_seconds=UNUSED_SECONDS),
            plan=PlanSettings(
                lease_seconds=2 * silence,
                stale_seconds=2 * silence,
                match_seconds=3 * scenario.negotiate_seconds,
                ramp=scenario.ramp,
                settle_seconds=2 * scenario.negotiate_seconds,
                sizes=SIZES,
            ),
        )
        self.head = Head(self.settings, self.pool, clock)
        self.weather = Weather(scenario.slow_seconds)
        self.behaviours = {
            "sl6": GuestBehaviour(),
            "deb": GuestBehaviour(leave_seconds=None),
            "new": GuestBehaviour(alive_after_seconds=None),
        }
        self.desks = [self._desk(number, folder) for number in range(scenario.desktops)]
        self.by_name = {desk.name: desk for desk in self.desks}
        self.place: dict[str, Desk] = {}
        self.began_at: dict[str, datetime] = {}
        self.unused_since: dict[str, datetime] = {}
        self.left: set[str] = set()
        self.over: set[str] = set()
        self.jobs: list[str] = []
        self.said = Summary(desktops=scenario.desktops, days=scenario.days)

    def _desk(self, number: int, folder: Path) -> Desk:
        rng = random.Random(f"{self.scenario.seed} {number}")
        behaviours = dict(self.behaviours)
        if number % 40 == SILENT_KVM:
            behaviours = {n: msgspec.structs.replace(b, silent_on=frozenset({"kvm"})) for n, b in behaviours.items()}
        if number % 40 == BROKEN:
            behaviours = {n: msgspec.structs.replace(b, start_fault="desktop") for n, b in behaviours.items()}
        return Desk(
            f"desk-{number:03}",
            self.clock,
            rng,
            self.scenario.policy,
            folder / "images",
            IMAGES,
            behaviours,
            lambda name, report, raw: self.head.ask(name, report, raw),
            self._heard,
            self.weather,
            self.scenario.hold_seconds,
        )

    # -- the play -------------------------------------------------------------------------------------------------

    async def run(self) -> Summary:
        """Play the scenario, and on until all jobs are done."""
        scenario = self.scenario
        self.head.enrol([desk.name for desk in self.desks], IMAGES)
        self.head.begin()
        for number, desk in enumerate(self.desks):
            desk.live(moves(desk.rng, Kind.LAB if number % 3 == 0 else Kind.OFFICE, self.began, scenario.days + 3))
            self.clock.call_later(self.rng.uniform(0, 300), desk.wake)
        self._plan_work()
        self._plan_troubles()
        self._at_office_hours()
        end = self.began + timedelta(days=scenario.days)
        last = end + timedelta(days=3)
        negotiated = self.began
        while self.clock.now() < end or (self.clock.now() < last and self._undone()):
            await asyncio.sleep(scenario.cycle_seconds)
            if (self.clock.now() - negotiated).total_seconds() >= scenario.negotiate_seconds:
                negotiated = self.clock.now()
                self.pool.negotiate()
            made = await self.head.plan()
            if made is not None:
                self._check_plan(made)
            self._check_desks()
            if self.said.cycles % 5 == 0:
                self._unused_leave()
            self.said.cycles += 1
        if self.head.office is None:
            await self._restarting
        await self.head.end(killed=False)
        return self._sum_up()

    def _plan_work(self) -> None:
        """Researchers submit batches on working days."""
        for number in range(self.scenario.days):
            day = self.began + timedelta(days=number)
            left = self.scenario.jobs_a_day if day.astimezone(ZONE).weekday() < 5 else self.scenario.jobs_a_day // 5
            while left > 0:
                count = min(left, 1 + int(self.rng.expovariate(1 / (self.scenario.jobs_a_day / 15))))
                left -= count
                at = day.astimezone(ZONE).replace(hour=9) + timedelta(seconds=self.rng.uniform(0, 10 * 3600))
                self.clock.at(max(at, self.began), lambda count=count: self._submit(count))

    def _submit(self, count: int) -> None:
        image = self.rng.choices(["sl6", "deb", "new"], [6, 3, 0.3])[0]
        cpus = self.rng.choice([1, 1, 1, 2])
        for _ in range(count):
            seconds = min(8 * 3600.0, self.scenario.job_hours * 3600 * self.rng.lognormvariate(0, 0.8))
            self.jobs += self.pool.submit(image, cpus=cpus, memory_mb=1500 * cpus, run_seconds=seconds)

    def _plan_troubles(self) -> None:
        """Kills, cuts, an hour without HTCondor, a broken image that is mended."""
        seconds = self.scenario.days * 86400.0
        for number in range(self.scenario.restarts):
            at = seconds * (number + self.rng.random()) / self.scenario.restarts
            self.clock.call_later(at, lambda killed=bool(number % 2): self._begin_restart(killed))
        for _ in range(self.scenario.power_cuts):
            self.clock.call_later(self.rng.uniform(0, seconds), self._cut_power)
        for _ in range(self.scenario.agent_kills):
            self.clock.call_later(self.rng.uniform(0, seconds), self._kill_agent)
        self.clock.call_later(seconds * 0.3, self._htcondor, True)
        self.clock.call_later(seconds * 0.3 + 3600, self._htcondor, False)
        self.clock.call_later(seconds * 0.4, self.pool.restart_collector)
        self.clock.call_later(seconds * 0.6, self._mend_image)

    def _begin_restart(self, killed: bool) -> None:
        self._restarting = asyncio.get_running_loop().create_task(self._restart(killed))

    async def _restart(self, killed: bool) -> None:
        if self.head.office is not None:
            await self.head.end(killed=killed)
            await asyncio.sleep(self.rng.choice([2.0, 60.0, 1200.0]))
            self.head.begin()

    def _cut_power(self) -> None:
        desk = self.rng.choice(self.desks)
        if desk.loop is not None:
            desk.power_off()
            self.clock.call_later(self.rng.uniform(600, 20 * 3600), desk.wake)

    def _kill_agent(self) -> None:
        desk = self.rng.choice([desk for desk in self.desks if desk.iron.vms and desk.loop] or self.desks)
        if desk.loop is not None:
            desk.kill_agent()
            self.clock.call_later(3.0, desk.wake)

    def _htcondor(self, gone: bool) -> None:
        self.pool.faults.unreachable = gone

    def _mend_image(self) -> None:
        for desk in self.desks:
            desk.behaviours["new"] = desk.behaviours["sl6"]

    def _at_office_hours(self) -> None:
        """The policy's hours begin and end: a real agent looks every few seconds."""
        for number in range(self.scenario.days + 4):
            day = self.began.astimezone(ZONE) + timedelta(days=number)
            for minute in {m for text in self.scenario.policy.closed for m in (window(text).start, window(text).end)}:
                at = day.replace(hour=minute // 60 % 24, minute=minute % 60, second=1)
                if at > self.began:
                    self.clock.at(at, self._everybody_looks)

    def _everybody_looks(self) -> None:
        for desk in self.desks:
            desk.look()

    # -- HTCondor's side of every VM ------------------------------------------------------------------------------

    def _heard(self, desk: Desk, happened: Happened) -> None:
        now, vm_id = self.clock.now(), happened.vm_id
        match happened.event:
            case Started():
                self.said.vms_started += 1
                self.place[vm_id] = desk
            case Joined():
                vm = desk.iron.vms[vm_id]
                size = vm.spec.size
                self.pool.join(vm.id, vm.spec.image.ref.name, desk.name, size.cpus, size.memory_bytes >> 20)
                self.began_at[vm.id] = now
                self.said.vms_joined += 1
            case Paused():
                self.said.pauses += 1
            case GuestLeft():
                self.left.add(vm_id)
                self.pool.leave(vm_id)
            case Gone():
                assert vm_id not in self.over, "a VM ended twice"
                self.over.add(vm_id)
                if vm_id not in self.left:
                    self.pool.die(vm_id)
                if (since := self.began_at.pop(vm_id, None)) is not None:
                    self.said.hours_given += (now - since).total_seconds() / 3600
                self.place.pop(vm_id, None)
                self.unused_since.pop(vm_id, None)

    def _unused_leave(self) -> None:
        """What a guest's own watch does: a machine without a claim for a while leaves."""
        now = self.clock.now()
        for machine in self.pool.snapshot().machines or ():
            desk = self.place.get(machine.vm_id)
            if machine.claimed or desk is None:
                self.unused_since.pop(machine.vm_id, None)
            elif (now - self.unused_since.setdefault(machine.vm_id, now)).total_seconds() >= UNUSED_SECONDS:
                desk.put(Happened(machine.vm_id, GuestLeft("unused", "no job wanted it")))

    # -- what must hold -------------------------------------------------------------------------------------------

    def _check_plan(self, made: Plan) -> None:
        office, now = self.head.office, self.clock.now()
        assert office is not None
        plan = self.settings.plan
        self.said.most_grants_in_a_cycle = max(self.said.most_grants_in_a_cycle, len(made.grants))
        assert len(made.grants) <= plan.ramp
        if self.pool.faults.unreachable:
            assert made.grants == ()
        known = {known.name for known in office.fleet}
        assert made.desktops.keys() <= known
        for reason in (*made.desktops.values(), *(shortage.reason for shortage in made.shortages)):
            assert reason.name and reason.sentence
        latest = now + timedelta(seconds=plan.lease_seconds)
        for live in office.ledger.all():
            assert live.lease.until <= latest

    def _check_desks(self) -> None:
        policy, now = self.scenario.policy, self.clock.now()
        lease_seconds = self.settings.plan.lease_seconds + SLACK_SECONDS
        for desk in self.desks:
            if desk.loop is None:
                continue
            known = desk.loop.state
            assert known.availability.available or known.availability.refusals[0].sentence
            here = [vm for vm in desk.iron.vms.values() if vm.stage != "over"]
            self.said.checks += 1
            self.said.hours_open += (known.standing.refusal is None) * self.scenario.cycle_seconds / 3600
            if not here:
                continue
            assert sum(vm.spec.size.memory_bytes for vm in here) <= 16 * GIB - policy.memory_reserve_bytes
            assert len(here) <= policy.max_vms
            for vm in here:
                assert (known.vms[vm.id].lease.until - now).total_seconds() <= lease_seconds
                self._check_vm(desk, vm.id, running=vm.stage == "running" and not vm.paused)

    def _check_vm(self, desk: Desk, vm_id: str, running: bool) -> None:
        assert desk.loop is not None
        known, now = desk.loop.state, self.clock.now()
        vm = known.vms[vm_id]
        in_state = (now - vm.since).total_seconds()
        if vm.state is VmState.PAUSED:
            assert not running
            grace = self.scenario.policy.grace_seconds
            assert (
                in_state <= grace + SLACK_SECONDS or vm.reason.name == "adopted"
            )  # whose grace began when it was found
            assert vm.deadline is not None
            assert -SLACK_SECONDS <= (vm.deadline - now).total_seconds() <= grace
        elif vm.state is VmState.LEAVING:
            most = LEAVE_SECONDS if known.standing.refusal is not None else FINISH_SECONDS
            assert in_state <= most + SLACK_SECONDS or (vm.deadline is not None and vm.deadline > now)
        elif vm.state is VmState.KILLING:
            assert in_state <= KILL_AGAIN_SECONDS + SLACK_SECONDS
        elif running:
            assert known.standing.refusal is None and not desk.owner_here
            assert vm.lease.until > now

    # -- the end --------------------------------------------------------------------------------------------------

    def _undone(self) -> bool:
        return any(self.pool.job(job).status != 4 for job in reversed(self.jobs))

    def _sum_up(self) -> Summary:
        said, scenario = self.said, self.scenario
        jobs = [self.pool.job(job) for job in self.jobs]
        said.jobs_submitted = len(jobs)
        said.jobs_done = sum(job.status == 4 for job in jobs)
        said.evictions = sum(max(0, job.starts - 1) for job in jobs)
        said.starts_per_desktop_and_day = round(said.vms_started / scenario.desktops / scenario.days, 2)
        said.reports, said.messages_lost = self.weather.reports, self.weather.losses
        said.messages_repeated, said.coordinator_restarts = self.weather.repeats, self.head.restarts - 1
        said.reports_overtaken = self.weather.overtaken
        said.hours_given, said.hours_open = round(said.hours_given, 1), round(said.hours_open, 1)
        for number, desk in enumerate(self.desks):
            said.kvm_distrusted += "kvm" in desk.iron.distrusted
            said.kvm_distrusted_wrongly += "kvm" in desk.iron.distrusted and number % 40 != SILENT_KVM
        said.ends = self.head.ends()
        return said
