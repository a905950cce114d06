"""Layers: the grid sets, the others tighten; whatever is known, a tighter layer never allows more."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.facts import Facts
from deskgrid.core.layers import LAYERS, Layer, combine
from deskgrid.core.limits import disk_is_short, may_fetch, memory_is_short, room
from deskgrid.core.policy import availability, standing
from deskgrid.core.refusals import REFUSALS
from deskgrid.model.policy import ROWS, Policy

from .facts import FACTS, LAYER_SETS, LOADS, loaded


def layer(name: str, **values: Any) -> Layer:
    return Layer(name, f"{name}.toml", values)


def test_without_layers_all_is_as_built_in() -> None:
    effective = combine([])
    assert effective.policy == Policy()
    assert [setting.name for setting in effective.settings] == [row.name for row in ROWS]
    assert {setting.layers for setting in effective.settings} == {("built-in",)}


def test_every_setting_has_a_row_and_every_row_a_setting() -> None:
    assert [row.name for row in ROWS] == list(Policy.__struct_fields__)


def test_the_grid_may_loosen_what_is_built_in() -> None:
    effective = combine([layer("grid", idle_seconds=60.0, closed=(), on_battery=True, zone="Europe/Berlin")])
    assert (effective.policy.idle_seconds, effective.policy.closed, effective.ignored) == (60.0, (), ())
    assert {setting.name for setting in effective.settings if setting.layers == ("grid",)} == {
        "idle_seconds",
        "closed",
        "on_battery",
        "zone",
    }


@pytest.mark.parametrize(
    ("name", "grid", "tighter", "looser"),
    [
        ("cpu_share", 0.5, 0.25, 0.75),
        ("idle_seconds", 300.0, 301.0, 299.0),
        ("on_battery", True, False, None),
        ("wireless", False, None, True),
        ("watching_is_use", False, True, None),
        ("watching_is_use", True, None, False),
        ("zone", "Europe/Berlin", None, "UTC"),
        ("days_off", (), None, (date(2026, 12, 24),)),
    ],
)
def test_a_later_layer_may_only_tighten(name: str, grid: Any, tighter: Any, looser: Any) -> None:
    base = layer("grid", **{name: grid})
    assert getattr(combine([base, layer("group", **{name: grid})]).policy, name) == grid
    if tighter is not None:
        effective = combine([base, layer("group", **{name: tighter})])
        assert getattr(effective.policy, name) == tighter and effective.ignored == ()
        assert next(setting.layers for setting in effective.settings if setting.name == name) == ("group",)
    if looser is not None:
        effective = combine([base, layer("owner", **{name: looser})])
        assert getattr(effective.policy, name) == grid
        (ignored,) = effective.ignored
        assert (ignored.name, ignored.value, ignored.layer) == (name, looser, "owner")
        assert "only" in ignored.sentence.casefold() and ignored.sentence.endswith(".")


def test_lists_grow_from_layer_to_layer_and_nobody_can_take_from_them() -> None:
    effective = combine(
        [
            layer("owner", quiet_programs=("zoom", "obs"), closed=()),
            layer("grid", quiet_programs=("zoom",)),
            layer("desktop", quiet_programs=("zoom",), closed_nobody=("00:00-06:00",)),
        ]
    )
    settings = {setting.name: setting for setting in effective.settings}
    assert (settings["quiet_programs"].value, settings["quiet_programs"].layers) == (("zoom", "obs"), ("grid", "owner"))
    assert settings["closed_nobody"].layers == ("desktop",)
    assert settings["closed"].layers == ("built-in",)
    assert effective.sources == (("grid", "grid.toml"), ("desktop", "desktop.toml"), ("owner", "owner.toml"))


@pytest.mark.parametrize("names", [["grid", "grid"], ["built-in"], ["boss"]])
def test_layers_that_do_not_exist_or_come_twice_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match="expected at most one each"):
        combine([layer(name) for name in names])


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="layer group: got idle_secs"):
        combine([layer("group", idle_secs=3)])


@given(LAYER_SETS, st.integers(0, 3), FACTS, LOADS)
def test_a_tighter_layer_never_allows_more(
    layers: tuple[Layer, ...], which: int, facts: Facts, loads: list[tuple[float | None, float]]
) -> None:
    dropped = LAYERS[1:][which]
    if dropped == "grid":
        return  # the grid may loosen
    tight = combine(layers).policy
    loose = combine([one for one in layers if one.name != dropped]).policy
    with_, without = loaded(facts, tight, loads), loaded(facts, loose, loads)
    starts, would_start = availability(tight, with_), availability(loose, without)
    assert would_start.available or not starts.available
    assert {reason.name for reason in would_start.refusals} <= {reason.name for reason in starts.refusals}
    stands, would_stand = standing(tight, with_), standing(loose, without)
    for place in range(8):
        assert (
            would_stand.refusal is None
            or place < would_stand.spared
            or not (stands.refusal is None or place < stands.spared)
        )
    assert stands.cpus <= would_stand.cpus
    less, more = room(tight, facts.machine, []), room(loose, facts.machine, [])
    assert less.cpus <= more.cpus and less.memory_bytes <= more.memory_bytes
    assert less.disk_bytes <= more.disk_bytes and less.vms <= more.vms
    assert tight.grace_seconds <= loose.grace_seconds
    for guard in (memory_is_short, disk_is_short, may_fetch):
        assert guard(loose, facts.machine) is None or guard(tight, facts.machine) is not None


@given(LAYER_SETS, FACTS)
def test_every_refusal_is_one_of_those_in_the_manual_and_has_a_sentence(
    layers: tuple[Layer, ...], facts: Facts
) -> None:
    known = {refusal.name: refusal for refusal in REFUSALS}
    policy = combine(layers).policy
    answer, stops = availability(policy, facts), standing(policy, facts).refusal
    assert {reason.name for reason in answer.refusals} <= set(known)
    assert all(reason.sentence.endswith(".") for reason in answer.refusals)
    if stops is not None:
        assert known[stops.name].stops
        assert not answer.available, "what may not run on may not start"
