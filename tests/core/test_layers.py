"""Layers: the grid sets, the others tighten; whatever is known, a tighter layer never allows more."""

from datetime import UTC, date
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.core.desktop.cases import Given, decided
from deskgrid.core.desktop.room import room
from deskgrid.core.policy.availability import availability, standing
from deskgrid.core.policy.facts import Facts
from deskgrid.core.policy.layers import LAYERS, Layer, combine, tightens
from deskgrid.core.policy.refusals import REFUSALS, Effect
from deskgrid.model.policy import GIB, ROWS, Policy, Tighter

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
        ("download_bytes_per_second", 1_000_000, 500_000, 2_000_000),
        ("neighbours", True, False, None),
        ("neighbours", False, None, True),
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
    assert would_stand.gives_back is None or stands.gives_back is not None


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
        assert known[stops.name].effect is Effect.STOP
        assert not answer.available, "what may not run on may not start"


EVENING = {"logged_in": True, "at": "2026-03-03T20:00:00"}
WITNESSES: dict[str, tuple[dict[str, Any], Any, Any, str]] = {
    "closed": (EVENING, (), ("19:00-21:00",), "may_start"),
    "closed_nobody": ({}, (), ("11:00-13:00",), "may_start"),
    "days_closed": ({}, (), ("2026-03-03",), "may_start"),
    "idle_seconds": ({**EVENING, "idle_seconds": 300}, 300, 301, "may_start"),
    "idle_seconds_nobody": ({"idle_seconds": 60}, 60, 61, "may_start"),
    "resume_seconds": ({"idle_seconds": 10}, 10, 11, "may_go_on"),
    "locked_is_away": ({"logged_in": True, "locked": True, "idle_seconds": 300}, True, False, "may_start"),
    "remote_sessions": ({"remote": True}, True, False, "may_start"),
    "watching_is_use": ({"watching": ["a film"]}, False, True, "may_start"),
    "full_screen": ({"full_screen": True}, True, False, "may_start"),
    "quiet_programs": ({"programs": ["zoom"]}, (), ("zoom",), "may_start"),
    "lid_closed": ({"lid_closed": True}, True, False, "may_start"),
    "on_battery": ({"on_battery": True, "battery_percent": 90}, True, False, "may_start"),
    "battery_min_percent": ({"battery_percent": 50}, 50, 51, "may_start"),
    "metered": ({"metered": True}, True, False, "may_start"),
    "wireless": ({"wireless": True}, True, False, "may_start"),
    "memory_reserve_bytes": ({"memory_available_gib": 3}, 2 * GIB, 3 * GIB, "may_start"),
    "memory_reserve_share": ({"memory_available_gib": 8}, 0.25, 0.5, "may_start"),
    "memory_short_bytes": ({"memory_available_gib": 3}, 3 * GIB, 3 * GIB + 1, "gives_back"),
    "memory_pressure_max": ({"memory_pressure": 20}, 20, 19, "may_start"),
    "disk_floor_bytes": ({"disk_free_gib": 6}, 5 * GIB, 6 * GIB, "may_start"),
    "max_vms": ({}, 3, 2, "room_vms"),
    "cpu_share": ({}, 0.5, 0.25, "cpus"),
    "max_vms_in_use": ({**EVENING, "idle_seconds": 0}, 2, 1, "spared"),
    "cpu_share_in_use": ({**EVENING, "idle_seconds": 0}, 0.5, 0.25, "cpus"),
    "boot_delay_seconds": ({"up_seconds": 100}, 100, 101, "may_start"),
    "start_spacing_seconds": ({"started_seconds": 10}, 10, 11, "may_start"),
    "start_offset_seconds": ({"clear_seconds": 10, "offset_fraction": 0.5}, 20, 21, "may_start"),
}
"""For each setting: facts, a looser and a tighter value of it, and the decision that the tighter one changes."""
ELSEWHERE = (
    {"zone", "days_off"},
    {
        "others_cpu_max",
        "others_cpu_seconds",
        "vm_disk_bytes",
        "grace_seconds",
        "download_bytes_per_second",
        "images_bytes",
    },
    {"neighbours"},
)
"""Fixed ones; and those whose effect is in time or in a driver: smaller, or no, is plainly less."""


@pytest.mark.parametrize("name", list(WITNESSES))
def test_what_a_row_calls_tighter_allows_less(name: str) -> None:
    facts, loose, tight, decision = WITNESSES[name]
    row = next(row for row in ROWS if row.name == name)
    if row.tighter is Tighter.ADDED:
        assert set(loose) < set(tight)
    else:
        assert tightens(row, loose, tight) and not tightens(row, tight, loose)
    base = {"start_spacing_seconds": 0, "start_offset_seconds": 0, "closed": ()}
    given_ = [msgspec.convert({**facts, "policy": {**base, name: value}}, Given) for value in (loose, tight)]
    more, less = (decided(one, Policy(), UTC)[decision] for one in given_)
    if decision == "gives_back":
        assert (more, less) == (None, "memory-short")
    else:
        assert more > less  # type: ignore[operator]


def test_every_setting_has_a_witness_or_is_plainly_less() -> None:
    fixed, plain, no = ELSEWHERE
    assert {row.name for row in ROWS} == {*WITNESSES, *fixed, *plain, *no}
    rows = {row.name: row.tighter for row in ROWS}
    assert {rows[name] for name in fixed} == {Tighter.FIXED} and {rows[name] for name in plain} == {Tighter.LESS}
    assert {rows[name] for name in no} == {Tighter.NO}
