"""Whole stories of an agent: a line that loses, repeats, delays and reorders; an owner who comes and goes; kills.

What holds at every step:
- While the owner is here no VM's processors run, but for the two seconds in which it leaves.
- A VM that has ended never comes back; its end is recorded once, and no line of its story is missing or twice.
And when the line is whole again: what is wanted runs, what is not wanted is gone.
"""

import os
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deskgrid.core.desktop.vm import LEAVE_SECONDS
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.model.policy import Policy
from deskgrid.wire.messages import Report

from .world import World

LOOK_SECONDS = 0.5
ALL_DAY = Policy(
    closed=(), idle_seconds_nobody=60.0, grace_seconds=60.0, start_spacing_seconds=0.0, start_offset_seconds=0.0
)
GUESTS = [
    GuestBehaviour(),
    GuestBehaviour(leave_seconds=None),
    GuestBehaviour(alive_after_seconds=None),
    GuestBehaviour(ends_after_seconds=70.0),
    GuestBehaviour(leaves_after_seconds=60.0),
    GuestBehaviour(start_seconds=5.0, kill_seconds=0.9),
]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["wait", "wait", "want", "want", "drop", "comes", "goes", "goes", "die", "cut", "mend"]),
        st.sampled_from([0.1, 1.0, 3.0, 20.0, 61.0, 130.0]),
    ),
    max_size=18,
)
DELAYS = st.lists(st.sampled_from([0.01, 0.01, 0.5, 7.0, 40.0]), max_size=2)
FATES = st.lists(st.tuples(DELAYS, DELAYS), max_size=40)


class Story:
    """A world, and what is watched in it."""

    def __init__(self, world: World, fates: list[tuple[list[float], list[float]]]) -> None:
        self.world = world
        self.fates = fates
        self.owner_here = False
        self.seen_running: Counter[str] = Counter()
        self.ended: list[str] = []
        self.misbehave()

    def misbehave(self) -> None:
        self.world.line.fate = self._fate

    def _fate(self, report: Report) -> tuple[list[float], list[float]]:
        return self.fates.pop() if self.fates else ([0.01], [0.01])

    def do(self, what: str, seconds: float) -> None:
        world = self.world
        if what == "want":
            world.office.want(f"vm-{len(world.office.reports)}-{len(world.office.wanted)}")
        elif what == "drop" and world.office.wanted:
            del world.office.wanted[min(world.office.wanted)]
        elif what == "comes":
            world.comes()
            self.owner_here = True
        elif what == "goes":
            world.goes()
            self.owner_here = False
            self.seen_running.clear()
        elif what == "die":
            world.die()
            world.pass_(min(seconds, 3.0))
            world.wake()
            self.seen_running.clear()
            self.misbehave()
        elif what == "cut":
            world.line.down = "connection refused"
        elif what == "mend":
            world.line.down = ""
        self.watch(seconds)

    def watch(self, seconds: float) -> None:
        world = self.world
        for _ in range(max(1, round(seconds / LOOK_SECONDS))):
            world.pass_(min(seconds, LOOK_SECONDS))
            self.check()

    def check(self) -> None:
        world = self.world
        for vm in world.iron.vms.values():
            if self.owner_here and vm.stage == "running" and not vm.paused:
                assert vm.confined
                self.seen_running[vm.id] += 1
                assert self.seen_running[vm.id] <= LEAVE_SECONDS / LOOK_SECONDS + 1
        self.ended += [vm.vm_id for vm in world.loop.state.ended if vm.vm_id not in self.ended]
        assert not set(self.ended) & world.loop.state.vms.keys()
        assert not set(self.ended) & {vm.id for vm in world.iron.vms.values() if vm.stage == "running"}
        recorded = Counter(vm.vm_id for vm in world.office.ended)
        assert all(times == 1 for times in recorded.values())
        waiting = {vm.vm_id for vm in world.loop.state.ended}
        assert set(self.ended) <= set(recorded) | waiting or world.incarnation > 1
        assert world.loop.state.vms.keys() >= world.loop._orders.keys()


@settings(max_examples=600 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 40, deadline=None)
@given(STEPS, FATES, st.sampled_from([0.0, 5.0, 60.0]), st.sampled_from(GUESTS))
def test_whatever_happens_the_owner_wins_and_nothing_is_lost(
    steps: list[tuple[str, float]], fates: list[tuple[list[float], list[float]]], grace: float, guest: GuestBehaviour
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), msgspec.structs.replace(ALL_DAY, grace_seconds=grace), guest)
        story = Story(world, list(fates))
        for what, seconds in steps:
            story.do(what, seconds)
        world.line.down, story.fates = "", []
        story.do("goes", 130.0)
        for vm_id in list(world.office.wanted):
            if world.incarnation == 1:
                assert vm_id in world.loop.state.vms
        assert world.loop.state.vms.keys() <= world.office.wanted.keys()
        assert world.loop.state.ended == () and world.loop.state.story == ()
        assert {vm.id for vm in world.iron.vms.values()} <= world.loop.state.vms.keys()
        if world.incarnation == 1:
            for vm_id in {line.vm_id for line in world.office.story}:
                states = world.office.states(vm_id)
                assert states[0] == "fetching" and len(set(states) - {"paused", "running"}) + sum(
                    s in ("paused", "running") for s in states
                ) == len(states)
                assert (states[-1] == "ended") == (vm_id not in world.loop.state.vms)
