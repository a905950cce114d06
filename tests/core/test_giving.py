"""What desktops say of themselves moves nobody else; machines that jobs don't get are not started for them for ever."""

import msgspec

from deskgrid.core.fleet.demand import wants
from deskgrid.core.fleet.giving import BARREN, Giving, bounded, passed_over
from deskgrid.core.fleet.plan import plan
from deskgrid.model.desktop import Desktop, Fault, Room, VmReport, VmState
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import LiveLease, PlanSettings, Snapshot, Spent, Want
from deskgrid.model.policy import GIB
from deskgrid.model.pool import JobGroup, Match, PoolSnapshot

from .values import IMAGE, NOW, SMALL, WHY, after, desktop, facts, outcome

SETTINGS = PlanSettings()
ENDLESS = Room(10**9, 1 << 60, 1 << 60, 10**9)
GROUP = JobGroup("schedd", 7, IMAGE.name, 1, 128, 3)
LONG = {GROUP.key: after(-10_000)}


def endless(name: str, cpus: int = 0, memory_bytes: int = 0) -> Desktop:
    """A desktop that says it has room without end."""
    honest = desktop(name, idle_seconds=1e9, cpus=cpus, memory_bytes=memory_bytes, images=(IMAGE,))
    return msgspec.structs.replace(honest, room=ENDLESS)


def live(vm_id: str, on: str, age: float = 10.0, joined: float | None = None, claimed: bool = False) -> LiveLease:
    lease = Lease(vm_id, on, IMAGE, SMALL, after(-age), after(300), WHY)
    return LiveLease(lease, None if joined is None else after(-joined), claimed)


def spent(on: str, ended: float, joined: float | None = None, claimed: bool = False) -> Spent:
    return Spent(IMAGE.name, SMALL, on, after(-ended), None if joined is None else after(-joined), claimed)


def seen(*desktops: Desktop, leases=(), spent=(), vms: int = 20) -> Snapshot:
    wanted = (Want(IMAGE.name, SMALL, vms, vms),) if vms else ()
    return Snapshot(tuple(desktops), tuple(leases), (facts(),), wanted, (), tuple(spent))


def test_room_counts_up_to_what_the_desktop_is_made_of_less_what_it_has() -> None:
    mine = [live("vm-1", "liar"), live("vm-2", "liar")]
    shown = tuple(VmReport(one.lease.vm_id, IMAGE, SMALL, VmState.RUNNING, NOW, WHY) for one in mine)
    liar = msgspec.structs.replace(endless("liar", cpus=4, memory_bytes=8 * GIB), vms=shown)
    (there,) = bounded(seen(liar, leases=mine), SETTINGS)
    assert (there.room.cpus, there.room.memory_bytes, there.room.vms) == (2, 6 * GIB, SETTINGS.desktop_vms - 2)


def test_who_never_said_what_it_is_made_of_is_bounded_by_the_operators_number() -> None:
    (there,) = bounded(seen(endless("liar")), SETTINGS)
    assert (there.room.cpus, there.room.vms) == (ENDLESS.cpus, SETTINGS.desktop_vms)


def test_one_desktop_has_only_so_many_machines_on_their_way() -> None:
    leases, granted = [], 0
    for _ in range(20):
        made = plan(seen(endless("liar"), leases=leases), SETTINGS, NOW)
        for grant in made.grants:
            granted += 1
            leases.append(live(f"vm-{granted}", grant.desktop))
    assert granted == SETTINGS.desktop_starting


def test_who_holds_a_machine_that_never_came_gets_no_other_and_is_told_why() -> None:
    made = plan(seen(endless("liar"), leases=[live("vm-1", "liar", age=1000.0)]), SETTINGS, NOW)
    assert made.grants == ()
    assert made.desktops["liar"].name == "machine-overdue"


def test_a_desktop_whose_machines_never_had_a_job_is_tried_last_and_with_one() -> None:
    barren = [spent("liar", ended=100.0 * n) for n in range(1, BARREN + 1)]
    late = desktop("z-honest", idle_seconds=60.0, logged_in=True)
    made = plan(seen(endless("liar"), late, spent=barren, vms=1), SETTINGS, NOW)
    assert [grant.desktop for grant in made.grants] == ["z-honest"]
    made = plan(seen(endless("liar"), leases=[live("vm-1", "liar")], spent=barren), SETTINGS, NOW)
    assert made.grants == ()


def test_fewer_or_one_that_had_a_job_is_no_reason() -> None:
    few = [spent("d", ended=100.0 * n) for n in range(1, BARREN)]
    again = [spent("d", ended=50.0, joined=90.0, claimed=True), *(spent("d", ended=100.0 * n) for n in range(1, 9))]
    for past in (few, again):
        assert not Giving(past, (), SETTINGS, NOW).barren("d")
    many = [spent("d", ended=100.0 * n) for n in range(1, 9)]
    assert Giving(many, (), SETTINGS, NOW).barren("d")
    assert not Giving(many, [live("vm-1", "d", joined=5.0, claimed=True)], SETTINGS, NOW).barren("d")


def test_idle_for_a_year_is_no_better_than_idle_for_a_day() -> None:
    honest, liar = desktop("a", idle_seconds=86400.0), desktop("b", idle_seconds=3e7)
    made = plan(seen(honest, liar, vms=1), SETTINGS, NOW)
    assert [grant.desktop for grant in made.grants] == ["a"]


def over(leases=(), past=(), group: JobGroup = GROUP, since=LONG):
    return passed_over([group], since, seen(leases=leases, spent=past), SETTINGS, NOW).get(group.key)


