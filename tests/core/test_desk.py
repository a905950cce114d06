"""What an agent decides, by values."""

import msgspec
import pytest

from deskgrid.core.commands import CancelFetch, Command, Distrust, Fetch, Kill, Pause, Prove, Resume, Vacate
from deskgrid.core.desktop.advance import STORY_LINES, advance
from deskgrid.core.desktop.inputs import Act, Doubted, Finishing, HandingOver, Input, Ruled, Ticked, Wished
from deskgrid.core.desktop.state import AgentState, begin, next_due, reports, unsaid
from deskgrid.core.desktop.vm import LEAVE_SECONDS, WAIT_SECONDS, Vm
from deskgrid.core.events import Alive, Event, Fetched, Gone, GuestLeft, Happened, Joined, Started, Waiting
from deskgrid.model.desktop import Fault, VmState
from deskgrid.model.policy import GIB, Policy
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask, Wish

from .values import ALL_DAY, AWAY, NOW, ROOMY, SMALL, TYPING, after, desk, event, lease, sensed, told, turn, vm_in

S = VmState
NO_GRACE = msgspec.structs.replace(ALL_DAY, grace_seconds=0.0)
SHORT = msgspec.structs.replace(ROOMY, memory_available_bytes=GIB // 2)


def does(state: AgentState, given: Input, at: float = 1.0) -> tuple[AgentState, list[tuple[str, type[Command]]]]:
    """What is known afterwards, and the kinds of the orders."""
    after_, acts = turn(state, given, after(at))
    return after_, [(act.vm_id, type(act.command)) for act in acts]


def happened(kind: type[Event], vm_id: str = "vm-1", **more: object) -> Happened:
    return Happened(vm_id, event(kind, **more))


def named(vm: Vm, vm_id: str) -> Vm:
    return msgspec.structs.replace(vm, lease=lease(vm_id))


def running(*ids: str, policy: Policy = ALL_DAY) -> AgentState:
    return desk(policy, vms=tuple(named(vm_in(S.RUNNING, seconds=300), vm_id) for vm_id in ids))


def states(desk: AgentState) -> dict[str, VmState]:
    return {vm_id: vm.state for vm_id, vm in desk.vms.items()}


# -- the coordinator ----------------------------------------------------------------------------------------------


def test_a_lease_on_an_idle_desktop_begins_with_its_image() -> None:
    now, orders = does(desk(), told(lease()))
    assert orders == [("vm-1", Fetch)]
    assert [(line.vm_id, line.state) for line in now.story] == [("vm-1", "fetching")]


def test_an_act_carries_the_lease_it_is_about() -> None:
    _, acts = turn(desk(), told(lease()), NOW)
    assert acts == (Act("vm-1", Fetch(lease())),)


def test_a_lease_that_arrives_as_the_owner_returns_ends_at_once_with_the_refusal() -> None:
    now, orders = does(desk(reading=TYPING), told(lease()))
    assert orders == [] and now.vms == {}
    assert [(vm.vm_id, vm.state, vm.reason.name) for vm in now.ended] == [("vm-1", S.ENDED, "owner-active")]
    assert [line.state for line in now.story] == ["fetching", "ended"]


def test_a_refused_lease_is_not_tried_again() -> None:
    refused, _ = does(desk(reading=TYPING), told(lease()))
    idle, _ = does(refused, sensed(AWAY))
    again, orders = does(idle, told(lease(), to=2))
    assert orders == [] and len(again.ended) == 1


def test_a_lease_for_more_than_there_is_room_for_is_refused_with_what_was_asked_and_what_is_free() -> None:
    big = msgspec.structs.replace(SMALL, memory_bytes=64 * GIB)
    now, _ = does(desk(), told(lease(size=big)))
    assert now.ended[0].reason.name == "no-room"
    assert "asked 1 CPU and 65536 MiB; free 6 CPUs" in now.ended[0].reason.reading


def test_leases_in_one_answer_are_given_room_one_after_the_other() -> None:
    now, orders = does(desk(msgspec.structs.replace(ALL_DAY, max_vms=2)), told(*map(lease, ("vm-1", "vm-2", "vm-3"))))
    assert orders == [("vm-1", Fetch), ("vm-2", Fetch)]
    assert [vm.vm_id for vm in now.ended] == ["vm-3"]


def test_a_lease_that_is_over_when_it_arrives_is_refused() -> None:
    now, _ = does(desk(), told(lease(until=-1.0)))
    assert now.ended[0].reason.name == "lease-over"


def test_a_lease_to_an_agent_that_is_stopping_is_refused_with_that_reason() -> None:
    stopping, _ = does(desk(), Finishing(Reason("agent-stops", "It was told to stop.")))
    now, orders = does(stopping, told(lease()))
    assert orders == [] and now.ended[0].reason.name == "agent-stops"


def test_a_vm_that_the_answer_no_longer_names_is_withdrawn() -> None:
    now, orders = does(running("vm-1", "vm-2"), told(lease("vm-2")))
    assert orders == [("vm-1", Vacate)]
    assert states(now) == {"vm-1": S.LEAVING, "vm-2": S.RUNNING}


def test_the_same_answer_twice_or_an_older_one_changes_nothing() -> None:
    now, _ = does(desk(), told(lease(), to=7))
    for to in (7, 3):
        assert does(now, told(to=to)) == (now, [])


def test_lease_times_are_moved_to_this_desktops_clock() -> None:
    hour_ahead = told(lease(until=3900.0), at=after(3600))
    now, _ = does(desk(), hour_ahead)
    assert now.vms["vm-1"].lease.until == after(301)


def test_a_lease_that_ends_is_withdrawn_though_the_coordinator_is_silent() -> None:
    now, orders = does(running("vm-1"), Ticked(), at=300)
    assert orders == [("vm-1", Vacate)]
    assert now.vms["vm-1"].reason.name == "lease-over"


def test_a_renewed_lease_keeps_a_vm_beyond_the_old_end() -> None:
    renewed, _ = does(running("vm-1"), told(lease(until=600)))
    assert does(renewed, Ticked(), at=301)[1] == []


def test_what_has_ended_is_told_until_it_is_acknowledged() -> None:
    ended, _ = does(running("vm-1", "vm-2"), happened(Gone))
    assert [vm.vm_id for vm in ended.ended] == ["vm-1"]
    still, _ = does(ended, told(lease("vm-2"), to=1))
    assert [vm.vm_id for vm in still.ended] == ["vm-1"]
    done, _ = does(still, told(lease("vm-2"), to=2, acknowledged=("vm-1", "unheard-of")))
    assert done.ended == ()


def test_an_answer_from_before_the_end_does_not_bring_a_vm_back_even_when_its_lease_would_be_over() -> None:
    ended, _ = does(running("vm-1"), happened(Gone))
    late, orders = does(ended, told(to=1), at=400)
    again, orders = does(late, told(lease(until=900), to=2), at=401)
    assert orders == [] and again.vms == {}


def test_a_spent_id_is_forgotten_when_its_end_is_recorded_and_its_lease_is_over() -> None:
    ended, _ = does(running("vm-1"), happened(Gone))
    done, _ = does(ended, told(to=1, acknowledged=("vm-1",)), at=400)
    assert done.spent == {}


def test_story_that_is_recorded_is_told_no_more_and_counting_goes_on() -> None:
    now, _ = does(desk(), told(lease()))
    now, _ = does(now, happened(Fetched))
    assert [line.state for line in now.story] == ["fetching", "starting"]
    now, _ = does(now, told(lease(), to=2, story=1))
    assert ([line.state for line in now.story], now.story_from) == (["starting"], 1)
    now, _ = does(now, told(lease(), to=3, story=1))
    assert ([line.state for line in now.story], now.story_from) == (["starting"], 1)
    now, _ = does(now, told(lease(), to=4, story=99))
    assert (now.story, now.story_from) == ((), 2)


def test_of_a_story_that_nobody_hears_the_oldest_lines_go() -> None:
    now = running("vm-1")
    for at in range(STORY_LINES // 2 + 2):
        now, _ = does(now, sensed(TYPING), at=at / 10)
        now, _ = does(now, sensed(AWAY), at=at / 10)
    assert len(now.story) == STORY_LINES
    assert now.story_from == 4


# -- the owner ----------------------------------------------------------------------------------------------------


def test_the_owner_who_returns_pauses_and_who_leaves_lets_go_on() -> None:
    paused, orders = does(running("vm-1"), sensed(TYPING))
    assert orders == [("vm-1", Pause)] and paused.standing.refusal is not None
    assert does(paused, sensed(TYPING))[1] == []
    on, orders = does(paused, sensed(AWAY))
    assert orders == [("vm-1", Resume)] and states(on) == {"vm-1": S.RUNNING}


def test_without_grace_the_owner_who_returns_ends_the_vm_within_the_leave_time() -> None:
    now, orders = does(running("vm-1", policy=NO_GRACE), sensed(TYPING))
    assert orders == [("vm-1", Pause), ("vm-1", Vacate)]
    assert does(now, Ticked(), at=1 + LEAVE_SECONDS)[1] == [("vm-1", Kill)]


def test_after_the_grace_a_paused_vm_leaves_and_then_is_killed() -> None:
    paused, _ = does(running("vm-1"), sensed(TYPING))
    leaving, orders = does(paused, Ticked(), at=61)
    assert orders == [("vm-1", Vacate)]
    killing, orders = does(leaving, Ticked(), at=63)
    assert orders == [("vm-1", Kill)] and killing.vms["vm-1"].reason.name == "paused-overdue"
    gone, _ = does(killing, happened(Gone))
    assert gone.ended[0].reason.sentence == "The owner stayed."


def test_an_owner_who_returns_while_an_image_is_fetched_ends_that_vm() -> None:
    fetching, _ = does(desk(), told(lease()))
    now, orders = does(fetching, sensed(TYPING))
    assert orders == [("vm-1", CancelFetch)] and now.vms == {}


def test_unknown_presence_counts_as_an_owner() -> None:
    assert does(running("vm-1"), sensed(Reading(None, None)))[1] == [("vm-1", Pause)]


def test_a_fault_of_the_desktop_refuses_new_vms_and_leaves_running_ones() -> None:
    faulty = msgspec.structs.replace(sensed(), faults=(Reason("no-hypervisor", "There is no hypervisor."),))
    now, orders = does(running("vm-1"), faulty)
    assert orders == [] and now.availability.refusals[0].name == "no-hypervisor"


# -- memory -------------------------------------------------------------------------------------------------------


def test_when_memory_is_short_the_newest_vm_ends_without_grace() -> None:
    now, orders = does(running("vm-1", "vm-2"), sensed(machine=SHORT))
    assert orders == [("vm-2", Pause), ("vm-2", Vacate)]
    assert now.vms["vm-2"].reason.name == "memory-short"


def test_the_next_vm_ends_only_when_a_reading_after_the_last_end_still_says_short() -> None:
    now, _ = does(running("vm-1", "vm-2"), sensed(machine=SHORT))
    for given in (happened(GuestLeft, "vm-2"), sensed(machine=SHORT), happened(Gone, "vm-2"), Ticked()):
        now, orders = does(now, given)
        assert ("vm-1", Vacate) not in orders
    assert does(now, sensed(machine=ROOMY))[1] == []
    assert does(now, sensed(machine=SHORT))[1] == [("vm-1", Pause), ("vm-1", Vacate)]


def test_a_vm_that_leaves_at_leisure_is_hurried_when_memory_is_short() -> None:
    leaving, _ = does(running("vm-1", "vm-2"), told(lease("vm-2")))
    now, orders = does(leaving, sensed(machine=SHORT))
    assert orders == []
    assert now.vms["vm-1"].deadline == after(1 + LEAVE_SECONDS)


def test_short_memory_without_vms_asks_for_nothing() -> None:
    assert does(desk(), sensed(machine=SHORT))[1] == []


# -- drivers ------------------------------------------------------------------------------------------------------


def test_a_vm_nobody_knows_that_says_it_runs_is_killed() -> None:
    assert does(desk(), happened(Started, "stranger"))[1] == [("stranger", Kill)]
    assert does(desk(), happened(Gone, "stranger"))[1] == []


def test_a_silent_guest_makes_its_accelerator_be_distrusted_by_name() -> None:
    now, acts = turn(desk(vms=(vm_in(S.BOOTING, seconds=10),)), Ticked(), after(10))
    assert [act.command for act in acts] == [Distrust("kvm"), Kill()]
    assert "on kvm" in now.vms["vm-1"].reason.sentence


def test_a_silent_guest_where_guests_have_lived_is_its_images_fault_and_the_accelerator_stays() -> None:
    lived, _ = does(desk(vms=(vm_in(S.BOOTING), named(vm_in(S.BOOTING, seconds=10), "vm-2"))), happened(Alive))
    now, orders = does(lived, Ticked(), at=10)
    assert orders == [("vm-2", Kill)]
    assert now.vms["vm-2"].fault is Fault.IMAGE


def test_a_guest_that_was_found_alive_proves_its_accelerator() -> None:
    assert running("vm-1").proven == {"kvm"}
    assert desk(vms=(vm_in(S.BOOTING),)).proven == frozenset()


def test_a_guest_that_lives_proves_its_accelerator_once_and_that_is_remembered() -> None:
    two = desk(vms=(vm_in(S.BOOTING), named(vm_in(S.BOOTING), "vm-2")))
    now, orders = does(two, happened(Alive))
    assert orders == [("vm-1", Prove)] and now.proven == {"kvm"}
    assert does(now, happened(Alive, "vm-2"))[1] == []


def test_what_was_proven_in_an_earlier_life_is_trusted_in_this_one() -> None:
    silent = named(vm_in(S.BOOTING, seconds=10), "vm-1")
    here = begin("desk-1", ALL_DAY, sensed(), NOW, (silent,), proven=frozenset({"kvm"}))
    now, orders = does(here, Ticked(), at=10)
    assert orders == [("vm-1", Kill)] and now.vms["vm-1"].fault is Fault.IMAGE


def test_a_trial_condemns_only_accelerators_on_which_no_guest_has_lived() -> None:
    assert advance(running("vm-1"), (Doubted(("kvm", "whpx")),), NOW)[1] == (Act("", Distrust("whpx")),)


def test_what_comes_in_together_is_known_before_anything_begins() -> None:
    now, acts = advance(desk(reading=TYPING), (sensed(AWAY), told(lease())), after(1))
    assert [act.command for act in acts] == [Fetch(now.vms["vm-1"].lease)]
    now, acts = advance(desk(), (sensed(TYPING), told(lease())), after(1))
    assert acts == () and now.ended[0].reason.name == "owner-active"


def test_what_is_noted_of_a_vm_that_is_here_is_told_in_its_story_and_decides_nothing() -> None:
    noted, orders = does(running("vm-1"), happened(Joined))
    assert orders == [] and noted.vms == running("vm-1").vms
    assert [(line.state, line.event) for line in noted.story] == [("running", "joined")]
    assert does(desk(), happened(Joined, "stranger")) == (desk(), [])


def test_an_agent_that_stops_asks_every_vm_to_leave() -> None:
    now, orders = does(running("vm-1", "vm-2"), Finishing(Reason("agent-stops", "It was told to stop.")))
    assert orders == [("vm-1", Vacate), ("vm-2", Vacate)]
    assert {vm.reason.name for vm in now.vms.values()} == {"agent-stops"}


@pytest.mark.parametrize("state", [s for s in S if s is not S.ENDED])
def test_a_deadline_that_passes_says_in_a_sentence_what_was_waited_for(state: VmState) -> None:
    now, _ = does(desk(vms=(vm_in(state, seconds=5),)), Ticked(), at=5)
    told_of = [*now.vms.values(), *now.ended][0].reason
    if state in (S.LEAVING, S.KILLING):
        assert told_of.name == "why"  # the first cause stays
    else:
        assert told_of.name == f"{state}-overdue" and "since 20:00:00 UTC" in told_of.reading


def test_a_boot_that_waits_for_its_image_is_told_once_and_ends_in_the_end_with_that_sentence() -> None:
    booting = vm_in(S.BOOTING, seconds=45)
    leased = msgspec.structs.replace(booting.lease, until=after(2 * WAIT_SECONDS))
    now = desk(vms=(msgspec.structs.replace(booting, lease=leased),))
    for at in range(40, int(WAIT_SECONDS), 40):
        now, orders = does(now, happened(Waiting), at=at)
        assert orders == [] and now.vms["vm-1"].state is S.BOOTING
    assert [line.event for line in now.story] == ["waiting"]
    late, orders = does(now, Ticked(), at=WAIT_SECONDS)
    assert orders == [("vm-1", Kill)]
    assert "waited too long for data of its image" in late.vms["vm-1"].reason.sentence
    assert late.vms["vm-1"].fault is Fault.DESKTOP


# -- what follows -------------------------------------------------------------------------------------------------


def test_the_next_deadline_is_the_earliest_of_deadlines_and_lease_ends() -> None:
    assert next_due(desk()) is None
    assert next_due(desk(vms=(vm_in(S.BOOTING, seconds=45),))) == after(45)
    assert next_due(desk(vms=(vm_in(S.BOOTING, seconds=600),))) == after(300)
    assert next_due(desk(vms=(vm_in(S.KILLING, seconds=600),))) == after(600)
    assert next_due(desk(vms=(msgspec.structs.replace(vm_in(S.LEAVING), deadline=None),))) is None


def test_the_coordinator_hears_at_once_of_what_matters_to_it() -> None:
    before = running("vm-1")
    for given, at_once in (
        (Ticked(), False),
        (sensed(Reading(False, 86401.0)), False),
        (sensed(TYPING), True),
        (happened(Gone), True),
    ):
        assert unsaid(before, does(before, given)[0]) is at_once
    refused = does(desk(reading=TYPING), told(lease()))[0]
    assert unsaid(desk(reading=TYPING), refused)
    another = does(refused, told(lease("vm-2"), to=2, acknowledged=("vm-1",)))[0]
    assert [vm.vm_id for vm in another.ended] == ["vm-2"] and unsaid(refused, another)


def test_reports_tell_of_every_vm_that_is_here() -> None:
    assert [(vm.vm_id, vm.state) for vm in reports(running("vm-1", "vm-2"))] == [
        ("vm-1", S.RUNNING),
        ("vm-2", S.RUNNING),
    ]


# -- wishes, rules, sleep, shutdown, hand-over --------------------------------------------------------------------


def wish(ask: Ask, until: float | None = None) -> Wished:
    return Wished(Wish(ask, "owner", NOW, None if until is None else after(until)))


def test_a_pause_of_the_owners_pauses_what_runs_at_once_and_refuses_starts() -> None:
    paused, orders = does(running("vm-1"), wish(Ask.PAUSE))
    assert orders == [("vm-1", Pause)] and paused.availability.refusals[0].name == "owner-paused"
    assert does(paused, told(lease(), lease("vm-2")))[0].ended[0].reason.name == "owner-paused"
    assert does(paused, Ticked(), at=62)[1] == [("vm-1", Vacate)]


@pytest.mark.parametrize("taken_back", [Wished(None), wish(Ask.RESUME)])
def test_a_pause_that_is_taken_back_in_time_lets_go_on(taken_back: Wished) -> None:
    paused, _ = does(running("vm-1"), wish(Ask.PAUSE))
    on, orders = does(paused, taken_back, at=30)
    assert orders == [("vm-1", Resume)] and on.availability.available


def test_a_pause_ends_by_itself_when_its_time_is_over() -> None:
    paused, _ = does(running("vm-1"), wish(Ask.PAUSE, until=30))
    assert does(paused, sensed(at=after(29)), at=29)[1] == []
    assert does(paused, sensed(at=after(30)), at=30)[1] == [("vm-1", Resume)]


def test_without_grace_a_pause_ends_what_runs_within_the_leave_time() -> None:
    assert does(running("vm-1", policy=NO_GRACE), wish(Ask.PAUSE))[1] == [("vm-1", Pause), ("vm-1", Vacate)]


def test_a_wish_to_finish_lets_run_what_runs_and_refuses_starts() -> None:
    now, orders = does(running("vm-1"), wish(Ask.FINISH))
    assert orders == [] and now.standing.refusal is None
    assert [reason.name for reason in now.availability.refusals] == ["owner-finishes"]


def test_a_wish_of_an_earlier_life_holds_from_the_first_moment() -> None:
    now = begin("desk-1", ALL_DAY, sensed(), NOW, (), Wish(Ask.PAUSE, "owner", NOW))
    assert now.availability.refusals[0].name == "owner-paused"


def test_another_policy_is_obeyed_at_once() -> None:
    closed = msgspec.structs.replace(ALL_DAY, closed_nobody=("00:00-24:00",))
    now, orders = does(running("vm-1"), Ruled(closed))
    assert orders == [("vm-1", Pause)] and now.policy == closed
    assert does(now, Ruled(ALL_DAY))[1] == [("vm-1", Resume)]


def test_another_policy_shortens_the_grace_of_what_is_paused_already() -> None:
    paused, _ = does(running("vm-1"), sensed(TYPING))
    shorter, _ = does(paused, Ruled(msgspec.structs.replace(ALL_DAY, grace_seconds=5.0)), at=2)
    assert shorter.vms["vm-1"].deadline == after(7)
    assert does(paused, Ruled(NO_GRACE), at=2)[1] == [("vm-1", Vacate)]


def test_a_computer_that_goes_to_sleep_pauses_and_on_waking_in_time_goes_on() -> None:
    asleep, orders = does(running("vm-1"), sensed(Reading(False, 86400.0, ending=Ending.SLEEP)))
    assert orders == [("vm-1", Pause)] and asleep.vms["vm-1"].reason.name == "computer-sleeps"
    assert asleep.availability.refusals[0].name == "computer-sleeps"
    awake, orders = does(asleep, sensed(AWAY), at=30)
    assert orders == [("vm-1", Resume)] and states(awake) == {"vm-1": S.RUNNING}


def test_after_a_sleep_longer_than_the_grace_a_vm_leaves() -> None:
    asleep, _ = does(running("vm-1"), sensed(Reading(False, 86400.0, ending=Ending.SLEEP)))
    assert does(asleep, Ticked(), at=100)[1] == [("vm-1", Vacate)]


@pytest.mark.parametrize("state", [S.RUNNING, S.PAUSED, S.BOOTING])
def test_after_a_day_of_suspension_nobody_announced_the_lease_is_over_and_the_vm_goes(state: VmState) -> None:
    before = desk(vms=(vm_in(state, seconds=300),))
    now, orders = does(before, Ticked(), at=86400)
    assert orders == [("vm-1", Kill if state is S.BOOTING else Vacate)]
    assert now.vms["vm-1"].reason.name == "lease-over"
    later, orders = does(now, Ticked(), at=86400 + 20)
    assert ("vm-1", Kill) in orders or state is S.BOOTING
    assert states(later) == {"vm-1": S.KILLING}


def test_a_day_of_suspension_with_the_owner_at_the_keyboard_on_waking_stops_the_vm_in_the_same_step() -> None:
    now, orders = does(running("vm-1"), sensed(TYPING, at=after(86400)), at=86400)
    assert orders[0] == ("vm-1", Pause)
    assert states(now) == {"vm-1": S.LEAVING}


def test_a_computer_that_shuts_down_gives_every_vm_two_seconds() -> None:
    now, orders = does(running("vm-1"), sensed(Reading(False, 86400.0, ending=Ending.SHUTDOWN)))
    assert orders == [("vm-1", Pause), ("vm-1", Vacate)]
    assert now.vms["vm-1"].reason.name == "computer-shuts-down"
    paused, _ = does(running("vm-1"), sensed(TYPING))
    assert does(paused, sensed(Reading(True, 0.0, ending=Ending.SHUTDOWN)))[1] == [("vm-1", Vacate)]


def test_an_agent_that_makes_way_lets_run_what_runs_and_begins_nothing_new() -> None:
    now, orders = does(running("vm-1"), HandingOver(60.0))
    assert orders == [] and states(now) == {"vm-1": S.RUNNING}
    assert [(line.event, line.sentence) for line in now.story] == [
        ("handed-over", "The agent of this desktop makes way for a newer one.")
    ]
    after_, orders = does(now, told(lease(), lease("vm-2")))
    assert orders == [] and after_.ended[0].reason.name == "agent-upgrade"


# -- beside the owner ---------------------------------------------------------------------------------------------

BESIDE = msgspec.structs.replace(ALL_DAY, max_vms_in_use=1)


def test_where_the_policy_spares_one_the_oldest_runs_on_beside_the_owner_on_fewer_processors() -> None:
    before = running("vm-1", "vm-2", policy=BESIDE)
    assert (before.standing.cpus, before.standing.in_use) == (6, False)
    now, orders = does(before, sensed(TYPING))
    stands = now.standing
    assert orders == [("vm-2", Pause)] and (stands.cpus, stands.in_use, stands.spared) == (2, True, 1)
    assert now.availability.refusals[0].name == "owner-active"


def test_when_the_one_that_was_spared_is_gone_the_next_goes_on() -> None:
    now, _ = does(running("vm-1", "vm-2", policy=BESIDE), sensed(TYPING))
    now, _ = does(now, happened(Gone))
    on, orders = does(now, sensed(TYPING))
    assert orders == [("vm-2", Resume)]
    assert on.vms["vm-2"].reason.name == "spared"


def test_what_is_not_up_yet_is_not_spared() -> None:
    now, orders = does(desk(BESIDE, vms=(vm_in(S.BOOTING),)), sensed(TYPING))
    assert orders == [("vm-1", Kill)] and states(now) == {"vm-1": S.KILLING}


def test_a_pause_of_the_owners_spares_nobody() -> None:
    now, _ = does(running("vm-1", policy=BESIDE), sensed(TYPING))
    assert does(now, wish(Ask.PAUSE))[1] == [("vm-1", Pause)]


# -- pressure and disk --------------------------------------------------------------------------------------------

PRESSED = msgspec.structs.replace(ROOMY, memory_pressure=50.0)
FULL = msgspec.structs.replace(ROOMY, disk_free_bytes=GIB)


def test_when_programs_wait_for_memory_one_vm_ends_and_the_mean_is_given_time_before_the_next() -> None:
    now, orders = does(running("vm-1", "vm-2"), sensed(machine=PRESSED))
    assert orders == [("vm-2", Pause), ("vm-2", Vacate)]
    assert now.vms["vm-2"].reason.name == "memory-pressure"
    now, orders = does(now, sensed(machine=PRESSED), at=2)
    assert orders == [], "the one that leaves is hurried, no other is asked"
    now, _ = does(now, happened(Gone, "vm-2"), at=3)
    assert does(now, sensed(machine=PRESSED), at=12)[1] == []
    assert does(now, sensed(machine=PRESSED), at=13.1)[1] == [("vm-1", Pause), ("vm-1", Vacate)]
    assert does(now, sensed(machine=SHORT), at=4)[1] == [("vm-1", Pause), ("vm-1", Vacate)], "short is short"


def test_a_disk_that_runs_full_ends_the_newest() -> None:
    now, orders = does(running("vm-1", "vm-2"), sensed(machine=FULL))
    assert orders == [("vm-2", Pause), ("vm-2", Vacate)]
    assert now.vms["vm-2"].reason.name == "disk-short"
