"""The planner over any snapshot, and over weeks of cycles on a small fleet: what must hold holds in every plan."""

from collections import Counter
from datetime import datetime, timedelta

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from deskgrid.core.fleet.fitness import fits
from deskgrid.core.fleet.health import Health
from deskgrid.core.fleet.plan import plan
from deskgrid.model.desktop import Desktop, Fault, Room, VmReport, VmState
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import LiveLease, Outcome, Plan, PlanSettings, Snapshot, Want
from deskgrid.model.policy import GIB

from .values import IMAGE, NOW, OTHER, SMALL, WHY, after, desktop, facts, outcome

LARGE = Size(2, 2 * GIB)
SETTINGS = PlanSettings(ramp=3, max_starting=5, sizes=(SMALL, LARGE))
NAMES = [f"d{n}" for n in range(6)]
IMAGES = {IMAGE.name: IMAGE, OTHER.name: OTHER}


def on_its_way(live: LiveLease, now: datetime) -> bool:
    """As the rule says it: not joined and not given up, or just joined and not claimed."""
    if live.joined_at is None:
        return (now - live.lease.granted_at).total_seconds() < SETTINGS.join_seconds
    return not live.claimed and (now - live.joined_at).total_seconds() < SETTINGS.settle_seconds


def holds(made: Plan, seen: Snapshot, now: datetime) -> None:
    """What must hold of every plan."""
    fleet = {d.name: d for d in seen.desktops}
    coming = [live.lease for live in seen.leases if on_its_way(live, now)]
    health = Health(seen.outcomes, SETTINGS)
    granted = Counter((g.image.name, g.size) for g in made.grants)

    assert len(made.grants) <= SETTINGS.ramp
    assert not made.grants or len(made.grants) + len(coming) <= SETTINGS.max_starting
    if not seen.wants:
        assert made.grants == () and made.shortages == ()
    wanted = {(w.image, w.size): w.vms for w in seen.wants or ()}
    for key, vms in wanted.items():
        on_the_way = sum((lease.image.name, lease.size) == key for lease in coming)
        short = sum(s.vms for s in made.shortages if (s.image, s.size) == key)
        assert granted[key] + short == max(0, vms - on_the_way)
    assert granted.keys() <= wanted.keys()

    for grant in made.grants:
        there = fleet[grant.desktop]
        assert there.availability.available
        assert (now - there.reported_at).total_seconds() <= SETTINGS.stale_seconds
        assert health.desktop(grant.desktop, now).allowed and health.image(grant.image.name, now).allowed
        assert grant.reason.name == "demand" and made.desktops[grant.desktop].name == "demand"
    for name, there in fleet.items():
        unseen = [live.lease for live in seen.leases if live.lease.desktop == name]
        unseen = [lease for lease in unseen if lease.vm_id not in {vm.vm_id for vm in there.vms}]
        new = [*(g.size for g in made.grants if g.desktop == name), *(lease.size for lease in unseen)]
        if len(new) > len(unseen):
            assert len(new) <= there.room.vms
            assert sum(s.cpus for s in new) <= there.room.cpus
            assert sum(s.memory_bytes for s in new) <= there.room.memory_bytes

    tried = [*coming, *made.grants]
    for image in {g.image.name for g in made.grants if health.image(g.image.name, now).probing}:
        assert sum(t.image.name == image for t in tried) == 1
    for name in {g.desktop for g in made.grants if health.desktop(g.desktop, now).probing}:
        assert sum(t.desktop == name for t in tried) == 1

    assert made.desktops.keys() == fleet.keys()
    for reason in (*made.desktops.values(), *(s.reason for s in made.shortages)):
        assert reason.name and reason.sentence


