"""What HTCondor's tools print, as values."""

from datetime import UTC, datetime

import pytest

from deskgrid.model.pool import JobGroup, MachineAd
from deskgrid.pool.tools.ads import Ad
from deskgrid.pool.tools.reading import idle_groups, job_of, machines, sort_answer


def slot(vm_id: str, **more: object) -> Ad:
    return {
        "MyType": "Machine",
        "Name": f"slot1@{vm_id}",
        "Machine": vm_id,
        "vm_name": "img-a",
        "deskgrid_vm_id": vm_id,
        "deskgrid_desktop": "desk-1",
        "State": "Unclaimed",
        "DaemonStartTime": 1000,
    } | more


def test_the_slots_of_a_vm_are_one_machine() -> None:
    slots = [slot("vm-2"), slot("vm-1"), slot("vm-1", State="Claimed", JobId="3.1"), slot("vm-1", JobId="2.0")]
    joined = datetime.fromtimestamp(1000, UTC)
    assert machines(slots) == (
        MachineAd("vm-1", "vm-1", "img-a", "desk-1", True, ("2.0", "3.1"), joined),
        MachineAd("vm-2", "vm-2", "img-a", "desk-1", False, (), joined),
    )


def test_a_slot_whose_attributes_are_expressions_or_missing_does_no_harm() -> None:
    assert machines([{"deskgrid_vm_id": "vm-1", "vm_name": "\\/Expr(1)\\/"}, {"deskgrid_vm_id": 5}]) == (
        MachineAd("vm-1", "", "", "", False),
    )


def test_a_job_of_a_slot_is_known_by_its_number_or_not_at_all() -> None:
    slots = [slot("vm-1", JobId="3.1"), slot("vm-1", JobId="x" * (20 << 20)), slot("vm-1", JobId="3.1\n")]
    assert [one.jobs for one in machines(slots)] == [("3.1",)]


def test_the_answer_is_sorted_and_an_offline_ad_from_a_vm_is_not_ours() -> None:
    ours = {"MyType": "Machine", "Name": "o", "deskgrid_offline": True, "AuthenticatedIdentity": "c@d"}
    forged = ours | {"AuthenticatedIdentity": "deskgrid-vm.99.vm-1@d"}
    collector = {"MyType": "Collector", "Name": "x", "StatsLastUpdateTime": 100, "StatsLifetime": 30}
    schedd = {"MyType": "Scheduler", "Name": "s", "MyAddress": "<a>"}
    answer = sort_answer([ours, forged, collector, schedd, slot("vm-1")])
    assert (answer.collector_started, answer.schedds, answer.offline) == (70, {"<a>": "s"}, (ours,))
    assert [ad["Name"] for ad in answer.slots] == ["slot1@vm-1"]


@pytest.mark.parametrize("kind", ["Scheduler", "Submitter", "Negotiator", "Collector", "/Expr(x)/"])
def test_what_a_vm_says_makes_it_a_machine_or_nothing(kind: str) -> None:
    collector = {"MyType": "Collector", "Name": "x", "StatsLastUpdateTime": 100, "StatsLifetime": 30}
    posing = slot("vm-1", MyType=kind, ScheddName="s", StatsLastUpdateTime=9000, StatsLifetime=1)
    posing |= {"AuthenticatedIdentity": "deskgrid-vm.99.vm-1@d", "CondorVersion": "$CondorVersion: 24.1.1 $"}
    alone = sort_answer([collector])
    assert sort_answer([collector, posing]) == alone == sort_answer([posing, collector])


def submitter(schedd: str, idle: object, tag: str | None) -> Ad:
    return {"MyType": "Submitter", "Name": "ann@x", "ScheddName": schedd, "IdleJobs": idle, "SubmitterTag": tag}


def test_a_schedd_whose_submitters_are_all_tagged_flocks_here_from_another_pool() -> None:
    ads = [submitter("away", idle, "home.test") for idle in (20, 3, "many")]
    ads += [submitter("ours", 5, ""), submitter("both", 1, "x"), submitter("both", 1, None), submitter("odd", -4, "x")]
    answer = sort_answer([*ads, {"MyType": "Submitter", "SubmitterTag": "x"}])
    assert answer.foreign == {"away", "odd"}
    assert answer.waiting == {"away": 23, "ours": 5, "both": 2, "odd": 0}


