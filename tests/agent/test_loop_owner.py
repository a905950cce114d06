"""What the owner's side can say to a desktop's agent while it runs: wishes, rules, sleep; and a newer agent's turn."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.inbox import Looked, Sense
from deskgrid.core.desktop.inputs import HandingOver, Wished
from deskgrid.model.inventory import Inventory, Trial, Verdict
from deskgrid.model.policy import Policy
from deskgrid.model.presence import Ending
from deskgrid.model.wish import Ask, Wish
from deskgrid.presence.fake import AWAY, PRESENT

from .world import START, World

ALL_DAY = Policy(
    closed=(),
    idle_seconds_nobody=60.0,
    grace_seconds=60.0,
    start_spacing_seconds=0.0,
    start_offset_seconds=0.0,
    boot_delay_seconds=0.0,
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ALL_DAY)


def wish(world: World, ask: Ask, seconds: float | None = None) -> None:
    until = None if seconds is None else world.time.now() + timedelta(seconds=seconds)
    world.put(Wished(Wish(ask, "ada", world.time.now(), until)))
    world.pass_(0.1)


def refusals(world: World) -> list[str]:
    return [reason.name for reason in world.loop.state.availability.refusals]


def around(world: World, **more: Callable[..., object]) -> None:
    """Let the agent's next life have other surroundings."""
    world.more = more
    world.die()
    world.wake()


def test_a_pause_stops_a_running_vm_and_a_resume_within_the_grace_lets_it_go_on(world: World) -> None:
    world.up()
    wish(world, Ask.PAUSE)
    assert not world.running() and world.there()
    assert refusals(world) == ["owner-paused"]
    wish(world, Ask.RESUME)
    assert world.running() and refusals(world) == []


def test_a_pause_that_lasts_ends_the_vm_and_ends_by_itself(world: World) -> None:
    world.up()
    wish(world, Ask.PAUSE, seconds=600)
    world.pass_(300)
    assert not world.there()
    world.pass_(400)
    assert refusals(world) == []


def test_to_finish_lets_a_vm_run_and_starts_none(world: World) -> None:
    world.up()
    wish(world, Ask.FINISH)
    world.office.want("vm-2")
    world.pass_(60)
    assert world.running() and not world.there("vm-2")
    assert refusals(world) == ["owner-finishes"]


def test_what_was_wished_holds_for_the_agents_next_life(world: World) -> None:
    world.settings = {"wish": Wish(Ask.PAUSE, "ada", START)}
    world.wake()
    world.office.want()
    world.pass_(60)
    assert not world.there() and refusals(world) == ["owner-paused"]


def test_another_policy_is_obeyed_at_the_next_look(world: World) -> None:
    rules: list[Policy | None] = []
    around(world, rules=lambda: rules.pop() if rules else None)
    world.up()
    rules.append(msgspec.structs.replace(ALL_DAY, days_closed=(START.date(),)))
    world.pass_(2)
    assert not world.running() and refusals(world) == ["day-closed"]


def test_a_vm_never_starts_by_an_old_reading(world: World) -> None:
    world.pass_(3)
    world.presence.set(PRESENT)  # and nobody tells the agent
    world.office.want()
    world.loop.session.due = world.time.now()
    world.pass_(1)
    assert not world.there()


def test_sleep_waits_until_vms_stand_still_and_shutdown_until_they_are_gone(world: World) -> None:
    ready: list[bool] = []
    around(world, ready_to_end=lambda: ready.append(world.running()))
    world.up()
    world.owner(msgspec.structs.replace(AWAY, ending=Ending.SLEEP))
    world.pass_(1)
    assert ready == [False] and world.there()
    world.owner(AWAY)
    world.pass_(30)
    assert world.running()
    world.owner(msgspec.structs.replace(AWAY, ending=Ending.SHUTDOWN))
    world.pass_(5)
    assert ready == [False, False] and not world.there()


def test_it_is_watched_closely_only_while_vms_are_here(world: World) -> None:
    watched: list[bool] = []
    around(world, pace=watched.append)
    world.pass_(10)
    world.up()
    world.office.wanted.clear()
    world.pass_(60)
    assert watched == [False, True, False]


def test_a_newer_agent_finds_the_vms_that_were_handed_over(world: World) -> None:
    world.up()
    world.put(HandingOver(60.0))
    world.office.want("vm-2")
    world.pass_(5)
    assert world.loop.handed_over and world.running() and not world.there("vm-2")
    world.die()
    world.pass_(20)
    world.wake()
    world.put(Sense())
    world.pass_(20)
    assert world.running() and world.loop.state.vms["vm-1"].state == "running"


def test_what_the_computer_is_made_of_goes_along_until_it_was_heard(world: World) -> None:
    made_of = Inventory(system="Debian", cpus=4)
    world.line.down = "no route"
    world.put(Looked(made_of))
    world.put(Looked(None))
    world.pass_(5)
    world.line.down = ""
    world.pass_(200)
    said = [report.inventory for report in world.line.said]
    assert said.count(made_of) >= 2 and said[-1] is None
    assert made_of in [report.inventory for report in world.office.reports]


def test_which_program_the_owner_uses_is_said_to_nobody_else(world: World) -> None:
    world.up()
    world.owner(msgspec.structs.replace(AWAY, watching=("Totem: a film",)))
    world.pass_(30)
    (reason,) = world.loop.state.availability.refusals
    assert (reason.name, reason.reading) == ("watching", "Totem: a film")
    assert "watching" in refusals(world) and "watching" in msgspec.json.encode(world.line.said[-1]).decode()
    assert not any(b"Totem" in msgspec.json.encode(report) for report in world.line.said)


def test_an_accelerator_that_failed_its_trial_is_not_tried_with_a_vm(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, accelerators=("kvm", "fake"))
    world.put(Looked(Inventory(trials=(Trial("kvm", Verdict.HANGS, 8000), Trial("fake", Verdict.WORKS, 20)))))
    world.pass_(1)
    world.up()
    assert world.loop.state.vms["vm-1"].accelerator == "fake"
