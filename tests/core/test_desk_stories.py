"""Whole stories of a desk: owners, answers, drivers and time in any order; what must hold holds after every step."""

from collections import Counter
from datetime import datetime, timedelta

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deskgrid.core.commands import Fetch, Kill, Start
from deskgrid.core.desktop.advance import advance
from deskgrid.core.desktop.inputs import Finishing, HandingOver, Input, Ordered, Ruled, Sensed, Ticked, Wished
from deskgrid.core.desktop.state import AgentState, begin, next_due
from deskgrid.core.desktop.vm import FINISH_SECONDS, KILL_AGAIN_SECONDS, LEAVE_SECONDS, adopt
from deskgrid.core.events import Happened
from deskgrid.model.desktop import Transition, VmReport, VmState
from deskgrid.model.lease import Lease, Size
from deskgrid.model.policy import GIB
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish

from .driver import Driver, Process, Temper
from .values import ALL_DAY, AWAY, NOW, ROOMY, TYPING, lease

EPSILON = 0.001
READINGS = st.sampled_from(
    [
        *(AWAY, AWAY, AWAY, TYPING, TYPING, Reading(True, 20.0), Reading(True, 700.0), Reading(None, None)),
        *(Reading(False, 86400.0, ending=ending) for ending in Ending),
        Reading(True, 700.0, watching=("Totem: a film",)),
        Reading(True, 700.0, full_screen=None),
        Reading(False, 86400.0, lid_closed=True),
    ]
)
MACHINES = st.sampled_from(
    [
        *(msgspec.structs.replace(ROOMY, memory_available_bytes=n * GIB // 2) for n in (28, 28, 28, 28, 16, 6, 1)),
        msgspec.structs.replace(ROOMY, memory_pressure=50.0),
        msgspec.structs.replace(ROOMY, others_cpu=0.9),
        msgspec.structs.replace(ROOMY, others_cpu=0.1),
        msgspec.structs.replace(ROOMY, on_battery=True, battery_percent=90.0),
        msgspec.structs.replace(ROOMY, metered=None),
        msgspec.structs.replace(ROOMY, disk_free_bytes=GIB),
    ]
)
RULES: st.SearchStrategy[dict[str, object]] = st.fixed_dictionaries(
    {},
    optional={
        "grace_seconds": st.sampled_from([0.0, 5.0, 60.0]),
        "max_vms_in_use": st.integers(0, 2),
        "closed_nobody": st.sampled_from([(), ("20:01-20:03",), ("00:00-24:00",)]),
        "resume_seconds": st.sampled_from([0.0, 15.0]),
        "others_cpu_seconds": st.sampled_from([0.0, 3.0, 60.0]),
        "start_spacing_seconds": st.sampled_from([0.0, 5.0]),
        "start_offset_seconds": st.sampled_from([0.0, 60.0]),
        "metered": st.booleans(),
    },
)
SIZES = st.sampled_from([Size(1, GIB), Size(2, 4 * GIB), Size(4, 9 * GIB)])
SHORT_WAITS = st.floats(0.01, 5.0)
WAITS = st.sampled_from([0.5, 1.0, 2.5, 12.0, 30.0, 70.0, 400.0])


FOUND = [[], [], [(True, True)], [(False, True)], [(False, False), (True, True)]]
"""VMs of an earlier life: whether they are paused, whether their guest is up."""


class Said(msgspec.Struct, frozen=True):
    """A report as far as this story needs it."""

    sequence: int
    story_from: int
    ended: tuple[VmReport, ...]
    story: tuple[Transition, ...]


class DeskStory(RuleBasedStateMachine):
    """One desktop, its driver, its owner, and a coordinator behind a line that loses, repeats and reorders."""

    @initialize(
        grace=st.sampled_from([0.0, 5.0, 60.0]),
        skew=st.sampled_from([0.0, 3600.0, -86400.0]),
        found=st.sampled_from(FOUND),
        new=st.lists(st.sampled_from(Temper), max_size=2),
        reading=READINGS,
        rounds=st.integers(0, 3),
    )
    def wake(
        self,
        grace: float,
        skew: float,
        found: list[tuple[bool, bool]],
        new: list[Temper],
        reading: Reading,
        rounds: int,
    ) -> None:
        self.policy = msgspec.structs.replace(ALL_DAY, grace_seconds=grace, max_vms=3)
        self.now: datetime = NOW
        self.skew = timedelta(seconds=skew)
        self.driver = Driver()
        self.reading, self.machine, self.wall = reading, ROOMY, timedelta(0)
        self.longest_grace = grace
        self.ran_refused: Counter[str] = Counter()
        self.ran_unleased: Counter[str] = Counter()
        self.refused_since: dict[str, datetime] = {}
        self.born: dict[str, datetime] = {}
        self.reports: list[Said] = []
        self.answers: list[Ordered] = []
        self.wanted: dict[str, Lease] = {}
        self.recorded_ended: list[str] = []
        self.recorded_story: list[Transition] = []
        self.all_ended: list[str] = []
        self.all_story: list[Transition] = []
        vms = []
        for n, (paused, alive) in enumerate(found):
            old = lease(f"old-{n}", until=200.0)
            self.wanted[old.vm_id] = old
            self.driver.processes[old.vm_id] = Process(cpus_run=not paused)
            vms.append(
                adopt(old, paused=paused, alive=alive, accelerator="kvm", grace_seconds=grace, since=NOW, now=NOW)
            )
        self.desk: AgentState = begin("desk-1", self.policy, self._look(), NOW, vms)
        self.take(self._look())
        for temper in new:
            self._want(Size(1, GIB), temper, stuck=False)
        self._converse()
        for _ in range(rounds):
            self._all_speak()

    def _look(self) -> Sensed:
        return Sensed(self.reading, self.machine, self.now + self.wall)

    def _refused(self) -> set[str]:
        """The VMs that may not run now: all but the oldest that are spared."""
        if self.desk.standing.refusal is None:
            return set()
        at_work = [vm.id for vm in self.desk.vms.values() if vm.state in (VmState.RUNNING, VmState.PAUSED)]
        return set(self.desk.vms) - set(at_work[: self.desk.standing.spared])

    def take(self, given: Input) -> None:
        """One input, its orders carried out, and what is true of any step."""
        before = self.desk
        self.desk, acts = advance(before, (given,), self.now)
        for act in acts:
            assert act.vm_id not in self.all_ended or act.command == Kill()
            self.driver.obey(act)
        self.all_ended += [vm.vm_id for vm in self.desk.ended if vm not in before.ended]
        fresh_from = before.story_from + len(before.story)
        self.all_story += self.desk.story[max(0, fresh_from - self.desk.story_from) :]
        for vm_id in self.driver.processes.keys() - self.born.keys():
            self.born[vm_id] = self.now
        self.refused_since = {vm_id: self.refused_since.get(vm_id, self.now) for vm_id in self._refused()}
        begun = self.desk.vms.keys() - before.vms.keys()
        if begun:
            given_out = sum(self.desk.vms[i].lease.size.memory_bytes for i in begun)
            assert given_out <= self.machine.memory_available_bytes - self.policy.memory_reserve_bytes
            assert {reason.name for reason in self.desk.availability.refusals} <= {"start-spacing"}
            assert len(begun) == 1 or self.policy.start_spacing_seconds == 0
        due = next_due(self.desk)
        assert due is None or due > self.now, "something is overdue, though time has been obeyed"

    # -- the owner and the machine --------------------------------------------------------------------------------

    @rule(reading=READINGS, machine=MACHINES)
    def look(self, reading: Reading, machine: object) -> None:
        self.reading, self.machine = reading, machine
        self.take(self._look())

    @rule(seconds=SHORT_WAITS | WAITS)
    def time_passes(self, seconds: float) -> None:
        """As the loop turns: at every deadline, and every second while there are VMs."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            due = next_due(self.desk)
            step = min([end, self.now + timedelta(seconds=1), *([due] if due else [])]) if self.desk.vms else end
            self._run_until(max(step, self.now))
            self.take(Ticked())
            self.take(self._look())

    @rule(ask=st.sampled_from([*Ask, None]), minutes=st.sampled_from([None, -1, 1, 600]))
    def the_owner_asks(self, ask: Ask | None, minutes: int | None) -> None:
        at = self.now + self.wall
        until = None if minutes is None else at + timedelta(minutes=minutes)
        self.take(Wished(None if ask is None else Wish(ask, "owner", at, until)))

    @rule(rules=RULES)
    def the_policy_changes(self, rules: dict[str, object]) -> None:
        self.policy = msgspec.structs.replace(self.policy, **rules)
        self.longest_grace = max(self.longest_grace, self.policy.grace_seconds)
        self.take(Ruled(self.policy))

    @rule(hours=st.sampled_from([-24, -1, 1, 24]))
    def the_clock_is_set(self, hours: int) -> None:
        self.wall += timedelta(hours=hours)
        self.take(self._look())

    @rule(hours=st.sampled_from([0.01, 1, 24]))
    def the_computer_sleeps(self, hours: float) -> None:
        """Nobody turns the loop meanwhile, and no processor runs; the steady clock goes on."""
        self.look(Reading(False, 86400.0, ending=Ending.SLEEP), self.machine)
        assert not any(p.cpus_run for i, p in self.driver.processes.items() if self.desk.vms[i].state == "running")
        self.now += timedelta(hours=hours)
        self.refused_since = {}  # what is due is done on waking
        self.look(AWAY, self.machine)

    def _run_until(self, then: datetime) -> None:
        seconds = (then - self.now).total_seconds()
        refused = self._refused()
        for vm_id, process in self.driver.processes.items():
            if process.cpus_run:
                vm = self.desk.vms[vm_id]
                self.ran_refused[vm_id] += seconds * (vm_id in refused)
                self.ran_unleased[vm_id] += seconds * (vm.lease.until <= self.now)
        self.now = then

    # -- the drivers ----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.driver.said)
    @rule(how=st.sampled_from(["all", "all", "one", "again", "lost"]), which=st.integers(0, 99))
    def drivers_speak(self, how: str, which: int) -> None:
        """All in order; or one out of turn, one and again later, one never."""
        if how == "all":
            self._all_speak()
            return
        place = which % len(self.driver.said)
        vm_id, told = self.driver.said[place]
        if how != "again":
            del self.driver.said[place]
        if how != "lost":
            self.driver.heard(vm_id, told)
            self.take(Happened(vm_id, told))

    def _all_speak(self) -> None:
        said, self.driver.said = self.driver.said, []
        for vm_id, told in said:
            self.driver.heard(vm_id, told)
            self.take(Happened(vm_id, told))

    @precondition(lambda self: self.driver.processes)
    @rule(which=st.integers(0, 99))
    def a_vm_dies_by_itself(self, which: int) -> None:
        self.driver.die(sorted(self.driver.processes)[which % len(self.driver.processes)])

    # -- the coordinator ------------------------------------------------------------------------------------------

    @rule(size=SIZES, temper=st.sampled_from([Temper.GOOD] * 3 + list(Temper)), stuck=st.booleans())
    def the_coordinator_wants_a_vm(self, size: Size, temper: Temper, stuck: bool) -> None:
        self._want(size, temper, stuck)
        self._converse()

    def _want(self, size: Size, temper: Temper, stuck: bool) -> None:
        vm_id = f"vm-{len(self.driver.tempers)}"
        self.driver.tempers[vm_id] = temper
        if stuck:
            self.driver.stuck.add(vm_id)
        self.wanted[vm_id] = lease(vm_id, size=size)

    @precondition(lambda self: self.wanted)
    @rule(which=st.integers(0, 99), heard=st.booleans())
    def the_coordinator_wants_a_vm_no_more(self, which: int, heard: bool) -> None:
        del self.wanted[sorted(self.wanted)[which % len(self.wanted)]]
        if heard:
            self._converse()

    @rule(
        what=st.sampled_from(["all", "slow", "slow", "report", "receive", "hear", "hear"]),
        back=st.integers(0, 3),
    )
    def agent_and_coordinator_talk(self, what: str, back: int) -> None:
        """A whole conversation; or a report that is lost or late, a report received again, an answer late or again."""
        if what == "report":
            self._report()
        elif what == "slow":
            self._report()
            self._receive(self.reports[-1])
            answer = self.answers[-1]
            self.look([AWAY, TYPING][back % 2], ROOMY)
            self.time_passes(float(back))
            self._all_speak()
            self._hear(answer)
        elif what == "receive" and self.reports:
            self._receive(self.reports[max(0, len(self.reports) - 1 - back)])
        elif what == "hear" and self.answers:
            self._hear(self.answers[max(0, len(self.answers) - 1 - back)])
        else:
            self._converse()

    def _converse(self) -> None:
        self._report()
        self._receive(self.reports[-1])
        self._hear(self.answers[-1])

    def _report(self) -> None:
        desk = self.desk
        self.reports.append(Said(len(self.reports) + 1, desk.story_from, desk.ended, desk.story))

    def _receive(self, report: Said) -> None:
        for vm in report.ended:
            if vm.vm_id not in self.recorded_ended:
                self.recorded_ended.append(vm.vm_id)
            self.wanted.pop(vm.vm_id, None)
        self.recorded_story += [line for line in report.story if line not in self.recorded_story]
        theirs = self.now + self.skew
        leases = [
            msgspec.structs.replace(given, until=theirs + timedelta(seconds=300)) for given in self.wanted.values()
        ]
        acknowledged = tuple(vm.vm_id for vm in report.ended)
        story_until = report.story_from + len(report.story)
        assert not set(self.wanted) & set(self.recorded_ended)
        self.answers.append(Ordered(report.sequence, theirs, tuple(leases), acknowledged, story_until))

    def _hear(self, answer: Ordered) -> None:
        stale = answer.to <= self.desk.answered
        if stale:
            assert advance(self.desk, (answer,), self.now) == (self.desk, ())
        self.take(answer)
        if not stale:
            named = {given.vm_id for given in answer.leases}
            ending = (VmState.LEAVING, VmState.KILLING)
            assert all(vm.id in named or vm.state in ending for vm in self.desk.vms.values())

    @precondition(lambda self: self.now > NOW + timedelta(minutes=5))
    @rule()
    def the_agent_is_told_to_stop(self) -> None:
        self.take(Finishing(Reason("agent-stops", "It was told to stop.")))

    @precondition(lambda self: self.now > NOW + timedelta(minutes=5))
    @rule()
    def the_agent_makes_way_for_a_newer_one(self) -> None:
        before = self.desk.vms
        self.take(HandingOver(60.0))
        assert {vm_id: vm.state for vm_id, vm in self.desk.vms.items()} == {i: vm.state for i, vm in before.items()}

    # -- what holds after every step ------------------------------------------------------------------------------

    @invariant()
    def a_vm_runs_only_under_a_live_lease_and_an_allowing_policy_or_leaves_confined(self) -> None:
        for vm_id, process in self.driver.processes.items():
            if not process.cpus_run:
                continue
            vm = self.desk.vms[vm_id]
            assert vm.state in (VmState.STARTING, VmState.BOOTING, VmState.RUNNING, VmState.LEAVING)
            if vm.state is VmState.LEAVING:
                assert process.confined
                assert self.ran_refused[vm_id] <= LEAVE_SECONDS + EPSILON
                assert self.ran_unleased[vm_id] <= FINISH_SECONDS + EPSILON
            else:
                assert vm.lease.until > self.now
                assert vm_id not in self._refused()
                assert self.ran_refused[vm_id] == self.ran_unleased[vm_id] == 0

    @invariant()
    def without_a_lease_there_is_nothing_but_leaving(self) -> None:
        ending = (VmState.LEAVING, VmState.KILLING)
        assert all(vm.lease.until > self.now or vm.state in ending for vm in self.desk.vms.values())

    @invariant()
    def after_a_refusal_no_vm_is_left_beyond_grace_leave_and_kill(self) -> None:
        most = timedelta(seconds=self.longest_grace + LEAVE_SECONDS + KILL_AGAIN_SECONDS + EPSILON)
        for vm_id in self.driver.processes.keys() & self.refused_since.keys():
            since = max(self.refused_since[vm_id], self.born.get(vm_id, NOW))
            assert self.now - since <= most

    @invariant()
    def every_no_has_a_name_and_a_sentence(self) -> None:
        desk = self.desk
        assert desk.availability.available is (not desk.availability.refusals)
        reasons = [*desk.availability.refusals, *(vm.reason for vm in desk.ended)]
        reasons += [vm.reason for vm in desk.vms.values()]
        for reason in reasons:
            assert reason.name and reason.sentence.endswith(".")
        assert all(line.sentence for line in desk.story)

    @invariant()
    def no_more_is_given_out_than_the_policy_allows(self) -> None:
        policy, sizes = self.policy, [vm.lease.size for vm in self.desk.vms.values()]
        assert sum(s.memory_bytes for s in sizes) <= ROOMY.memory_bytes - policy.memory_reserve_bytes
        assert sum(s.cpus for s in sizes) <= ROOMY.cpus * 3 // 4
        assert len(sizes) <= policy.max_vms

    @invariant()
    def what_has_ended_never_comes_back_and_ends_once(self) -> None:
        assert not set(self.all_ended) & self.desk.vms.keys()
        assert len(set(self.all_ended)) == len(self.all_ended)
        orders = Counter(self.driver.seen)
        assert all(orders[vm_id, once] <= 1 for vm_id, _ in orders for once in (Fetch, Start))

    @invariant()
    def no_end_and_no_line_of_story_is_lost_or_told_twice(self) -> None:
        waiting = [vm.vm_id for vm in self.desk.ended]
        assert len(set(waiting)) == len(waiting)
        assert set(self.all_ended) == set(self.recorded_ended) | set(waiting)
        assert self.desk.story_from + len(self.desk.story) == len(self.all_story)
        assert list(self.desk.story) == self.all_story[self.desk.story_from :]
        assert all(line in self.recorded_story for line in self.all_story[: self.desk.story_from])


TestDeskStory = DeskStory.TestCase
