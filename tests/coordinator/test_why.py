"""Why? Each state of a job and of a desktop has its answer, from the values that decided."""

from datetime import timedelta

import msgspec
import pytest

from deskgrid.core.fleet.plan import plan
from deskgrid.core.fleet.view import View, with_waiting
from deskgrid.core.fleet.why import Membership, abroad, ran_before, vm_of, why_desktop, why_job
from deskgrid.model.desktop import Desktop, Fault, VmReport, VmState
from deskgrid.model.image import Attribute, ImageFacts, ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import LiveLease, Outcome, Plan, PlanSettings, Shortage, Snapshot, Want
from deskgrid.model.pool import Foreign, Job, JobGroup, MachineAd, Match, OfflineAd, PoolSnapshot
from deskgrid.model.reason import Reason

from .values import BUSY, FREE, GIB, IMAGE, ROOM, START, WHY

SMALL = Size(1, GIB)
FACTS = ImageFacts(IMAGE, GIB // 2, 4 * GIB)
AD = OfflineAd("its-sl6", SMALL, 4 * GIB)
SETTINGS = PlanSettings(sizes=(SMALL,))
GROUP = JobGroup("schedd", 7, "its-sl6", 1, 128, 3)
MATCH = Match("its-sl6", SMALL, "schedd", 7, 3, START)
JOB = Job("12.0", "ada", 1, "its-sl6", 1, 128, "TARGET.vm_name == MY.vm_name", 7, "schedd")
DESK = Desktop("desk-1", START, FREE, ROOM)
LEASE = Lease("vm-1", "desk-1", IMAGE, SMALL, START, START + timedelta(minutes=5), WHY)


def heard(**more: object) -> PoolSnapshot:
    return msgspec.structs.replace(PoolSnapshot(START, (), (GROUP,), ()), **more)


def view(
    desktops: tuple[Desktop, ...] = (DESK,),
    leases: tuple[LiveLease, ...] = (),
    wants: tuple[Want, ...] | None = (),
    outcomes: tuple[Outcome, ...] = (),
    settings: PlanSettings = SETTINGS,
    **more: object,
) -> View:
    """A cycle at START, planned by the planner itself."""
    snapshot = Snapshot(desktops, leases, (FACTS,), wants, outcomes)
    made = plan(snapshot, settings, START)
    whole = View(START, settings, pool=heard(), snapshot=snapshot, plan=made, ads=(AD,))
    return msgspec.structs.replace(whole, **more)


def why(job: Job = JOB, seen: View | None = None) -> Reason:
    return why_job(job, seen or view()).reason


def changed(**more: object) -> Job:
    return msgspec.structs.replace(JOB, **more)


@pytest.mark.parametrize(
    ("job", "name", "part"),
    [
        (changed(status=2, remote_host="slot1@vm-1", starts=2), "running", "It runs on slot1@vm-1."),
        (changed(status=2), "running", "an unknown machine"),
        (changed(status=4), "completed", "It has finished."),
        (changed(status=5, hold_reason="No such file"), "held", "No such file"),
        (changed(status=5), "held", "HTCondor does not say why"),
        (changed(status=6), "transferring-output", "transferring output"),
        (changed(status=77), "in-state-77", "in state 77"),
        (changed(vm_name=None), "names-no-image", "none is started for it"),
        (changed(vm_name="no-such"), "image-unknown", "No image named 'no-such'"),
        (changed(vm_name='a" || true'), "image-unknown", "on offer"),
        (changed(vm_name="demo", named_by_text=False), "image-no-text", 'write +vm_name = "demo"'),
        (changed(universe=7), "on-submit-server", "scheduler universe"),
        (changed(universe=12), "on-submit-server", "local universe"),
        (changed(universe=11), "universe-not-served", "parallel universe"),
        (changed(container=True), "universe-not-served", "container universe"),
        (changed(cpus=8), "too-large", "8 CPUs, 128 MiB"),
        (changed(memory_mb=4096), "too-large", "no virtual machine so large"),
        (changed(disk_kib=4 * 1024 * 1024 + 1), "too-large", "4097 MiB of disk"),
    ],
)
def test_a_job_whose_state_or_wish_says_it_all(job: Job, name: str, part: str) -> None:
    reason = why(job)
    assert reason.name == name
    assert part in reason.sentence


def test_a_running_job_is_shown_with_its_vm() -> None:
    machine = MachineAd("vm-1", "vm-1", "its-sl6", "desk-1", True, ("12.0",))
    assert why_job(changed(status=2), view(pool=heard(machines=(machine,)))).vms == ("vm-1",)
    assert why_job(changed(status=2), view(pool=heard(machines=None))).vms == ()
    assert why_job(changed(status=2), View(START, SETTINGS)).vms == ()
    # the job's own ad already names the machine, and the last cycle has not seen the collector's answer yet
    on_vm_1 = changed(status=2, remote_host="slot1_1@vm-1.deskgrid.internal")
    assert why_job(on_vm_1, view(leases=(LiveLease(LEASE),))).vms == ("vm-1",)


def test_a_job_that_ran_before_is_told_where_and_why_it_no_longer_does() -> None:
    before = ran_before(LEASE, Reason("owner-active", "Someone uses the computer."))
    assert why_job(JOB, view(), before).further[-1] == before
    assert before.sentence == "It ran on desktop desk-1 until its virtual machine ended: Someone uses the computer."
    assert (vm_of("slot1_1@vm-1.deskgrid.internal"), vm_of(None)) == ("vm-1", "")


def test_a_condition_that_no_machine_of_the_image_meets_is_named_with_what_its_machines_say() -> None:
    told = msgspec.structs.replace(FACTS, says=(Attribute("OpSysAndVer", '"Debian13"'),), free_bytes=GIB)
    seen = view(snapshot=Snapshot((DESK,), (), (told,), ()))
    asks = changed(requirements='(TARGET.OpSysAndVer == "Debian12") && (TARGET.vm_name == MY.vm_name)')
    reason = why(asks, seen)
    assert reason.name == "requirements-unmet"
    assert 'asks for TARGET.OpSysAndVer == "Debian12"' in reason.sentence
    assert 'say OpSysAndVer = "Debian13"' in reason.sentence
    assert why(changed(requirements='TARGET.OpSysAndVer == "Debian13"'), seen).name != "requirements-unmet"
    assert why(changed(disk_kib=2 << 20), seen).name == "too-large", "the disk is as a job finds it, not as it was made"


def test_a_condition_that_some_size_meets_is_no_reason() -> None:
    sizes = msgspec.structs.replace(SETTINGS, sizes=(SMALL, Size(4, 4 * GIB)))
    asks = changed(requirements="TARGET.Memory >= 3000")
    assert why(asks, view(settings=sizes)).name != "requirements-unmet"
    assert why(asks, view()).name == "requirements-unmet"


def test_on_a_schedd_that_bounds_a_users_matches_the_bound_is_named() -> None:
    others = msgspec.structs.replace(MATCH, autocluster=8, count=20)
    later = START + timedelta(seconds=1000)

    def seen(**more: object) -> View:
        waited = {"ads_since": {AD: START}, "idle_since": {GROUP.key: START}}
        return view(at=later, pool=heard(at=later, **more), **waited)

    bounded = (msgspec.structs.replace(others, matched_at=later),)
    assert why(seen=seen(matches=bounded, limiting=("schedd",))).name == "matches-bounded"
    assert why(seen=seen(matches=bounded)).name == "requirements-fit-nothing"
    few = (msgspec.structs.replace(bounded[0], count=5),)
    assert why(seen=seen(matches=few, limiting=("schedd",))).name == "requirements-fit-nothing"


def test_a_job_that_nobody_here_knows_may_be_one_of_a_pool_that_flocks_here() -> None:
    assert abroad("5.0", view()) is None and abroad("5.0", View(START, SETTINGS)) is None
    answer = abroad("5.0", view(pool=heard(foreign=(Foreign("away@", 1),))))
    assert answer is not None and (answer.reason.name, answer.reason.reading) == ("job-abroad", "away@: 1 job waiting")
    assert answer.further == ()
    bounded = abroad("5.0", view(pool=heard(foreign=(Foreign("away@", 30),), limiting=("away@", "schedd"))))
    assert bounded is not None and "version of away@ offers" in bounded.further[0].sentence


def test_before_the_first_cycle_nothing_is_known() -> None:
    assert why(seen=View(START, SETTINGS)).name == "no-cycle-yet"


def test_an_image_that_needs_more_memory_than_any_size_has_is_too_large() -> None:
    big = msgspec.structs.replace(FACTS, memory_bytes=8 * GIB)
    snapshot = Snapshot((DESK,), (), (big,), ())
    reason = why(seen=view(snapshot=snapshot))
    assert (reason.name, reason.reading) == ("too-large", "offered for its-sl6: none")


def test_a_job_whose_vm_is_on_its_way_is_told_so() -> None:
    answer = why_job(JOB, view(leases=(LiveLease(LEASE),)))
    assert (answer.reason.name, answer.vms) == ("vm-starting", ("vm-1",))
    assert "desk-1" in answer.reason.reading
    two = (LiveLease(LEASE), LiveLease(msgspec.structs.replace(LEASE, vm_id="vm-2")))
    assert why_job(JOB, view(leases=two)).reason.sentence.startswith("2 virtual machines of its-sl6")


@pytest.mark.parametrize(
    "live",
    [
        LiveLease(msgspec.structs.replace(LEASE, granted_at=START - timedelta(hours=1))),
        LiveLease(LEASE, START - timedelta(hours=1)),
        LiveLease(LEASE, START, claimed=True),
        LiveLease(msgspec.structs.replace(LEASE, image=ImageRef("other", "c" * 64))),
        LiveLease(msgspec.structs.replace(LEASE, size=Size(1, GIB // 16))),
        LiveLease(msgspec.structs.replace(LEASE, size=Size(0, GIB))),
    ],
)
def test_a_vm_that_is_not_for_this_job_or_not_on_its_way_is_no_answer(live: LiveLease) -> None:
    assert why(seen=view(leases=(live,))).name != "vm-starting"


def test_a_vm_that_has_just_joined_may_still_be_for_this_job() -> None:
    assert why(seen=view(leases=(LiveLease(LEASE, START),))).name == "vm-starting"


def test_demand_that_could_not_be_read_is_said_with_the_cause() -> None:
    answer = why_job(JOB, view(pool=heard(matches=None), faults=("collector: no answer",)))
    assert (answer.reason.name, answer.reason.reading) == ("demand-unknown", "collector: no answer")
    assert answer.further == (Reason("pool-fault", "collector: no answer"),)
    assert why(seen=view(pool=None)).reading == "no cause told"


def test_a_matched_job_gets_the_plans_own_reason_for_the_shortage() -> None:
    busy = msgspec.structs.replace(DESK, availability=BUSY)
    seen = view(desktops=(busy,), wants=(Want("its-sl6", SMALL, 3, 3),), pool=heard(matches=(MATCH,)))
    assert seen.plan is not None
    assert why(seen=seen) == seen.plan.shortages[0].reason


def test_a_matched_job_without_shortage_is_served_in_the_next_cycle() -> None:
    assert why(seen=view(pool=heard(matches=(MATCH,)))).name == "matched"


def test_a_shortage_of_another_job_does_not_answer_for_one_that_is_not_matched() -> None:
    short = Plan(START, (), (Shortage("its-sl6", SMALL, 1, WHY),), {})
    assert why(seen=view(plan=short)).name == "not-negotiated"


def test_a_match_of_another_group_or_image_is_not_this_jobs() -> None:
    for match in (
        msgspec.structs.replace(MATCH, autocluster=8),
        msgspec.structs.replace(MATCH, schedd="other"),
        msgspec.structs.replace(MATCH, image="other"),
        msgspec.structs.replace(MATCH, matched_at=START - timedelta(hours=1)),
    ):
        assert why(seen=view(pool=heard(matches=(match,)))).name == "not-negotiated"


def test_of_requirements_no_more_is_shown_than_a_person_reads() -> None:
    assert len(why(changed(vm_name=None, requirements="x" * 1_000_000)).reading) < 3000


def test_an_image_that_is_backing_off_says_when_it_is_tried_again() -> None:
    failed = Outcome("its-sl6", "desk-1", START, False, Fault.IMAGE)
    reason = why(seen=view(outcomes=(failed,), ads=()))
    assert (reason.name, reason.until) == ("image-backoff", START + timedelta(seconds=60))
    also = msgspec.structs.replace(failed, desktop="desk-2")
    reason = why(seen=view(outcomes=(failed, also), ads=()))
    assert (reason.name, reason.until) == ("image-backoff", START + timedelta(seconds=120))


def test_an_image_that_may_be_tried_again_is_not_said_to_back_off() -> None:
    failed = Outcome("its-sl6", "desk-1", START - timedelta(hours=1), False, Fault.IMAGE)
    assert why(seen=view(outcomes=(failed,))).name == "not-negotiated"


def test_without_an_ad_no_desktop_could_start_it() -> None:
    busy = msgspec.structs.replace(DESK, availability=BUSY)
    reason = why(seen=view(desktops=(busy,), ads=()))
    assert (reason.name, reason.reading) == ("no-desktop-free", "1 desktop: 1 owner-active")
    assert why(seen=view(desktops=(), ads=())).name == "no-desktop"


def test_a_job_that_htcondor_does_not_match_for_long_fits_nothing() -> None:
    long_ago = START - timedelta(minutes=10)
    seen = view(ads_since={AD: long_ago}, idle_since={GROUP.key: long_ago})
    reason = why(seen=seen)
    assert reason.name == "requirements-fit-nothing"
    assert "TARGET.vm_name" in reason.reading
    for fresh in (view(ads_since={AD: long_ago}), view(idle_since={GROUP.key: long_ago})):
        assert why(seen=fresh).name == "not-negotiated"


def test_how_long_ads_and_groups_have_been_there_is_carried_over() -> None:
    first = with_waiting(View(START, SETTINGS), view())
    assert (first.ads_since, first.idle_since) == ({AD: START}, {GROUP.key: START})
    later = view(at=START + timedelta(minutes=1))
    assert with_waiting(first, later).ads_since == {AD: START}
    assert with_waiting(first, later).idle_since == {GROUP.key: START}
    unknown = msgspec.structs.replace(later, pool=heard(idle=None), ads=())
    assert with_waiting(first, unknown).idle_since == {GROUP.key: START}
    assert with_waiting(first, unknown).ads_since == {}
    assert with_waiting(first, msgspec.structs.replace(later, pool=None)).idle_since == {GROUP.key: START}


MEMBER = Membership(True)


def test_a_desktop_that_does_not_belong_is_told_so() -> None:
    assert why_desktop("x", Membership(False), None, (), view()).reason.name == "not-enrolled"
    gone = why_desktop("x", Membership(True, "sold"), None, (), view())
    assert gone.reason == Reason("revoked", "x was revoked: sold")


def test_a_desktop_that_never_reported_is_told_so_with_what_it_was_ordered() -> None:
    answer = why_desktop("desk-1", MEMBER, None, (LiveLease(LEASE),), view())
    assert (answer.reason.name, answer.vms) == ("never-reported", ("vm-1",))


def test_a_silent_desktop_is_told_so_before_all_else() -> None:
    quiet = msgspec.structs.replace(DESK, reported_at=START - timedelta(minutes=10), availability=BUSY)
    answer = why_desktop("desk-1", MEMBER, quiet, (), view(desktops=(quiet,)))
    assert answer.reason.name == "desktop-silent"
    assert BUSY.refusals[0] in answer.further


def test_a_busy_desktop_gets_the_policys_own_refusal_once() -> None:
    busy = msgspec.structs.replace(DESK, availability=BUSY)
    answer = why_desktop("desk-1", MEMBER, busy, (), view(desktops=(busy,)))
    assert answer.reason == BUSY.refusals[0]
    assert answer.further == ()


def test_a_free_desktop_gets_the_plans_reason() -> None:
    assert why_desktop("desk-1", MEMBER, DESK, (), view()).reason.name == "no-demand"
    assert why_desktop("desk-1", MEMBER, DESK, (), View(START, SETTINGS)).reason.name == "not-planned"


def test_a_desktop_with_vms_says_so_and_why_each_is_as_it_is() -> None:
    vm = VmReport("vm-1", IMAGE, SMALL, VmState.PAUSED, START, WHY)
    one = msgspec.structs.replace(DESK, vms=(vm,))
    answer = why_desktop("desk-1", MEMBER, one, (LiveLease(LEASE),), view(desktops=(one,)))
    assert answer.reason.sentence == "desk-1 has 1 virtual machine."
    assert answer.reason.reading == "vm-1 (its-sl6) paused"
    assert WHY in answer.further
    two = msgspec.structs.replace(DESK, vms=(vm, msgspec.structs.replace(vm, vm_id="vm-2")))
    assert why_desktop("desk-1", MEMBER, two, (), view()).reason.sentence == "desk-1 has 2 virtual machines."


def test_a_desktop_that_was_told_to_start_one_says_so() -> None:
    answer = why_desktop("desk-1", MEMBER, DESK, (LiveLease(LEASE),), view())
    assert (answer.reason.name, answer.reason.reading) == ("ordered", "vm-1 (its-sl6)")


def test_warnings_are_shown_whatever_the_cause() -> None:
    odd = Reason("clock-wrong", "Set it right.")
    assert odd in why_desktop("desk-1", Membership(True, None, (odd,)), DESK, (), view()).further
