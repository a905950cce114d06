"""Cycles: what becomes of leases as time passes, VMs join and end, HTCondor is gone and comes back."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.model.desktop import Fault, VmState
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.pool import PoolSnapshot
from deskgrid.model.reason import Reason
from deskgrid.pool.contract import PoolRefused
from tests.pool.fake import FakePool
from tests.waiting import SOON_SECONDS

from .values import BUSY, FACTS, FULL, IMAGE, Clock, Desk, Office, member, office, ordered, started


async def forgotten(here: Office, vm_id: str) -> None:
    """Wait until the VM's ads have been taken away."""
    for _ in range(200):
        if vm_id not in here.part.ad_invalidation:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{vm_id} is still in the collector")


def test_a_vm_that_has_joined_and_works_is_recorded_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            await here.cycle()
            record = await here.lease(lease.vm_id)
            assert record.joined_at is not None
            assert record.claimed
            assert await here.story(lease.vm_id) == ["granted", "ordered", "joined", "claimed"]
            live = here.part.ledger.get(lease.vm_id)
            assert live is not None
            assert live.jobs == ("1.0",)

    asyncio.run(story())


def test_no_second_vm_is_started_for_a_job_whose_vm_is_on_its_way(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, _, _):
            other = await member(here, "desk-2")
            for _ in range(5):
                await other.say()
                await here.cycle()
            assert len(here.part.ledger.all()) == 1

    asyncio.run(story())