def test_a_machine_that_came_and_was_not_given_to_the_jobs_that_waited_doubles_their_wait() -> None:
    one = over(past=[spent("d", ended=10.0, joined=100.0)])
    assert one is not None and one.waits
    assert one.reason.until == after(-100.0 + SETTINGS.settle_seconds + SETTINGS.backoff_seconds)
    two = over(past=[spent("d", ended=10.0, joined=100.0), spent("d", ended=10.0, joined=500.0)])
    assert two is not None and two.reason.until == after(-40.0 + 2 * SETTINGS.backoff_seconds)
    assert two.reason.sentence.startswith("2 virtual machines of its-sl6")


def test_one_that_is_there_still_counts_too_and_the_wait_ends() -> None:
    there = over(leases=[live("vm-1", "d", joined=130.0)])
    assert there is not None and not there.waits
    assert over(leases=[live("vm-1", "d", joined=61.0)]).waits


def test_what_passed_nobody_over_does_not_count() -> None:
    passed = spent("d", ended=10.0, joined=100.0)
    assert over() is None
    assert over(past=[passed], since={}) is None, "the jobs have just come"
    assert over(past=[passed], since={GROUP.key: after(-50.0)}) is None, "they came when it was nearly gone"
    assert over(past=[spent("d", ended=10.0)]) is None, "it was never in the pool"
    assert over(past=[spent("d", ended=70.0, joined=100.0)]) is None, "an owner ended it at once"
    assert over(leases=[live("vm-1", "d", joined=30.0)]) is None, "HTCondor has not negotiated yet"
    assert over(leases=[live("vm-1", "d")]) is None, "it is on its way"
    assert over(past=[passed, spent("e", ended=5.0, joined=90.0, claimed=True)]) is None, "a later one was claimed"
    assert over(past=[passed], group=msgspec.structs.replace(GROUP, vm_name="other")) is None
    assert over(past=[passed], group=msgspec.structs.replace(GROUP, cpus=2)) is None, "it was promised a larger one"


def test_one_desktops_machines_hold_nobody_back_where_another_could_start_one() -> None:
    passed = [spent("liar", ended=10.0 * n, joined=10.0 * n + 90.0) for n in (1, 2, 3, 4)]

    def waits(*others: Desktop, past=passed, outcomes=()) -> bool:
        snapshot = msgspec.structs.replace(seen(desktop("liar"), *others, spent=past), outcomes=tuple(outcomes))
        return passed_over([GROUP], LONG, snapshot, SETTINGS, NOW)[GROUP.key].waits

    assert not waits(desktop("other")), "the next machine shows who is right"
    assert waits(desktop("other"), past=[*passed, spent("other", ended=5.0, joined=90.0)]), "two have seen it"
    assert waits(), "there is nobody else"
    assert waits(desktop("other", refusals=("owner-active",)))
    assert waits(desktop("other", vms=0))
    assert waits(desktop("other", silent_seconds=SETTINGS.stale_seconds + 1))
    assert waits(desktop("other"), outcomes=[outcome("deb", "other", 1, fault=Fault.DESKTOP)])
    pool = PoolSnapshot(NOW, (Match(IMAGE.name, SMALL, "schedd", 7, 3, NOW),), (GROUP,), ())
    over = passed_over([GROUP], LONG, seen(desktop("liar"), desktop("other"), spent=passed), SETTINGS, NOW)
    assert wants(pool, SETTINGS, over) == (Want(IMAGE.name, SMALL, 1, 1),), "one at a time"


def test_a_job_that_forges_the_number_of_others_is_a_group_of_its_own() -> None:
    forged = msgspec.structs.replace(GROUP, vm_name="zzz")
    for rows in ((GROUP, forged), (forged, GROUP)):
        past = seen(spent=[spent("d", ended=10.0, joined=100.0)])
        assert set(passed_over(rows, LONG, past, SETTINGS, NOW)) == {GROUP.key}


def test_machines_that_stay_without_a_job_make_a_desktop_barren_too_and_backfill_vms_do_not() -> None:
    idle = [live(f"vm-{n}", "d", joined=SETTINGS.settle_seconds) for n in range(BARREN)]
    assert Giving((), idle, SETTINGS, NOW).barren("d")
    assert not Giving((), idle, msgspec.structs.replace(SETTINGS, backfill=IMAGE.name), NOW).barren("d")
    assert not Giving((), [live(f"vm-{n}", "d", joined=59.0) for n in range(BARREN)], SETTINGS, NOW).barren("d")


def test_jobs_that_were_passed_over_get_none_and_then_one_and_others_do_not_wait_with_them() -> None:
    good = msgspec.structs.replace(GROUP, autocluster=8, idle=2)
    matches = tuple(Match(IMAGE.name, Size(1, GIB), "schedd", g.autocluster, g.idle, NOW) for g in (GROUP, good))
    pool = PoolSnapshot(NOW, matches, (GROUP, good), ())
    passed = passed_over([GROUP, good], LONG, seen(spent=[spent("d", 10.0, 100.0)]), SETTINGS, NOW)
    assert wants(pool, SETTINGS) == (Want(IMAGE.name, Size(1, GIB), 5, 5),)
    assert wants(pool, SETTINGS, passed) == (Want(IMAGE.name, Size(1, GIB), 2, 2),)
    retried = {key: msgspec.structs.replace(one, waits=False) for key, one in passed.items()}
    assert wants(pool, SETTINGS, retried) == (Want(IMAGE.name, Size(1, GIB), 3, 3),)
