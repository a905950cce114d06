"""A simulated campus: what holds at each step is asserted in `campus.py`; here, what came of it in the end."""

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from .campus import Campus, Scenario, Summary
from .clockwork import VirtualLoop

MONDAY = datetime(2026, 3, 23, 7, 0, tzinfo=UTC)
"""On its Sunday the clocks of Europe change."""
RESULT = Path(__file__).parents[2] / "build" / "campus.json"


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where that can be had: the simulated database is synced a hundred thousand times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


def play(scenario: Scenario, folder: Path) -> Summary:
    began = time.monotonic()
    gc.set_threshold(200_000, 50, 50)  # a world of long-lived values: looking for garbage would be a fifth of the time
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(MONDAY)) as runner:
        clock = runner.get_loop()
        summary = runner.run(Campus(scenario, folder, clock).run())
    summary.wall_seconds = round(time.monotonic() - began, 1)
    return summary


def keep(name: str, summary: Summary) -> None:
    """Add it to build/campus.json."""
    RESULT.parent.mkdir(exist_ok=True)
    known = msgspec.json.decode(RESULT.read_bytes()) if RESULT.exists() else {}
    known[name] = msgspec.to_builtins(summary)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(known)))
    print(f"{name}: {summary}")


def good(summary: Summary) -> None:
    assert summary.jobs_done == summary.jobs_submitted > 0
    assert summary.coordinator_restarts > 0
    assert summary.messages_lost > 0


# Both are marked real for their length: there they run without the measuring of coverage, which doubles it.


@pytest.mark.real
@pytest.mark.timeout(900)
def test_a_small_campus_does_its_work_in_three_days_and_nobody_is_disturbed(folder: Path) -> None:
    summary = play(Scenario(seed=1, desktops=30, days=3, jobs_a_day=120, cycle_seconds=90.0), folder)
    keep("small", summary)
    good(summary)


def full(days: int) -> Scenario:
    return Scenario(
        seed=2,
        desktops=200,
        days=days,
        jobs_a_day=150,
        job_hours=1.5,
        cycle_seconds=300.0,
        negotiate_seconds=300.0,
        slow_seconds=15.0,
        report_seconds=3600.0,
        hold_seconds=3600.0,
        restarts=12,
        power_cuts=60,
        agent_kills=200,
    )


@pytest.mark.real
@pytest.mark.timeout(900)
def test_a_campus_of_200_desktops_does_its_work_in_nine_days_and_nobody_is_disturbed(folder: Path) -> None:
    summary = play(full(days=9), folder)
    keep("full", summary)
    good(summary)


@pytest.mark.real
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_campus_of_200_desktops_does_its_work_in_thirty_days_and_nobody_is_disturbed(folder: Path) -> None:
    summary = play(full(days=30), folder)
    keep("long", summary)
    good(summary)
