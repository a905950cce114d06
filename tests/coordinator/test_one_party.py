"""A lie costs its teller, never somebody else: one desktop, one job, one report against the whole."""

import asyncio
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from deskgrid.coordinator import explain
from deskgrid.coordinator.db import database as db
from deskgrid.coordinator.db.queries import STORY_LINES
from deskgrid.coordinator.db.story_rights import REPORT_LINES
from deskgrid.core.fleet.why import why_job
from deskgrid.model.desktop import Availability, Room, Transition, VmState
from deskgrid.model.inventory import Inventory
from deskgrid.model.reason import Reason

from .values import IMAGE, Desk, Office, member, office, ordered, started

pytestmark = pytest.mark.slow

ENDLESS = Room(cpus=10**9, memory_bytes=1 << 60, disk_bytes=1 << 60, vms=10**9)


async def honest(here: Office, desk: Desk) -> bool:
    """It does as it is told. Returns: whether it was given a machine."""
    given = False
    for order in (await desk.say(images=(IMAGE,))).orders:
        if order.lease.vm_id not in desk.vms:
            given = True
            desk.shows(order.lease)
            await desk.say(images=(IMAGE,))
            here.pool.join(order.lease.vm_id, IMAGE.name, desk.name)
    return given


def test_a_desktop_with_endless_room_that_gives_nothing_does_not_stop_an_honest_one(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            liar, desk = await member(here, "liar"), await member(here, "z-honest")
            liar.availability = Availability(True, idle_seconds=1e9, logged_in=False)
            await here.offer()
            given = 0
            for _ in range(200):
                here.pool.submit(IMAGE.name, 1)
                for order in (await liar.say(images=(IMAGE,), room=ENDLESS)).orders:
                    if order.lease.vm_id not in liar.vms:
                        liar.shows(order.lease, VmState.PAUSED)
                if await honest(here, desk):
                    given += 1
                elif desk.vms:
                    (vm_id,) = desk.vms
                    here.pool.leave(vm_id)
                    await desk.say(ended=(desk.ends(vm_id),), images=(IMAGE,))
                await here.cycle(30.0)
            assert given > 50
            assert len(here.part.ledger.of("liar")) <= here.part.settings.plan.desktop_starting

    asyncio.run(play())


def test_a_job_that_no_machine_gets_does_not_start_machines_for_ever_and_why_says_so(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await here.offer()
            (job,) = here.pool.submit(IMAGE.name, 1, memory_mb=900)
            begun: list[str] = []
            for _ in range(720):  # an hour
                for order in (await desk.say()).orders:
                    if order.lease.vm_id not in desk.vms:
                        begun.append(order.lease.vm_id)
                        desk.shows(order.lease)
                        await desk.say()
                        here.pool.join(order.lease.vm_id, IMAGE.name, desk.name, memory_mb=800)  # less than promised
                        left = 20
                if desk.vms and (left := left - 1) == 0:  # unused for 100 s: it leaves
                    here.pool.leave(begun[-1])
                    await desk.say(ended=(desk.ends(begun[-1]),))
                await here.cycle(5.0)
            assert 3 <= len(begun) <= 7
            known = here.pool.job(job)
            assert known is not None
            assert why_job(known, here.part.view).reason.name == "passed-over"
            here.pool.submit(IMAGE.name, 1, memory_mb=256)  # somebody else's job does not wait with it
            assert await ordered(here, desk)

    asyncio.run(play())


def test_no_more_room_counts_than_the_inventory_says(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await desk.say(room=ENDLESS, cpus=10**6, inventory=Inventory(cpus=4))
            (there,) = here.part.desktops()
            assert there.cpus == 4

    asyncio.run(play())


async def lines_of(here: Office) -> int:
    await here.part.recorder.flush()
    return await here.part.recorder.call(lambda c: c.execute(sa.select(sa.func.count(db.story.c.id))).scalar() or 0)


def test_stories_of_foreign_machines_never_reach_the_database_and_are_not_told_again(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            other = await member(here, "desk-2")
            before = await lines_of(here)
            told = await other.say(story=(other.line(lease.vm_id, "x"), other.line("vm-none", "x")))
            assert told.story_count == 2
            assert not here.part.ledger.changes.wait
            assert await lines_of(here) == before
            await desk.say(story=(desk.line(lease.vm_id, "x"),))
            assert await lines_of(here) == before + 1

    asyncio.run(play())


def test_a_story_is_bounded_and_so_is_what_one_report_may_tell(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            at = here.clock()
            many = tuple(Transition(lease.vm_id, at, "running", f"e{n}", "") for n in range(REPORT_LINES + 10))
            told = await desk.say(story=many)
            assert told.story_count == REPORT_LINES, "the rest is told again"
            for n in range(3):
                await desk.say(story=tuple(msgspec.structs.replace(line, state=f"s{n}") for line in many))
            assert await lines_of(here) <= STORY_LINES + 5

    asyncio.run(play())


def test_a_story_that_is_told_again_and_again_while_the_database_refuses_waits_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            await here.part.recorder.flush()
            changes, line = here.part.ledger.changes, desk.line(lease.vm_id, "started")
            for _ in range(1000):
                changes.retell("desk-1", [line], 0.0, here.clock())
            assert len(changes.take().lines) == 1

    asyncio.run(play())


def test_a_desktop_tells_the_end_of_a_machine_that_ended_before_the_coordinator_was_started_again(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await desk.say(ended=(desk.ends(lease.vm_id),))
        async with office(tmp_path, here.clock) as later:
            here.clock.pass_by(86400.0)
            await Desk(later, incarnation="second").say(story=(desk.line(lease.vm_id, "told late"),))
            assert "told late" in await later.story(lease.vm_id)

    asyncio.run(play())


def test_the_plan_knows_members_only(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            desk, gone = await member(here), await member(here, "gone")
            await here.offer()
            await gone.say()
            here.part.members["gone"] = msgspec.structs.replace(
                here.part.members["gone"], revoked_at=here.clock(), revoked_reason="sold"
            )
            await gone.say()  # a report that was under way
            await desk.say()
            assert [one.name for one in here.part.desktops()] == ["desk-1"]
            here.pool.submit(IMAGE.name, 5)
            await here.cycle()
            assert here.part.view.snapshot is not None
            assert [one.name for one in here.part.view.snapshot.desktops] == ["desk-1"]

    asyncio.run(play())


def test_a_name_of_an_accelerator_that_is_cleaned_is_written_once(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease, accelerator="k\x01vm")
            await desk.say()
            await here.part.recorder.flush()
            await desk.say()
            assert not here.part.ledger.changes.wait
            assert (await here.lease(lease.vm_id)).accelerator == "k vm"

    asyncio.run(play())


def test_reasons_of_any_length_are_kept_as_far_as_a_person_reads(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            long = Reason("n" * 100_000, "s" * 100_000, "r" * 100_000)
            desk.shows(lease, reason=long)
            desk.availability = Availability(False, (long,) * 3)
            await desk.say()
            known = here.part.fleet.get(desk.name)
            assert known is not None and len(msgspec.json.encode(known.report)) < 10_000
            member = here.part.members[desk.name]
            assert len(msgspec.json.encode(explain.desktop(here.part, member))) < 10_000

    asyncio.run(play())