SIZES = st.sampled_from([SMALL, LARGE])
DESKTOPS = st.lists(
    st.builds(
        desktop,
        st.sampled_from(NAMES),
        refusals=st.sampled_from([(), (), (), ("owner-active",)]),
        idle_seconds=st.none() | st.floats(0, 1e6),
        logged_in=st.sampled_from([False, True, None]),
        silent_seconds=st.sampled_from([0.0, 10.0, 120.0, 121.0, 4000.0]),
        vms=st.integers(0, 4),
        cpus=st.integers(0, 8),
        memory_bytes=st.integers(0, 8).map(lambda n: n * GIB),
        images=st.sampled_from([(), (IMAGE,), (OTHER,)]),
    ),
    max_size=6,
    unique_by=lambda d: d.name,
).map(tuple)
AGES = st.sampled_from([0.0, 1.0, 59.0, 61.0, 899.0, 901.0])


def live(number: int, on: str, image: str, size: Size, age: float, joined: bool, claimed: bool) -> LiveLease:
    given = Lease(f"vm-{number}", on, IMAGES[image], size, after(-age), after(300), WHY)
    return LiveLease(given, after(-age) if joined else None, claimed and joined)


LEASES = st.lists(
    st.builds(
        live,
        st.integers(0, 10**9),
        st.sampled_from(NAMES),
        st.sampled_from(list(IMAGES)),
        SIZES,
        AGES,
        st.booleans(),
        st.booleans(),
    ),
    max_size=6,
    unique_by=lambda one: one.lease.vm_id,
).map(tuple)
WANTS = st.none() | st.lists(
    st.builds(
        lambda image, size, vms: Want(image, size, vms, vms),
        st.sampled_from([*IMAGES, "unheard-of"]),
        SIZES,
        st.integers(1, 8),
    ),
    max_size=5,
    unique_by=lambda w: (w.image, w.size),
).map(tuple)
OUTCOMES = st.lists(
    st.builds(
        outcome,
        st.sampled_from(list(IMAGES)),
        st.sampled_from(NAMES),
        st.sampled_from([1.0, 59.0, 61.0, 200.0, 4000.0]),
        st.booleans(),
        st.sampled_from(Fault),
    ),
    max_size=5,
).map(tuple)
SNAPSHOTS = st.builds(
    lambda desktops, leases, wants, outcomes: Snapshot(desktops, leases, (facts(IMAGE), facts(OTHER)), wants, outcomes),
    DESKTOPS,
    LEASES,
    WANTS,
    OUTCOMES,
)


@given(SNAPSHOTS)
def test_every_plan_of_any_snapshot_keeps_the_rules(seen: Snapshot) -> None:
    holds(plan(seen, SETTINGS, NOW), seen, NOW)


@given(SNAPSHOTS)
def test_the_same_snapshot_gives_the_same_plan(seen: Snapshot) -> None:
    assert plan(seen, SETTINGS, NOW) == plan(seen, SETTINGS, NOW)


@given(SNAPSHOTS, st.randoms())
def test_the_order_of_desktops_does_not_matter(seen: Snapshot, random: object) -> None:
    mixed = list(seen.desktops)
    random.shuffle(mixed)
    otherwise = plan(msgspec.structs.replace(seen, desktops=tuple(mixed)), SETTINGS, NOW)
    assert otherwise.grants == plan(seen, SETTINGS, NOW).grants


@given(SNAPSHOTS)
def test_no_desktop_that_fits_stays_empty_while_a_healthy_image_is_short_and_the_ramp_allows(seen: Snapshot) -> None:
    made = plan(seen, SETTINGS, NOW)
    used = {g.desktop for g in made.grants} | {one.lease.desktop for one in seen.leases}
    health = Health(seen.outcomes, SETTINGS)
    for shortage in made.shortages:
        if shortage.reason.name != "no-desktop-free":
            continue
        for there in seen.desktops:
            could = (
                there.availability.available and health.desktop(there.name, NOW).allowed and fits(there, shortage.size)
            )
            silent = (NOW - there.reported_at).total_seconds() > SETTINGS.stale_seconds
            assert silent or not could or there.name in used


