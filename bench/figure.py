"""Figures: what is measured, the goals, how a figure is told. Pure.

Rules:
- One catalogue says every figure's name, unit and goal; names are stable, since programs read them.
- A figure without a value has a reason, never a guess. Its value is the median of its runs, unless its name says p99.
- Goals are printed beside, and judged for the reader's eye only: a busy machine is no fault of the code.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

ELSEWHERE = "measured by a fresh run, see docs/measurements.md"


class Load(msgspec.Struct, frozen=True):
    """How busy the machine was just before, by others. average: load of the last minute; it lags behind.

    busy_percent: of all cores together, over the two seconds before. cores: how many there are.
    """

    average: float
    busy_percent: float
    cores: int


class Figure(msgspec.Struct, frozen=True):
    """One figure, as it stands in bench.json."""

    name: str
    value: float | None
    unit: str
    goal: str
    peer: str = ""
    peer_value: float | None = None
    runs: tuple[float, ...] = ()
    reason: str = ""
    note: str = ""
    load: Load | None = None


class Row(msgspec.Struct, frozen=True):
    """A row of the catalogue."""

    name: str
    unit: str
    goal: str = ""
    peer: str = ""


_DAEMONS = "HTCondor's execute daemons together"
CATALOGUE = (
    Row("submit_to_order_s", "s", "< 15"),
    Row("start_to_join_s", "s", "< 40"),
    Row("owner_to_pause_ms", "ms", "< 250"),
    Row("owner_to_gone_ms", "ms", "< 3000"),
    Row("evict_to_idle_s", "s", "< 3"),
    Row("idle_to_rerun_s", "s", "< 10"),
    Row("join_to_job_s", "s", "< 5"),
    Row("owner_to_pause_repeated_ms", "ms", "< 250"),
    Row("owner_to_gone_repeated_ms", "ms", "< 3000"),
    Row("owner_to_gone_stubborn_ms", "ms", "< 3000"),
    Row("input_to_stopped_p99_ms", "ms", "< 200"),
    Row("input_to_memory_back_p99_s", "s", "< 1"),
    Row("owner_beside_vm_slower_percent", "%", "< 5"),
    Row("owner_waits_for_agent_percent", "% of its time", "< 0.1"),
    Row("agent_beside_owner_cpu_percent", "% of a core", "< 0.2"),
    Row("agent_beside_owner_wakeups_per_s", "1/s", "<= 5"),
    Row("agent_rss_mb", "MB", "< 30", _DAEMONS),
    Row("agent_cpu_percent", "% of a core", "< 0.1", _DAEMONS),
    Row("agent_wakeups_per_s", "1/s", "<= 2", _DAEMONS),
    Row("agent_linux_rss_mb", "MB", "< 30", _DAEMONS),
    Row("agent_linux_cpu_percent", "% of a core", "< 0.1", _DAEMONS),
    Row("agent_linux_wakeups_per_s", "1/s", "<= 2", _DAEMONS),
    Row("agent_killed_to_no_vm_s", "s", "< 5"),
    Row("plaintext_canaries_found", "", "<= 0"),
    Row("vm_page_cache_grown_mb", "MB", "< 64"),
    Row("coordinator_reports_per_s", "1/s", "", "condor_collector, updates"),
    Row("coordinator_reports_per_cpu_s", "1/CPU s", "", "condor_collector, updates"),
    Row("image_delta_mb", "MB", "< peer", "the least of zchunk, casync and zstd"),
    Row("image_delta_s", "s", "< peer", "the quickest of zchunk, casync and zstd"),
    Row("image_publish_mb_per_s", "MB/CPU s", "> 80"),
    Row("image_read_in_order_mb_per_s", "MB/CPU s", "> 400"),
    Row("image_read_random_mb_per_s", "MB/CPU s", "> 100"),
    Row("image_store_process_mb", "MB", "< 96"),
    Row("image_boot_ratio", "", "< 1.05", "the same boot from a plain qcow2 is 1"),
    Row("image_first_job_read_percent", "% of the image as zstd", "< 15"),
    Row("image_cold_start_ratio", "", "< 0.4", "download, then boot is 1"),
    Row("make_demo_fresh_s", "s", "< 720"),
    Row("make_demo_again_s", "s", "< 240"),
    Row("make_test_s", "s", "< 3600"),
)
_ROWS = {row.name: row for row in CATALOGUE}


def measured(
    name: str,
    runs: Sequence[float],
    *,
    of: Callable[[Sequence[float]], float] = statistics.median,
    peer_value: float | None = None,
    note: str = "",
    load: Load | None = None,
) -> Figure:
    """A figure from its runs; from none: without a value. of: what the figure is of its runs."""
    if not runs:
        return missing(name, "no run brought a value")
    row = _ROWS[name]
    kept = tuple(rounded(run) for run in runs)
    peer = None if peer_value is None else rounded(peer_value)
    return Figure(name, rounded(of(runs)), row.unit, row.goal, row.peer, peer, kept, "", note, load)


def p99(runs: Sequence[float]) -> float:
    """The 99th percentile by rank: the least run that is not less than 99 % of them; of up to 100 runs the greatest."""
    return sorted(runs)[math.ceil(0.99 * len(runs)) - 1]


def missing(name: str, reason: str, load: Load | None = None) -> Figure:
    """A figure that could not be measured, and why."""
    row = _ROWS[name]
    return Figure(name, None, row.unit, row.goal, row.peer, reason=reason, load=load)


def complete(figures: Iterable[Figure], reason: str = "not asked for in this run") -> tuple[Figure, ...]:
    """Every figure of the catalogue once, in its order; what is not there is missing for `reason`."""
    found = {figure.name: figure for figure in figures}
    return tuple(found.get(row.name) or missing(row.name, reason) for row in CATALOGUE)


def reached(goal: str, value: float | None, peer_value: float | None = None) -> bool | None:
    """Whether a value reaches a goal such as "< 250" or "< peer"; None when there is no goal, no value or no peer."""
    if not goal or value is None:
        return None
    sign, _, limit = goal.partition(" ")
    if limit == "peer":
        if peer_value is None:
            return None
        limit = str(peer_value)
    if sign not in ("<", "<=", ">"):
        raise ValueError(f"goal: got {goal!r}, expected '< number', '<= number' or '> number'")
    if sign == ">":
        return value > float(limit)
    return value < float(limit) or (sign == "<=" and value == float(limit))


def rounded(value: float) -> float:
    """Four significant digits are more than any of these figures deserves."""
    return float(f"{value:.4g}")


def spread(runs: Sequence[float]) -> str:
    """Least, greatest and number of the runs, for a table."""
    return f"{text(min(runs))} … {text(max(runs))} (n={len(runs)})" if len(runs) > 1 else ""


def text(value: float | None) -> str:
    """A value for a table."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def encode(figures: Sequence[Figure]) -> bytes:
    """The content of bench.json."""
    return msgspec.json.format(msgspec.json.encode(list(figures)), indent=2) + b"\n"