def test_the_versions_of_the_daemons_are_kept_by_who_they_are_of() -> None:
    ads: list[Ad] = [
        {"MyType": "Collector", "CondorVersion": "c"},
        {"MyType": "Negotiator", "CondorVersion": "n"},
        {"MyType": "Scheduler", "Name": "s", "CondorVersion": "/Expr(x)/"},
    ]
    assert sort_answer(ads).versions == {"collector": "c", "negotiator": "n", "s": ""}


def test_idle_jobs_are_counted_by_group_and_a_name_is_read_to_the_end_of_its_line() -> None:
    text = '1 1 128 "img a"\n1 1 128 "img a"\nundefined 2 error "b\\n9 9 9"\n'
    assert idle_groups("s", text) == (JobGroup("s", -1, "b\n9 9 9", 2, 0, 1), JobGroup("s", 1, "img a", 1, 128, 2))
    assert idle_groups("s", "") == ()


def test_a_row_that_is_cut_off_is_an_error_and_not_a_job() -> None:
    with pytest.raises(ValueError, match="expected four columns"):
        idle_groups("s", '1 1 128 "a"\n1 1')


def test_a_job_shows_the_requirements_that_it_was_submitted_with() -> None:
    ad: Ad = {
        "ClusterId": 5,
        "ProcId": 1,
        "Owner": "ann",
        "JobStatus": 1,
        "vm_name": "img-a",
        "RequestMemory": "\\/Expr(ImageSize)\\/",
        "Requirements": "\\/Expr((MY.DeskgridSubmittedRequirements) && (TARGET.vm_name == MY.vm_name))\\/",
        "DeskgridSubmittedRequirements": '\\/Expr(TARGET.Arch == "X86_64")\\/',
    }
    job = job_of(ad, "s", "2 300 10240 true\n")
    assert (job.disk_kib, job.named_by_text, job.universe, job.container) == (10240, True, 5, False)
    assert job.requirements == '(TARGET.Arch == "X86_64") && (TARGET.vm_name == MY.vm_name)'
    assert (job.id, job.cpus, job.memory_mb, job.starts, job.schedd) == ("5.1", 2, 300, 0, "s")
    assert job_of({"ClusterId": 5, "ProcId": 1}, "s", "error").memory_mb == 0


def test_a_job_that_refers_to_long_requirements_many_times_makes_them_no_longer() -> None:
    ad = {
        "Requirements": f"\\/Expr({'MY.DeskgridSubmittedRequirements || ' * 1000}true)\\/",
        "DeskgridSubmittedRequirements": f"\\/Expr({'x' * 10_000})\\/",
    }
    assert len(job_of(ad, "schedd", "1 1 1 true").requirements) < 60_000


def test_requirements_that_were_joined_twice_are_shown_as_they_were_submitted() -> None:
    ad: Ad = {
        "Requirements": "\\/Expr((MY.DeskgridFurtherRequirements) && (TARGET.vm_name == MY.vm_name))\\/",
        "DeskgridFurtherRequirements": "\\/Expr(MY.DeskgridSubmittedRequirements && TARGET.HasX)\\/",
        "DeskgridSubmittedRequirements": "\\/Expr(TARGET.Cpus > 1)\\/",
    }
    wanted = "(TARGET.Cpus > 1 && TARGET.HasX) && (TARGET.vm_name == MY.vm_name)"
    assert job_of(ad, "s", "").requirements == wanted


def test_what_a_job_is_and_how_it_names_its_image_is_read() -> None:
    ad: Ad = {"vm_name": "\\/Expr(demo)\\/", "JobUniverse": 7, "WantContainer": True}
    job = job_of(ad, "s", "1 128 1 false")
    assert (job.vm_name, job.named_by_text, job.universe, job.container) == ("demo", False, 7, True)


def test_a_schedd_that_flocks_here_and_says_anothers_address_takes_no_match_of_its_and_hides_it_from_nobody() -> None:
    for names in (("evil", "ours"), ("ours", "evil")):
        ads = [{"MyType": "Scheduler", "Name": name, "MyAddress": "<a>"} for name in names]
        submitters = [
            {"MyType": "Submitter", "ScheddName": "ours", "IdleJobs": 5},
            {"MyType": "Submitter", "ScheddName": "evil", "SubmitterTag": "away", "IdleJobs": 1},
        ]
        answer = sort_answer([*ads, *submitters])
        assert (answer.schedds["<a>"], set(answer.schedds.values())) == ("ours", {"ours", "evil"})
    both = [{"MyType": "Scheduler", "Name": name, "MyAddress": "<a>"} for name in ("b", "a")]
    assert set(sort_answer(both).schedds.values()) == {"a", "b"}, "each is asked"