class PlanStory(RuleBasedStateMachine):
    """Cycle after cycle: desktops that take, refuse, fail or forget what they are told; demand that comes and goes."""

    @initialize(rooms=st.lists(st.integers(1, 4), min_size=2, max_size=5))
    def begin(self, rooms: list[int]) -> None:
        self.now = NOW
        self.rooms = dict(zip(NAMES, rooms, strict=False))
        self.reported: dict[str, Desktop] = {}
        self.refusing: set[str] = set()
        self.leases: dict[str, LiveLease] = {}
        self.outcomes: list[Outcome] = []
        self.wants: dict[tuple[str, Size], int] | None = {}
        self.given = 0
        self.everyone_reports()

    def report(self, name: str, shows: list[str]) -> None:
        here = [self.leases[vm_id].lease for vm_id in shows]
        taken = sum(lease.size.cpus for lease in here)
        room = Room(
            8 - taken, 8 * GIB - sum(lease.size.memory_bytes for lease in here), GIB, self.rooms[name] - len(here)
        )
        vms = tuple(VmReport(i.vm_id, i.image, i.size, VmState.RUNNING, self.now, WHY) for i in here)
        base = desktop(name, refusals=("owner-active",) if name in self.refusing else ())
        self.reported[name] = msgspec.structs.replace(base, reported_at=self.now, room=room, vms=vms)

    @rule()
    def everyone_reports(self) -> None:
        for name in self.rooms:
            self.report(name, [vm_id for vm_id, one in self.leases.items() if one.lease.desktop == name])

    @rule(which=st.sampled_from(NAMES), refuses=st.booleans())
    def an_owner_comes_or_goes(self, which: str, refuses: bool) -> None:
        (self.refusing.add if refuses else self.refusing.discard)(which)
        if which in self.rooms:
            self.report(which, [vm_id for vm_id, one in self.leases.items() if one.lease.desktop == which])

    @rule(image=st.sampled_from(list(IMAGES)), size=SIZES, vms=st.integers(0, 8))
    def demand_changes(self, image: str, size: Size, vms: int) -> None:
        self.wants = {**(self.wants or {}), (image, size): vms}

    @rule()
    def htcondor_cannot_be_asked(self) -> None:
        self.wants = None

    @rule(seconds=st.sampled_from([1.0, 15.0, 61.0, 130.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.leases)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["joins", "joins", "image", "desktop", "none", "claimed"]))
    def a_vm_gets_on_or_fails(self, which: int, how: str) -> None:
        vm_id = sorted(self.leases)[which % len(self.leases)]
        one = self.leases[vm_id]
        if how == "claimed" and one.joined_at is not None:
            self.leases[vm_id] = msgspec.structs.replace(one, claimed=True)
        elif how == "joins":
            self.leases[vm_id] = msgspec.structs.replace(one, joined_at=one.joined_at or self.now)
            self.outcomes.append(Outcome(one.lease.image.name, one.lease.desktop, self.now, True))
        elif how != "claimed":
            del self.leases[vm_id]
            self.outcomes.append(Outcome(one.lease.image.name, one.lease.desktop, self.now, False, Fault(how)))

    @rule(cycles=st.integers(1, 3))
    def the_coordinator_plans(self, cycles: int) -> None:
        for _ in range(cycles):
            wants = None
            if self.wants is not None:
                wants = tuple(Want(i, s, n, n) for (i, s), n in sorted(self.wants.items()) if n)
            seen = Snapshot(
                tuple(self.reported.values()),
                tuple(self.leases.values()),
                (facts(IMAGE), facts(OTHER)),
                wants,
                tuple(self.outcomes),
            )
            made = plan(seen, SETTINGS, self.now)
            holds(made, seen, self.now)
            for grant in made.grants:
                self.given += 1
                vm_id = f"vm-{self.given}"
                until = self.now + timedelta(seconds=300)
                given = Lease(vm_id, grant.desktop, grant.image, grant.size, self.now, until, grant.reason)
                self.leases[vm_id] = LiveLease(given)


TestPlanStory = PlanStory.TestCase
