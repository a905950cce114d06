"""What desktops say that they are made of: kept before it is answered, for the whole fleet, over restarts."""

import asyncio
from pathlib import Path

import msgspec

from deskgrid.coordinator import explain
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import inventories
from deskgrid.coordinator.state.inventories import FleetKind
from deskgrid.model.inventory import Inventory, Trial, Verdict, Virtualisation
from deskgrid.wire.operator import DesktopInventory

from .values import START, Clock, Desk, member, office

GOOD = Inventory(
    system="Debian GNU/Linux 13 (trixie)",
    maker="Dell Inc.",
    product="OptiPlex 7090",
    virtualisation=Virtualisation.ON,
    trials=(Trial("kvm", Verdict.WORKS, 120, "a guest ran on it in 120 ms"), Trial("tcg", Verdict.WORKS, 300)),
    qemu="10.0.2",
)
OFF = msgspec.structs.replace(GOOD, virtualisation=Virtualisation.OFF, trials=GOOD.trials[1:], problems=("cpu", "kvm"))


def test_an_inventory_is_recorded_when_its_report_is_answered_and_shown_with_the_desktop(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            await here.enrol("desk-1")
            desk = Desk(here)
            await desk.say()
            assert here.part.inventories.get("desk-1") is None
            await desk.say(inventory=GOOD)
            assert await here.part.recorder.call(queries.inventories) == [DesktopInventory("desk-1", START, GOOD)]
            await desk.say()
            member = here.part.members["desk-1"]
            assert explain.desktop(here.part, member, whole=True).inventory == DesktopInventory("desk-1", START, GOOD)
            assert explain.desktop(here.part, member).inventory is None

    asyncio.run(story())


def test_it_is_still_known_after_a_restart_and_a_changed_one_takes_its_place(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Clock()
        async with office(tmp_path, clock) as here:
            await here.enrol("desk-1")
            await Desk(here).say(inventory=OFF)
        clock.pass_by(60)
        async with office(tmp_path, clock) as here:
            known = here.part.inventories.get("desk-1")
            assert known is not None and known.inventory == OFF
            await Desk(here, incarnation="second").say(inventory=GOOD)
            (kept,) = await here.part.recorder.call(queries.inventories)
            assert (kept.at, kept.inventory) == (clock(), GOOD)

    asyncio.run(story())


def test_one_that_differs_only_in_how_fast_a_trial_was_is_not_written_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            await here.enrol("desk-1")
            desk = Desk(here)
            await desk.say(inventory=GOOD)
            here.clock.pass_by(60)
            trials = (Trial("kvm", Verdict.WORKS, 99, "a guest ran on it in 99 ms"), GOOD.trials[1])
            await desk.say(inventory=msgspec.structs.replace(GOOD, trials=trials, disk_free_gib=7))
            (kept,) = await here.part.recorder.call(queries.inventories)
            assert kept.at == START

    asyncio.run(story())


def test_many_at_once_are_all_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            desks = []
            for number in range(20):
                await here.enrol(f"desk-{number}")
                desks.append(Desk(here, f"desk-{number}"))
            await asyncio.gather(*(desk.say(inventory=GOOD) for desk in desks))
            assert len(await here.part.recorder.call(queries.inventories)) == 20

    asyncio.run(story())


def test_what_another_version_wrote_and_this_one_can_not_read_is_left_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            await here.enrol("desk-1")
            await Desk(here).say(inventory=GOOD)
            await here.part.recorder.call(lambda c: c.execute(inventories.update().values(content="{[")))
            assert await here.part.recorder.call(queries.inventories) == []

    asyncio.run(story())


def test_the_fleets_table_counts_by_product_and_virtualisation_and_leaves_out_who_has_left(tmp_path: Path) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            for number, said in enumerate((GOOD, GOOD, OFF, OFF, OFF, None, GOOD)):
                await here.enrol(f"desk-{number}")
                await Desk(here, f"desk-{number}").say(inventory=said)
            left = here.part.members["desk-6"]
            here.part.members["desk-6"] = msgspec.structs.replace(left, revoked_at=START, revoked_reason="sold")
            found = explain.inventory(here.part)
            assert found.kinds == (
                FleetKind("Dell Inc. OptiPlex 7090", Virtualisation.OFF, 3, {"tcg": 3}, {"cpu": 3, "kvm": 3}),
                FleetKind("Dell Inc. OptiPlex 7090", Virtualisation.ON, 2, {"kvm": 2, "tcg": 2}, {}),
            )
            assert [one.desktop for one in found.desktops] == [f"desk-{number}" for number in range(5)]
            assert found.silent == 1

    asyncio.run(story())


def test_one_that_changes_with_each_report_is_written_now_and_then_and_known_all_the_same(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            desk, written = await member(here), []
            call = here.part.recorder.call

            async def counted(ask):
                written.append(ask)
                return await call(ask)

            here.part.recorder.call = counted
            changing = [msgspec.structs.replace(GOOD, kernel=f"6.{n}") for n in range(50)]
            for one in changing:
                await desk.say(inventory=one)
            assert len(written) <= 10
            known = here.part.inventories
            assert known.get("desk-1").inventory == known.all()[0].inventory == changing[-1]
            await known.write(here.part.recorder)
            (kept,) = await call(queries.inventories)
            assert kept.inventory == changing[-1]

    asyncio.run(play())
