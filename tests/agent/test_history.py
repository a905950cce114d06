"""What an agent knew and what came in: written as JSON, read again, decided again, it is the same."""

from pathlib import Path

import msgspec

from deskgrid.agent.history import TURNS, Dump, replay
from deskgrid.core.desktop.inputs import Wished
from deskgrid.model.policy import Policy
from deskgrid.model.wish import Ask, Wish

from .world import SECRET, World

ALL_DAY = Policy(
    closed=(), idle_seconds_nobody=60.0, grace_seconds=60.0, start_spacing_seconds=0.0, start_offset_seconds=0.0
)


def dumped(world: World) -> bytes:
    return msgspec.json.encode(world.loop.history.dump())


def eventful(world: World) -> None:
    world.up()
    world.comes()
    world.pass_(10)
    world.goes()
    world.pass_(100)
    world.put(Wished(Wish(Ask.PAUSE, "ada", world.time.now())))
    world.office.want("vm-2")
    world.pass_(100)


def test_what_was_written_plays_again_to_the_same_state(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    eventful(world)
    dump = msgspec.json.decode(dumped(world), type=Dump)
    assert dump.after == msgspec.json.decode(msgspec.json.encode(world.loop.state), type=type(world.loop.state))
    assert replay(dump) == dump.after
    names = {type(given).__name__ for turn in dump.turns for given in turn.given}
    assert {"Sensed", "Ordered", "Happened", "Wished"} <= names


def test_a_dump_that_was_changed_does_not_play_to_the_same_state(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    eventful(world)
    dump = msgspec.json.decode(dumped(world), type=Dump)
    fewer = tuple(turn for turn in dump.turns if not any(isinstance(one, Wished) for one in turn.given))
    assert replay(msgspec.structs.replace(dump, turns=fewer)) != dump.after


def test_a_bounded_number_of_turns_is_kept_and_still_plays(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    world.up()
    world.pass_(3.0 * TURNS)
    dump = world.loop.history.dump()
    assert TURNS <= len(dump.turns) <= 2 * TURNS
    assert replay(dump) == dump.after


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    eventful(world)
    assert SECRET.encode() not in dumped(world)