def test_the_ads_of_an_ended_vm_leave_the_collector_at_once_without_a_cycle(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            await here.cycle()
            await desk.say(ended=(desk.ends(lease.vm_id),))
            await forgotten(here, lease.vm_id)
            assert here.pool.snapshot().machines == ()
            await here.part.recorder.flush()
            assert (await here.lease(lease.vm_id)).forgotten_at is not None
            assert (await here.story(lease.vm_id))[-2:] == ["ended", "ads-withdrawn"]

    asyncio.run(story())


def test_taking_ads_away_is_tried_again_when_the_pool_fails(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            here.pool.faults.unreachable = True
            await desk.say(ended=(desk.ends(lease.vm_id),))
            await asyncio.sleep(0.05)
            assert lease.vm_id in here.part.ad_invalidation
            here.pool.faults.unreachable = False
            await forgotten(here, lease.vm_id)
            assert here.pool.snapshot().machines == ()

    asyncio.run(story())


def test_ads_that_were_not_taken_away_before_a_restart_are_taken_away_after_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            here.pool.faults.unreachable = True
            await desk.say(ended=(desk.ends(lease.vm_id),))
            pool, clock = here.pool, here.clock
        pool.faults.unreachable = False
        async with office(tmp_path, clock, pool) as again:
            await forgotten(again, lease.vm_id)
            assert pool.snapshot().machines == ()

    asyncio.run(story())


def test_an_ended_vm_that_shows_up_in_the_collector_again_is_taken_away_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await desk.say(ended=(desk.ends(lease.vm_id),))
            await forgotten(here, lease.vm_id)
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            desk.availability = BUSY
            await desk.say()
            await here.cycle()
            await forgotten(here, lease.vm_id)
            assert here.pool.snapshot().machines == ()

    asyncio.run(story())


def test_a_lease_of_a_silent_desktop_lapses_and_its_ads_go(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            await here.cycle()
            for _ in range(6):
                await here.cycle(60.0)
            await forgotten(here, lease.vm_id)
            record = await here.lease(lease.vm_id)
            assert record.end is not None
            assert (record.end.name, record.fault) == ("lapsed", Fault.NONE)
            assert here.pool.snapshot().machines == ()

    asyncio.run(story())


def test_a_desktop_that_never_shows_what_it_was_told_to_start_is_held_at_fault_and_backed_off_from(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            while here.part.ledger.get(lease.vm_id) is not None:
                await here.cycle(60.0)
            record = await here.lease(lease.vm_id)
            assert record.end is not None
            assert (record.end.name, record.fault) == ("never-started", Fault.DESKTOP)
            await desk.say()
            await here.cycle()
            plan = here.part.view.plan
            assert plan is not None
            assert plan.desktops["desk-1"].name == "desktop-backoff"

    asyncio.run(story())


def test_a_vm_that_is_up_and_never_joins_is_withdrawn_as_its_images_fault(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            for _ in range(17):
                await desk.say()
                await here.cycle(60.0)
            assert (await desk.say()).orders == ()
            await desk.say(ended=(desk.ends(lease.vm_id),))
            record = await here.lease(lease.vm_id)
            assert record.end is not None
            assert (record.end.name, record.fault) == ("never-joined", Fault.IMAGE)

    asyncio.run(story())


def test_a_vm_is_not_blamed_for_not_joining_while_htcondor_is_unknown(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            here.pool.faults.unreachable = True
            for _ in range(30):
                await desk.say()
                await here.cycle(60.0)
            assert [order.lease.vm_id for order in (await desk.say()).orders] == [lease.vm_id]

    asyncio.run(story())


def test_with_the_pool_unreachable_nothing_shrinks_and_nothing_is_granted(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path, jobs=5) as (here, desk, lease):
            desk.shows(lease)
            other = await member(here, "desk-2")
            here.pool.faults.unreachable = True
            for _ in range(20):
                await other.say()
                assert len((await desk.say()).orders) == 1
                await here.cycle(30.0)
            assert len(here.part.ledger.all()) == 1
            assert here.part.view.faults == ("fake pool: no answer",)
            plan = here.part.view.plan
            assert plan is not None
            assert plan.desktops["desk-2"].name == "demand-unknown"

    asyncio.run(story())


def test_a_collector_that_was_restarted_is_told_the_offline_ads_again_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path, jobs=2) as (here, desk, lease):
            desk.shows(lease)
            other = await member(here, "desk-2")
            other.availability = BUSY
            third = await member(here, "desk-3")
            await third.say()
            here.pool.restart_collector()
            await here.cycle()
            await here.cycle()
            assert here.pool.snapshot().matches is not None

    asyncio.run(story())


class Tokenless(FakePool):
    """A pool whose signing key can't be read."""

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        raise PoolRefused("no key")


def test_a_grant_without_a_pool_token_becomes_no_lease(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Clock()
        async with office(tmp_path, clock, Tokenless(clock)) as here:
            desk = await member(here)
            await here.offer()
            here.pool.submit(IMAGE.name)
            await desk.say()
            await here.cycle()
            await here.cycle()
            assert here.part.view.plan is not None
            assert len(here.part.view.plan.grants) == 1
            assert here.part.ledger.all() == ()
            assert here.part.view.faults == ("no key",)

    asyncio.run(story())


def test_offline_ads_say_what_the_fleet_could_start_and_are_withdrawn_when_it_could_not(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await here.offer()
            await desk.say()
            await here.cycle()
            assert [(ad.image, ad.size.cpus) for ad in here.part.view.ads] == [("its-sl6", 1)]
            desk.availability = BUSY
            await desk.say()
            await here.cycle()
            assert here.part.view.ads == ()

    asyncio.run(story())


def test_a_withdrawn_vm_is_ordered_no_more_and_ends_when_its_desktop_has_ended_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            assert here.part.ledger.withdraw(lease.vm_id, Reason("ended-by-operator", "No more."), here.clock())
            assert (await desk.say()).orders == ()
            assert here.part.ledger.get(lease.vm_id) is not None
            await desk.say(ended=(desk.ends(lease.vm_id, Reason("withdrawn", "Told so.")),))
            record = await here.lease(lease.vm_id)
            assert record.end is not None
            assert record.end.name == "ended-by-operator"

    asyncio.run(story())


def test_a_withdrawn_vm_that_was_never_shown_ends_with_the_next_report(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            here.part.ledger.withdraw(lease.vm_id, Reason("ended-by-operator", "No more."), here.clock())
            desk.availability = BUSY
            await desk.say()
            assert here.part.ledger.get(lease.vm_id) is None

    asyncio.run(story())


def test_a_coordinator_that_was_itself_away_does_not_hold_it_against_the_desktops(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await here.cycle(3600.0)
            assert here.part.ledger.get(lease.vm_id) is not None

    asyncio.run(story())


def test_a_restart_loses_no_desktop_no_lease_that_runs_and_no_record(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say(story=(desk.line(lease.vm_id, "started"),))
            pool, clock = here.pool, here.clock
        clock.pass_by(200)
        async with office(tmp_path, clock, pool) as again:
            assert set(again.part.members) == {"desk-1"}
            await again.cycle()
            desk.office = again
            (order,) = (await desk.say()).orders
            assert order.lease.vm_id == lease.vm_id
            assert order.instance is None
            assert await again.story(lease.vm_id) == ["granted", "ordered", "started"]

    asyncio.run(story())


def test_after_a_restart_a_lease_that_was_not_shown_gets_a_new_token_before_it_is_said(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            (before,) = (await desk.say()).orders
            pool, clock = here.pool, here.clock
        async with office(tmp_path, clock, pool) as again:
            desk.office = again
            await again.offer()
            assert (await desk.say()).orders == ()
            await again.cycle()
            (after,) = (await desk.say()).orders
            assert before.instance is not None
            assert after.instance is not None
            assert after.lease.vm_id == lease.vm_id
            assert after.instance.token != before.instance.token

    asyncio.run(story())


def test_a_restart_remembers_what_failed(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say(ended=(desk.ends(lease.vm_id, fault=Fault.IMAGE),))
            pool, clock = here.pool, here.clock
        async with office(tmp_path, clock, pool) as again:
            (outcome,) = again.part.ledger.outcomes.all(clock())
            assert (outcome.image, outcome.desktop, outcome.ok, outcome.fault) == (
                "its-sl6",
                "desk-1",
                False,
                Fault.IMAGE,
            )

    asyncio.run(story())


def test_an_owner_who_comes_back_is_no_failure(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say(ended=(desk.ends(lease.vm_id),))
            assert here.part.ledger.outcomes.all(here.clock()) == ()
            await ordered(here, desk)

    asyncio.run(story())


def test_a_database_that_is_full_gives_out_nothing_loses_nothing_and_goes_on_afterwards(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await here.offer()
            here.pool.submit(IMAGE.name)
            await desk.say()
            await here.cycle()
            here.pool.negotiate()
            await full(here, True)
            for number in range(50):
                here.part.ledger.changes.tell("vm-other", f"n{number}", "x" * 500, here.clock())
            with pytest.raises(sa.exc.OperationalError, match="full"):
                await here.cycles.run()
            assert (await desk.say()).orders == ()
            await full(here, False)
            await here.cycle()
            (order,) = (await desk.say()).orders
            assert (await here.lease(order.lease.vm_id)).lease.desktop == "desk-1"

    asyncio.run(story())


def test_an_end_that_cannot_be_recorded_is_not_acknowledged_and_not_lost(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await here.part.recorder.flush()
            await full(here, True)
            ended = (desk.ends(lease.vm_id),)
            lines = tuple(
                msgspec.structs.replace(desk.line(lease.vm_id, f"e{i}"), sentence="x" * 400) for i in range(200)
            )
            with pytest.raises(sa.exc.OperationalError, match="full"):
                await desk.say(ended=ended, story=lines)
            await full(here, False)
            told = await desk.say(ended=ended, story=lines)
            assert told.acknowledged == (lease.vm_id,)
            assert (await here.lease(lease.vm_id)).ended_at is not None
            assert len(await here.story(lease.vm_id)) >= 203

    asyncio.run(story())


async def full(here: Office, is_full: bool) -> None:
    """Let SQLite have no page more than it has, or as many as it likes. A real SQLITE_FULL."""
    await here.part.recorder.call(
        lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {1 if is_full else 1 << 30}").fetchall()
    )


class Sleepy(FakePool):
    """A pool that takes its time."""

    seconds = 0.2

    def snapshot(self) -> PoolSnapshot:
        time.sleep(self.seconds)
        return super().snapshot()


def test_a_pool_that_does_not_answer_in_time_is_unknown_and_leases_are_kept_meanwhile(tmp_path: Path) -> None:
    def hurried(chosen: CoordinatorSettings) -> CoordinatorSettings:
        return msgspec.structs.replace(chosen, pool_seconds=0.05)

    async def story() -> None:
        clock = Clock()
        pool = Sleepy(clock)
        async with office(tmp_path, clock, pool, hurried) as here:
            await here.cycles.run()
            assert here.part.view.faults == ("HTCondor has not answered for 0 s",)
            pool.seconds = 0.0
            until = time.monotonic() + SOON_SECONDS
            while here.part.view.faults and time.monotonic() < until:
                await here.cycles.run()
            assert here.part.view.faults == ()

    asyncio.run(story())


def test_a_vm_that_joined_and_failed_before_any_job_counts_against_its_image(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease, VmState.BOOTING)
            await desk.say()
            here.pool.remove("1.0")
            here.pool.join(lease.vm_id, IMAGE.name, "desk-1")
            await here.cycle()
            await desk.say(ended=(desk.ends(lease.vm_id, fault=Fault.IMAGE),))
            assert [o.ok for o in here.part.ledger.outcomes.all(here.clock())] == [True, False]

    asyncio.run(story())


def test_leases_of_a_desktop_that_reports_in_a_new_life_hold(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            again = Desk(here, "desk-1", "second")
            again.shows(lease)
            (order,) = (await again.say()).orders
            assert order.lease.vm_id == lease.vm_id
            assert order.lease.until == here.clock() + timedelta(seconds=300)

    asyncio.run(story())


def test_a_backfill_runs_while_no_job_waits_and_makes_way_for_one(tmp_path: Path) -> None:
    boinc = ImageFacts(ImageRef("boinc", "b" * 64), 1 << 30, 4 << 30)

    def with_backfill(chosen: CoordinatorSettings) -> CoordinatorSettings:
        return msgspec.structs.replace(chosen, plan=msgspec.structs.replace(chosen.plan, backfill="boinc"))

    async def story() -> None:
        async with office(tmp_path, change=with_backfill) as here:
            desk = await member(here)
            here.catalogue.offer(FACTS, boinc)
            await here.part.offering.refresh(here.clock(), 10.0)
            backfill = await ordered(here, desk)
            assert (backfill.image, backfill.reason.name) == (boinc.ref, "backfill")
            desk.shows(backfill)
            desk.room = msgspec.structs.replace(FULL, cpus=0)
            await desk.say()
            here.pool.submit(IMAGE.name, 1)
            for _ in range(4):
                await here.cycle()
                if not (await desk.say()).orders:
                    break
            assert (await desk.say(ended=(desk.ends(backfill.vm_id),))).orders == ()
            assert "withdrawn" in await here.story(backfill.vm_id)
            assert (await here.lease(backfill.vm_id)).end == Reason(
                "backfill-makes-way", "It ran only while no job waited; now one needs its desktop."
            )
            assert (await ordered(here, desk)).image == IMAGE

    asyncio.run(story())


class Broken(FakePool):
    """A pool whose driver fails at what HTCondor says, in a way that nobody has thought of."""

    broken = False

    def snapshot(self) -> PoolSnapshot:
        if self.broken:
            raise OverflowError("date value out of range")
        return super().snapshot()


@pytest.mark.parametrize("broken", [False, True])
def test_a_revoked_image_is_withdrawn_whatever_the_pool_says(tmp_path: Path, broken: bool) -> None:
    async def story() -> None:
        clock = Clock()
        pool = Broken(clock)
        async with office(tmp_path, clock, pool) as here:
            desk = await member(here)
            await here.offer()
            pool.submit(IMAGE.name)
            desk.shows(await ordered(here, desk))
            assert (await desk.say()).orders
            pool.broken = broken
            here.part.offering.revoked = {FACTS.ref.digest: "it steals"}
            await here.cycle()
            assert (await desk.say()).orders == ()
            assert any("OverflowError" in fault for fault in here.part.view.faults) == broken

    asyncio.run(story())


class Noting(FakePool):
    """A pool that notes which VMs it was to forget, and whether their tokens were to die."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.noted: list[tuple[str, bool]] = []

    def forget_vm(self, vm_id: str, token_dies: bool = True) -> None:
        self.noted.append((vm_id, token_dies))
        super().forget_vm(vm_id, token_dies)


def test_the_tokens_of_a_revoked_desktop_die_those_of_vms_that_ended_lately_too(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Clock()
        pool = Noting(clock)
        async with office(tmp_path, clock, pool) as here:
            desk = await member(here)
            await here.offer()
            pool.submit(IMAGE.name)
            lease = await ordered(here, desk)
            desk.shows(lease)
            await desk.say()
            await desk.say(ended=(desk.ends(lease.vm_id),))
            await forgotten(here, lease.vm_id)
            assert pool.noted == [(lease.vm_id, False)], "it lives out its half hour"
            here.part.members["desk-1"] = msgspec.structs.replace(here.part.members["desk-1"], revoked_at=clock())
            here.part.ledger.cut_off("desk-1", Reason("desktop-revoked", "It was sold."), clock())
            here.part.invalidate_ended()
            await forgotten(here, lease.vm_id)
            assert pool.noted[1:] == [(lease.vm_id, True)]

    asyncio.run(story())
