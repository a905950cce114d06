"""Reports and orders: what a desktop says and is told, whatever gets lost, comes twice or comes late."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from deskgrid.coordinator.state.fleet import AnotherAgent
from deskgrid.model.desktop import Fault, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Answer

from .values import BUSY, START, Clock, Desk, Office, member, office, started

HELD_SECONDS, AT_ONCE_SECONDS = 30.0, 25.0


def test_a_job_that_names_an_image_becomes_an_order_with_all_that_its_vm_needs(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            order = (await desk.say()).orders[0]
            assert order.instance is not None
            assert (order.instance.vm_id, order.instance.vm_name) == (lease.vm_id, "its-sl6")
            assert order.instance.token in here.pool.tokens
            assert (order.instance.cpus, order.instance.memory_mb) == (1, 1024)
            assert lease.until == lease.granted_at + timedelta(seconds=300)
            assert lease.reason.name == "demand"

    asyncio.run(story())


def test_an_answer_that_was_lost_is_said_again_with_the_same_vm_and_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (_, desk, lease):
            first, second = await desk.say(), await desk.say()
            assert first.orders == second.orders
            assert [order.lease.vm_id for order in second.orders] == [lease.vm_id]

    asyncio.run(story())


def test_the_token_is_said_no_more_once_the_desktop_shows_the_vm(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease, VmState.FETCHING)
            (order,) = (await desk.say()).orders
            assert order.instance is None
            live = here.part.ledger.get(lease.vm_id)
            assert live is not None
            assert live.token is None

    asyncio.run(story())


def test_a_repeated_report_changes_nothing_and_is_answered_with_the_current_orders(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            report = desk.report()
            await desk.send(report)
            desk.availability = BUSY
            await desk.say()
            again = await desk.send(report)
            assert [order.lease.vm_id for order in again.orders] == [lease.vm_id]
            assert again.to == report.sequence
            known = here.part.fleet.get("desk-1")
            assert known is not None
            assert known.report.availability == BUSY

    asyncio.run(story())


def test_a_late_report_without_the_vm_does_not_end_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            late = desk.report()
            desk.shows(lease)
            await desk.say()
            await desk.send(late)
            assert here.part.ledger.get(lease.vm_id) is not None

    asyncio.run(story())


def test_a_second_agent_on_the_same_desktop_supersedes_the_first_which_is_then_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            first = await member(here)
            second = Desk(here, "desk-1", "second")
            await first.say()
            await second.say()
            with pytest.raises(AnotherAgent, match="Another agent reports as desk-1"):
                await first.say()
            await second.say()

    asyncio.run(story())


def test_an_agent_that_comes_back_without_its_vm_ends_its_lease(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            again = Desk(here, "desk-1", "second")
            assert (await again.say(availability=BUSY)).orders == ()
            await here.part.recorder.flush()
            record = await here.lease(lease.vm_id)
            assert record.end is not None
            assert (record.end.name, record.fault) == ("vanished", Fault.DESKTOP)

    asyncio.run(story())


def test_each_report_that_shows_a_vm_extends_its_lease_and_is_rarely_recorded(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await here.part.recorder.flush()
            for _ in range(4):
                here.clock.pass_by(30)
                (order,) = (await desk.say()).orders
                assert order.lease.until == here.clock() + timedelta(seconds=300)
                assert not here.part.ledger.changes.wait
            here.clock.pass_by(60)
            await desk.say()
            assert here.part.ledger.changes.wait

    asyncio.run(story())


def test_a_token_is_renewed_at_half_its_life_and_again_while_its_lease_holds(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            assert (await desk.say()).orders[0].token == ""
            here.pool.join(lease.vm_id, lease.image.name, "desk-1")
            half = here.part.settings.guest.token_seconds / 2
            tokens = []
            for _ in range(3):
                for _ in range(int(half / 60) + 1):
                    await here.cycle(60)
                    (order,) = (await desk.say()).orders
                tokens.append(order.token)
                assert here.pool.tokens[order.token] > here.clock() + timedelta(seconds=half - 60)
                assert order.token not in repr(order)
            assert len({*tokens}) == 3
            desk.ends(lease.vm_id)

    asyncio.run(story())


def test_a_vm_that_was_withdrawn_gets_no_new_token(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            here.part.ledger.withdraw(lease.vm_id, lease.reason, here.clock())
            before = len(here.pool.tokens)
            for _ in range(40):
                await here.cycle(60)
                await desk.say()
            assert len(here.pool.tokens) == before

    asyncio.run(story())


def test_after_a_restart_a_running_vm_has_a_new_token_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (_, desk, lease):
            vm = desk.shows(lease)
            await desk.say()
        async with office(tmp_path) as again:
            desk = Desk(again, incarnation="first")
            desk.vms[lease.vm_id], desk.sequence = vm, 100
            await desk.say()
            await again.cycle()
            (order,) = (await desk.say()).orders
            assert order.token in again.pool.tokens

    asyncio.run(story())


def test_a_vm_that_no_lease_covers_is_not_ordered(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (_, desk, lease):
            desk.shows(msgspec.structs.replace(lease, vm_id="vm-foreign"))
            named = [order.lease.vm_id for order in (await desk.say()).orders]
            assert "vm-foreign" not in named

    asyncio.run(story())


def test_an_ended_vm_is_recorded_then_acknowledged_and_acknowledged_again_when_the_answer_was_lost(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            ended = (desk.ends(lease.vm_id, fault=Fault.IMAGE),)
            first = await desk.say(ended=ended)
            record = await here.lease(lease.vm_id)
            assert record.ended_at == here.clock()
            assert (record.end, record.fault) == (Reason("owner-active", "Somebody came back."), Fault.IMAGE)
            second = await desk.say(ended=ended)
            assert first.acknowledged == second.acknowledged == (lease.vm_id,)
            assert first.orders == second.orders == ()

    asyncio.run(story())


def test_a_desktop_cannot_end_or_tell_stories_of_another_ones_vm(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            shown = desk.shows(lease)
            await desk.say()
            other = await member(here, "desk-2")
            told = await other.say(ended=(shown,), story=(other.line(lease.vm_id, "hijacked"),))
            assert told.story_count == 1  # heard, so that it is not said for ever
            assert here.part.ledger.get(lease.vm_id) is not None
            assert "hijacked" not in await here.story(lease.vm_id)

    asyncio.run(story())


def test_a_story_that_is_told_twice_is_recorded_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            lines = (desk.line(lease.vm_id, "fetched"), desk.line(lease.vm_id, "started"))
            assert (await desk.say(story=lines)).story_count == 2
            assert (await desk.say(story=(*lines, desk.line(lease.vm_id, "alive")))).story_count == 3
            assert (await here.story(lease.vm_id)) == ["granted", "ordered", "fetched", "started", "alive"]

    asyncio.run(story())


@pytest.mark.parametrize("wrong_seconds", [3600.0, -3600.0])
def test_a_clock_that_is_wrong_by_an_hour_breaks_nothing_and_is_told(tmp_path: Path, wrong_seconds: float) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.clock_seconds = wrong_seconds
            desk.shows(lease, since=here.clock() + timedelta(seconds=wrong_seconds))
            (order,) = (await desk.say(story=(desk.line(lease.vm_id, "started"),))).orders
            assert order.lease.until == here.clock() + timedelta(seconds=300)
            known = here.part.fleet.get("desk-1")
            assert known is not None
            assert [warning.name for warning in known.warnings()] == ["clock-wrong"]
            await here.cycle()
            assert here.part.ledger.get(lease.vm_id) is not None
            assert await here.story(lease.vm_id) == ["granted", "ordered", "started"]  # in the true order

    asyncio.run(story())


def test_times_and_text_that_no_database_would_take_do_not_stop_the_recording(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            early = msgspec.json.decode(b'"0001-01-01T00:00:00+14:00"', type=type(START))
            line = msgspec.structs.replace(desk.line(lease.vm_id, "a\x00b\x1b[31m"), at=early, sentence="x" * 100_000)
            assert (await desk.say(story=(line,))).story_count == 1
            assert (await here.story(lease.vm_id))[-1] == "a b [31m"

    asyncio.run(story())


def test_unknown_fields_of_a_report_are_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            report = desk.report()
            raw = msgspec.json.decode(msgspec.json.encode(report))
            raw["gpu"] = {"count": 2}
            raw["room"]["gpus"] = 2
            here.part.fleet.take("desk-1", report, msgspec.json.encode(raw), here.clock())
            known = here.part.fleet.get("desk-1")
            assert known is not None
            assert known.unknown_fields() == {"gpu": {"count": 2}, "room": {"gpus": 2}}

    asyncio.run(story())


async def holding(here: Office, desk: Desk) -> "asyncio.Task[Answer]":
    """A report that is held."""
    held = asyncio.create_task(desk.say(wait_seconds=HELD_SECONDS))
    until = time.monotonic() + AT_ONCE_SECONDS
    while not len(here.part.long_polls):
        assert time.monotonic() < until and not held.done()
        await asyncio.sleep(0.01)
    return held


def test_a_report_with_nothing_new_is_held_and_answered_at_once_when_there_is_an_order(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await here.offer()
            held = await holding(here, desk)
            here.pool.submit("its-sl6")
            for _ in range(3):
                await here.cycle()
            told = await asyncio.wait_for(held, AT_ONCE_SECONDS)
            assert len(told.orders) == 1

    asyncio.run(story())


def test_a_newer_report_lets_the_held_one_go(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            held = await holding(here, desk)
            await desk.say()
            assert (await asyncio.wait_for(held, AT_ONCE_SECONDS)).to == 1
            assert len(here.part.long_polls) == 0

    asyncio.run(story())


def test_held_reports_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    async def story() -> None:
        few = lambda chosen: msgspec.structs.replace(chosen, max_held=2, hold_seconds=1.0)  # noqa: E731
        async with office(tmp_path, change=few) as here:
            desks = [await member(here, f"desk-{i}") for i in range(3)]
            asked = [asyncio.create_task(desk.say(wait_seconds=HELD_SECONDS)) for desk in desks]
            (refused,), held = await asyncio.wait(asked, timeout=AT_ONCE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            assert refused.result().next_report_seconds == here.part.settings.report_seconds
            for one in held:
                told = await asyncio.wait_for(one, AT_ONCE_SECONDS)
                assert told.next_report_seconds == 0.0  # it may be held again at once

    asyncio.run(story())


def test_a_busy_desktop_without_vms_is_not_held(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            desk.availability = BUSY
            told = await asyncio.wait_for(desk.say(wait_seconds=HELD_SECONDS), AT_ONCE_SECONDS)
            assert told.next_report_seconds == here.part.settings.report_seconds

    asyncio.run(story())


def test_all_held_reports_are_answered_when_the_coordinator_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            held = await holding(here, desk)
            here.part.long_polls.close()
            assert (await asyncio.wait_for(held, AT_ONCE_SECONDS)).orders == ()
            assert (await asyncio.wait_for(desk.say(wait_seconds=HELD_SECONDS), AT_ONCE_SECONDS)).orders == ()

    asyncio.run(story())


def test_an_order_says_an_image_by_its_digest(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (_, _, lease):
            assert lease.image == ImageRef("its-sl6", "a" * 64)

    asyncio.run(story())


def test_the_clock_of_these_tests_stands_still() -> None:
    assert Clock()() == START


def test_a_report_that_was_long_on_its_way_does_not_make_its_desktops_clock_look_late(tmp_path: Path) -> None:
    async def story() -> None:
        async with started(tmp_path) as (here, desk, _):
            await desk.say()
            late = desk.report()
            here.clock.pass_by(40)
            await desk.send(late)
            known = here.part.fleet.get(desk.name)
            assert known is not None
            assert known.skew_seconds == 0
            assert known.warnings() == ()

    asyncio.run(story())
