"""Hypothesis strategies: any facts, any layer of a policy."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import strategies as st

from deskgrid.core.policy.facts import Facts, Waits
from deskgrid.core.policy.layers import LAYERS, Layer
from deskgrid.core.policy.pacing import Pace, load_seen
from deskgrid.model.policy import GIB, ROWS, Machine, Policy
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.wish import Ask, Wish

from .values import NOW

ZONES = [ZoneInfo(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/Havana")]
MAYBE = st.sampled_from([True, False, None])
SECONDS = st.sampled_from([0.0, 1.0, 14.0, 15.0, 59.0, 61.0, 599.0, 601.0, 86400.0])
DATES = st.dates(date(2026, 2, 28), date(2026, 4, 3))
HOURS = st.sampled_from(
    ["07:00-17:00", "Mon-Fri 08:00-18:00", "22:00-06:00", "Sat,Sun 00:00-24:00", "Fri-Mon 23:30-02:30", "12:00-12:01"]
)
PROGRAMS = st.sampled_from(["zoom", "Teams", "vlc"])

SIZES = st.sampled_from([GIB // 2, GIB, 3 * GIB, 12 * GIB, 200 * GIB])
_READING: dict[str, st.SearchStrategy[Any]] = {
    "logged_in": MAYBE,
    "idle_seconds": SECONDS | st.none(),
    "locked": MAYBE,
    "remote": MAYBE,
    "watching": st.just(("Totem: a film",)),
    "full_screen": MAYBE,
    "lid_closed": st.just(True),
    "ending": st.sampled_from(Ending),
}
_MACHINE: dict[str, st.SearchStrategy[Any]] = {
    "cpus": st.integers(1, 64),
    "memory_available_bytes": SIZES,
    "disk_free_bytes": SIZES,
    "memory_pressure": st.sampled_from([None, 0.0, 5.0, 50.0]),
    "others_cpu": st.sampled_from([None, 0.0, 0.2, 0.6, 1.0]),
    "on_battery": MAYBE,
    "battery_percent": st.sampled_from([None, 5.0, 50.0, 100.0]),
    "metered": MAYBE,
    "wireless": MAYBE,
    "programs": st.sampled_from([("zoom",), ("TEAMS", "vlc")]),
    "up_seconds": SECONDS | st.none(),
}


def _some(choices: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """A few of the fields, so that often only one thing speaks against a VM."""
    names = st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=most)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: choices[name] for name in chosen}))


CALM = Reading(False, 8 * 86400.0)
AMPLE = Machine(16, 256 * GIB, 200 * GIB, 500 * GIB, up_seconds=8 * 86400.0)
READINGS = st.just(CALM) | _some(_READING, 3).map(lambda fields: msgspec.structs.replace(CALM, **fields))
USED = st.builds(Reading, st.just(True), SECONDS)
"""Somebody is logged in, and all else is known."""
MACHINES = st.just(AMPLE) | _some(_MACHINE, 3).map(lambda fields: msgspec.structs.replace(AMPLE, **fields))
LOCALS = st.builds(
    lambda at, zone: at.replace(tzinfo=UTC).astimezone(zone),
    st.datetimes(datetime.fromisoformat("2026-03-01"), datetime.fromisoformat("2026-04-02")),
    st.sampled_from(ZONES),
)
WISHES = st.none() | st.builds(
    Wish, st.sampled_from(Ask), st.just("owner"), st.just(NOW), st.none() | st.just(NOW + timedelta(days=10))
)
WAITS = st.just(Waits()) | st.builds(
    Waits, SECONDS | st.none(), SECONDS | st.none(), st.booleans(), st.floats(0, 1, exclude_max=True)
)
FACTS = st.builds(
    Facts, READINGS | USED, MACHINES, LOCALS, st.just(()), st.one_of(st.none(), st.none(), st.none(), WISHES), WAITS
)
LOADS = st.lists(st.tuples(st.sampled_from([None, 0.1, 0.4, 0.6, 0.9]), st.floats(1, 40)), max_size=8)
"""Shares of the processors that others used, and for how many seconds."""

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "zone": st.sampled_from(["", "Europe/Berlin"]),
    "closed": st.lists(HOURS, max_size=2).map(tuple),
    "closed_nobody": st.lists(HOURS, max_size=2).map(tuple),
    "days_off": st.lists(DATES, max_size=3).map(tuple),
    "days_closed": st.lists(DATES, max_size=3).map(tuple),
    "quiet_programs": st.lists(PROGRAMS, max_size=2).map(tuple),
}


def _value(name: str) -> st.SearchStrategy[Any]:
    if name in _VALUES:
        return _VALUES[name]
    if name.endswith(("_bytes", "_bytes_per_second")):
        return st.integers(1 << 20, 64 * GIB)
    if name.endswith("_seconds"):
        return SECONDS
    if name.startswith("max_vms"):
        return st.integers(0, 8)
    if name == "cpu_share_in_use":
        return st.sampled_from([0.0, 0.1, 0.5])
    if name.endswith("_percent") or name == "memory_pressure_max":
        return st.floats(0, 100)
    default = getattr(Policy(), name)
    return st.booleans() if isinstance(default, bool) else st.floats(0, 1)


VALUES = _some({row.name: _value(row.name) for row in ROWS}, 5)
LAYER_SETS = st.lists(st.sampled_from(LAYERS[1:]), unique=True).flatmap(
    lambda names: st.tuples(*(st.builds(Layer, st.just(name), st.just(name), VALUES) for name in names))
)


def loaded(facts: Facts, policy: Policy, loads: list[tuple[float | None, float]]) -> Facts:
    """The same facts after a history of others' load, as an agent with this policy would remember it."""
    pace, now = Pace(), NOW
    for share, seconds in loads:
        for _ in range(int(seconds) + 1):
            pace = load_seen(pace, policy, msgspec.structs.replace(facts.machine, others_cpu=share), now)
            now += timedelta(seconds=1)
    return msgspec.structs.replace(facts, waits=msgspec.structs.replace(facts.waits, loaded=pace.loaded))
