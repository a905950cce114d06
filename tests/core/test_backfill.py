"""A backfill VM runs while no job waits, and makes way for jobs."""

import msgspec
import pytest

from deskgrid.core.fleet import backfill
from deskgrid.core.fleet.demand import offers
from deskgrid.core.fleet.health import Health
from deskgrid.core.fleet.plan import plan
from deskgrid.model.desktop import Desktop, Room, VmReport, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.plan import LiveLease, Plan, PlanSettings, Snapshot, Want
from deskgrid.model.policy import GIB

from .values import IMAGE, NOW, SMALL, WHY, desktop, facts, lease

BOINC = ImageRef("boinc", "c" * 64)
SETTINGS = PlanSettings(backfill="boinc", backfill_vms=2)
FULL = Room(cpus=0, memory_bytes=0, disk_bytes=GIB, vms=0)


def filled(name: str, vm_id: str = "vm-1", busy: bool = False) -> tuple[Desktop, LiveLease]:
    """A desktop that a backfill VM has filled."""
    its = msgspec.structs.replace(lease(vm_id, image=BOINC), desktop=name)
    shown = VmReport(vm_id, BOINC, SMALL, VmState.RUNNING, NOW, WHY)
    return msgspec.structs.replace(desktop(name), room=FULL, vms=(shown,)), LiveLease(its, NOW, busy=busy)


def snapshot(*desktops: Desktop, wants: tuple[Want, ...] | None = (), leases: tuple[LiveLease, ...] = ()) -> Snapshot:
    return Snapshot(desktops, leases, (facts(), facts(BOINC)), wants)


def planned(seen: Snapshot, settings: PlanSettings = SETTINGS) -> Plan:
    return plan(seen, settings, NOW)


def test_while_nothing_waits_idle_desktops_run_so_many_backfill_vms_and_say_so() -> None:
    made = planned(snapshot(desktop("a"), desktop("b"), desktop("c")))
    assert [(grant.image, grant.reason.name) for grant in made.grants] == [(BOINC, "backfill")] * 2
    assert made.grants[0].reason.sentence == "No job waits, so a runs boinc meanwhile."
    assert made.desktops["c"].name == "no-demand" and made.shortages == ()
    fewer = planned(snapshot(desktop("a", vms=1)))
    assert len(fewer.grants) == 1 and fewer.shortages == ()


def test_those_that_run_or_start_count() -> None:
    _, one = filled("a")
    made = planned(snapshot(desktop("b"), desktop("c"), leases=(one,)))
    assert len(made.grants) == 1
    _, two = filled("d", "vm-2")
    assert planned(snapshot(desktop("b"), leases=(one, two))).grants == ()


@pytest.mark.parametrize("wants", [None, (Want("its-sl6", SMALL, 0, 3),)])
def test_when_jobs_wait_or_nobody_knows_no_backfill_starts(wants: tuple[Want, ...] | None) -> None:
    assert planned(snapshot(desktop("a"), wants=wants)).grants == ()


def test_without_a_backfill_on_offer_or_a_size_that_it_fits_into_nothing_starts() -> None:
    assert planned(snapshot(desktop("a")), PlanSettings()).grants == ()
    assert planned(snapshot(desktop("a")), PlanSettings(backfill="gone")).grants == ()
    small = PlanSettings(backfill="boinc", sizes=(Size(1, GIB // 2),))
    assert planned(snapshot(desktop("a")), small).grants == ()


def test_a_job_that_finds_no_desktop_has_as_many_backfill_vms_ended_as_it_needs() -> None:
    (first, one), (second, two) = filled("a"), filled("b", "vm-2")
    made = planned(snapshot(first, second, wants=(Want("its-sl6", SMALL, 1, 1),), leases=(one, two)))
    assert (made.grants, made.make_way) == ((), ("vm-1",))
    both = planned(snapshot(first, second, wants=(Want("its-sl6", SMALL, 5, 5),), leases=(one, two)))
    assert both.make_way == ("vm-1", "vm-2")


def test_a_backfill_that_a_job_has_or_that_leaves_too_little_room_stays() -> None:
    home, busy = filled("a", busy=True)
    assert planned(snapshot(home, wants=(Want("its-sl6", SMALL, 1, 1),), leases=(busy,))).make_way == ()
    home, idle = filled("a")
    large = Want("its-sl6", Size(8, GIB), 1, 1)
    assert planned(snapshot(home, wants=(large,), leases=(idle,))).make_way == ()


def test_a_backfill_does_not_make_way_where_a_desktop_is_free_nor_for_what_is_not_short_of_desktops() -> None:
    home, idle = filled("a")
    free = planned(snapshot(home, desktop("b"), wants=(Want("its-sl6", SMALL, 1, 1),), leases=(idle,)))
    assert len(free.grants) == 1 and free.make_way == ()
    unknown = planned(snapshot(home, wants=(Want("gone", SMALL, 1, 1),), leases=(idle,)))
    assert unknown.make_way == ()


def test_what_a_desktop_could_start_is_offered_as_if_its_backfill_were_not_there() -> None:
    home, idle = filled("a")
    seen = snapshot(home, leases=(idle,))
    health = Health((), SETTINGS)
    assert offers(seen, SETTINGS, health, NOW) == ()
    spare = backfill.without(seen.desktops, backfill.idle(seen.leases, SETTINGS))
    assert {ad.image for ad in offers(msgspec.structs.replace(seen, desktops=spare), SETTINGS, health, NOW)} == {
        IMAGE.name,
        BOINC.name,
    }
