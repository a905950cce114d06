"""One desktop's agent against fakes, under a virtual clock."""

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from deskgrid.agent.report_session import RETRY
from deskgrid.core.desktop.inputs import Finishing
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.images.fake import FakeStore
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.model.reason import Reason
from deskgrid.presence.fake import PRESENT, Owner

from .world import IMAGE, ROOMY, SECRET, START, World

ALL_DAY = Policy(
    closed=(), idle_seconds_nobody=60.0, grace_seconds=60.0, start_spacing_seconds=0.0, start_offset_seconds=0.0
)
NO_GRACE = msgspec.structs.replace(ALL_DAY, grace_seconds=0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, ALL_DAY)


# -- the way of one VM --------------------------------------------------------------------------------------------


def test_a_vm_that_is_wanted_comes_up_and_its_story_is_told(world: World) -> None:
    world.up()
    world.pass_(30)
    assert world.office.states() == ["fetching", "starting", "booting", "running"]
    assert "joined" in [line.event for line in world.office.story]
    assert world.office.reports[-1].vms[0].state == "running"


def test_an_image_that_is_not_here_is_fetched_first(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, held=())
    assert world.line.said[0].images == ()
    world.up()
    assert world.office.reports[-1].images == (IMAGE,)


def test_a_renewed_token_reaches_the_guest_and_one_that_is_not_there_yet_starts_with_it(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    world.up()
    assert world.iron.vms["vm-1"].token == SECRET
    world.office.renewed["vm-1"] = "a.newer.token"
    world.pass_(25)
    assert world.iron.vms["vm-1"].token == "a.newer.token"
    slow = World(tmp_path / "slow", ALL_DAY, held=())
    slow.fetch_seconds = 60.0
    slow.office.want()
    slow.pass_(25)
    slow.office.renewed["vm-1"] = "a.newer.token"
    slow.pass_(60)
    assert slow.iron.vms["vm-1"].spec.instance.token == "a.newer.token"


def test_a_vm_that_is_no_longer_wanted_leaves_and_its_files_are_let_go(world: World) -> None:
    world.up()
    world.office.wanted.clear()
    world.pass_(40)
    assert not world.there() and world.store.opened == {}
    assert world.office.ended[0].reason.name == "withdrawn"


def test_a_vm_that_leaves_by_itself_ends_as_unused_and_nobody_is_at_fault(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, GuestBehaviour(leaves_after_seconds=100.0))
    world.up()
    world.pass_(150)
    assert [(vm.reason.name, vm.fault) for vm in world.office.ended] == [("guest-unused", Fault.NONE)]
    assert not world.there()


def test_a_guest_that_says_it_failed_is_its_images_fault(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, GuestBehaviour(leaves_after_seconds=10.0, leaves_as="failed"))
    world.office.want()
    world.pass_(90)
    assert [(vm.reason.name, vm.fault) for vm in world.office.ended] == [("guest-failed", Fault.IMAGE)]


def test_a_vm_that_dies_is_told_with_its_last_sentence(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, GuestBehaviour(ends_after_seconds=100.0, ends_with="QEMU was killed by signal 9"))
    world.up()
    world.pass_(100)
    assert world.office.ended[0].reason.name == "died"
    assert "signal 9" in world.office.ended[0].reason.sentence


def test_a_silent_guest_on_hardware_makes_the_next_vm_run_under_emulation(tmp_path: Path) -> None:
    guest = GuestBehaviour(silent_on=frozenset({"kvm"}))
    world = World(tmp_path, ALL_DAY, guest, accelerators=("kvm", "tcg"))
    world.office.want()
    world.pass_(60)
    assert world.office.ended[0].fault is Fault.DESKTOP and world.iron.distrusted == {"kvm"}
    world.office.want("vm-2")
    world.pass_(60)
    assert world.loop.state.vms["vm-2"].accelerator == "tcg"


def test_a_start_that_fails_tells_whose_fault_it_was(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, GuestBehaviour(start_fault="desktop"))
    world.office.want()
    world.pass_(40)
    assert [(vm.reason.name, vm.fault) for vm in world.office.ended] == [("start-failed", Fault.DESKTOP)]
    assert world.store.opened == {}


def test_an_image_that_cannot_be_had_ends_the_vm_with_the_sentence(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY)
    world.store.damage(IMAGE)
    world.office.want()
    world.pass_(40)
    assert [(vm.reason.name, vm.fault) for vm in world.office.ended] == [("fetch-failed", Fault.DESKTOP)]
    assert "damaged" in world.office.ended[0].reason.sentence


class Decaying(FakeStore):
    """Its images are damaged as soon as they were fetched."""

    def fetch(self, ref: ImageRef, grant: ImageGrant | None = None) -> None:
        super().fetch(ref)
        self.damage(ref)


def test_an_image_that_is_damaged_between_fetch_and_start_ends_the_vm(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, store=Decaying)
    world.office.want()
    world.pass_(50)
    assert [(vm.reason.name, vm.fault) for vm in world.office.ended] == [("start-failed", Fault.DESKTOP)]


# -- the owner ----------------------------------------------------------------------------------------------------


def test_the_owner_who_returns_stops_the_processors_in_the_same_turn(world: World) -> None:
    world.up()
    world.comes()
    world.pass_(0.0)
    assert world.there() and not world.running()


def test_the_owner_who_goes_within_the_grace_gets_their_vm_going_again(world: World) -> None:
    world.up()
    world.comes()
    world.pass_(10)
    world.goes()
    world.pass_(1)
    assert world.running()
    assert world.office.ended == []


def test_the_owner_who_stays_has_their_memory_back_after_grace_and_leave(world: World) -> None:
    world.up()
    world.comes()
    world.pass_(60 + 2 + 0.2)
    assert not world.there()


def test_without_grace_the_owner_has_their_memory_back_in_three_seconds(tmp_path: Path) -> None:
    world = World(tmp_path, NO_GRACE, GuestBehaviour(leave_seconds=None))
    world.up()
    world.comes()
    world.pass_(2.5)
    assert not world.there()


def test_an_owner_that_no_driver_announced_is_noticed_within_a_second(world: World) -> None:
    world.up()
    world.presence.set(PRESENT)
    world.pass_(1.0)
    assert not world.running()


def test_the_coordinator_hears_at_once_that_the_owner_is_back(world: World) -> None:
    world.pass_(5)
    world.comes()
    world.pass_(0.1)
    assert not world.office.reports[-1].availability.available
    assert world.office.reports[-1].availability.refusals[0].name == "owner-active"


def test_an_owner_who_is_only_idle_counts_on_from_what_the_driver_says(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, owner=Owner(logged_in=True, idle_seconds=0.0))
    world.pass_(599)
    assert not world.loop.state.availability.available
    world.pass_(10)
    assert world.loop.state.availability.available


def test_a_desktop_without_a_hypervisor_says_so_and_takes_nothing(world: World) -> None:
    world.faults = (Reason("no-hypervisor", "QEMU is not installed."),)
    world.pass_(6)
    world.office.want()
    world.pass_(30)
    assert world.office.ended[0].reason.name == "no-hypervisor"


def test_when_memory_is_short_one_vm_ends_for_each_reading(world: World) -> None:
    world.up("vm-1")
    world.up("vm-2")
    world.machine = msgspec.structs.replace(ROOMY, memory_available_bytes=GIB // 2)
    world.pass_(1.0)
    world.machine = ROOMY
    world.pass_(30)
    assert [vm.vm_id for vm in world.office.ended] == ["vm-2"]
    assert world.running("vm-1")


# -- the coordinator ----------------------------------------------------------------------------------------------


def test_a_desktop_reports_as_often_as_it_is_asked_to(world: World) -> None:
    world.pass_(100)
    assert 5 <= len(world.line.said) <= 7


def test_a_coordinator_that_is_gone_is_tried_again_later_and_later(world: World) -> None:
    world.pass_(1)
    world.line.down = "connection refused"
    world.pass_(900)
    at = [report.sent_at for report in world.line.said[2:]]
    waits = [(b - a).total_seconds() for a, b in pairwise(at)]
    assert waits[0] <= 2 * RETRY.first_seconds + 0.1
    assert waits == sorted(waits) and waits[-1] <= RETRY.most_seconds + 0.1
    assert world.loop.session.fault == "connection refused"
    world.line.down = ""
    world.pass_(61)
    assert world.loop.session.fault == "" and world.loop.session.reached_at is not None


def test_many_desktops_that_lost_their_coordinator_do_not_come_back_at_once(tmp_path: Path) -> None:
    firsts = set()
    for n in range(5):
        world = World(tmp_path / str(n), ALL_DAY, jitter=lambda n=n: n / 5)
        world.line.down = "connection refused"
        world.pass_(900)
        firsts.add(world.line.said[-1].sent_at)
    assert len(firsts) == 5


def test_with_the_coordinator_gone_the_owner_still_wins(world: World) -> None:
    world.up()
    world.line.down = "connection refused"
    world.comes()
    world.pass_(0.1)
    assert not world.running()


def test_with_the_coordinator_gone_a_vm_runs_until_its_lease_is_over_and_is_told_of_afterwards(world: World) -> None:
    world.up()
    world.line.down = "connection refused"
    world.pass_(270)
    assert world.running()
    world.pass_(60)
    assert not world.there()
    world.line.down = ""
    world.pass_(61)
    assert [vm.reason.name for vm in world.office.ended] == ["lease-over"]


def test_a_coordinator_whose_clock_is_an_hour_off_does_no_harm(tmp_path: Path) -> None:
    for skew in (-3600, 3600):
        world = World(tmp_path / str(skew), ALL_DAY, skew=timedelta(seconds=skew))
        world.up()
        world.pass_(900)
        assert world.running()


def test_a_report_that_may_be_held_says_so_only_while_vms_may_start(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, hold_seconds=25.0)
    world.pass_(30)
    assert world.line.said[-1].wait_seconds == 25.0
    world.comes()
    world.pass_(1)
    assert world.line.said[-1].wait_seconds == 0.0


def test_a_report_that_was_held_until_its_end_is_followed_by_the_next_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, hold_seconds=25.0)
    world.line.fate = lambda report: ((0.01,), (25.0,))
    world.pass_(75)
    assert [round((r.sent_at - START).total_seconds()) for r in world.line.said] == [0, 20, 45, 70]


def test_after_a_report_that_failed_the_next_one_asks_for_an_answer_at_once(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, hold_seconds=25.0)
    world.pass_(5)
    world.line.fate = lambda report: ((0.01,), ())
    world.pass_(60)
    world.line.fate = lambda report: ((0.01,), (0.01,))
    world.pass_(60)
    assert [report.wait_seconds for report in world.line.said] == [25.0, 25.0, 0.0, 0.0, 25.0, 25.0]


def test_a_refused_order_leaves_no_secret_behind(world: World) -> None:
    world.office.want(size=Size(64, GIB))
    world.pass_(30)
    assert world.office.ended[0].reason.name == "no-room"
    assert SECRET not in repr(vars(world.loop)) and world.loop._orders == {}


def test_an_answer_that_comes_too_late_leaves_no_secret_behind(world: World) -> None:
    world.office.want()
    world.line.fate = lambda report: ((0.01,), (30.0, 0.01)) if report.sequence == 2 else ((0.01,), (0.01,))
    world.pass_(25)
    world.office.wanted.clear()
    world.pass_(100)
    assert world.loop.state.vms == {} and world.loop._orders == {}


def test_no_secret_is_in_what_is_said_or_kept(world: World) -> None:
    world.up()
    assert SECRET.encode() not in b"".join(msgspec.json.encode(report) for report in world.line.said)
    assert all(SECRET.encode() not in path.read_bytes() for path in world.folder.rglob("*") if path.is_file())


# -- an agent that ends, and one that comes back ------------------------------------------------------------------


def test_an_agent_that_is_told_to_stop_asks_its_vms_to_leave_and_tells_of_their_end(world: World) -> None:
    world.up()
    world.put(Finishing(Reason("agent-stops", "The agent was told to stop.")))
    world.pass_(3)
    assert not world.there() and world.loop.state.vms == {}
    assert [vm.reason.name for vm in world.office.ended] == ["agent-stops"]
    world.office.want("vm-2")
    world.pass_(30)
    assert [vm.reason.name for vm in world.office.ended] == ["agent-stops", "agent-stops"]


def test_an_agent_that_was_killed_finds_its_vm_again_and_goes_on(world: World) -> None:
    world.up()
    world.die()
    world.pass_(2)
    world.wake()
    assert world.loop.state.vms["vm-1"].state == "running"
    world.pass_(600)
    assert world.running() and world.office.ended == []


def test_a_vm_whose_agent_does_not_come_back_is_gone_in_five_seconds(world: World) -> None:
    world.up()
    world.die()
    world.pass_(5)
    assert not world.there()


def test_an_agent_that_comes_back_to_its_owner_pauses_what_it_finds_at_once(world: World) -> None:
    world.up()
    world.die()
    world.presence.set(PRESENT)
    world.pass_(1)
    world.wake()
    assert not world.running()


def test_a_vm_found_paused_is_gone_after_the_grace_though_its_lease_is_renewed(world: World) -> None:
    world.up()
    world.comes()
    world.pass_(10)
    world.die()
    world.pass_(1)
    world.wake()
    assert world.loop.state.vms["vm-1"].state == "paused"
    world.pass_(63)
    assert not world.there()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b'[{"vm_id": "vm-1", "desk',
        b"\x00\xff",
        b"{}",
        b'[{"vm_id": "vm-1", "desktop": "desk-1", "image": {"name": "its-sl6", "digest": "' + b"a" * 64 + b'"}, '
        b'"size": {"cpus": 1, "memory_bytes": 1}, "granted_at": "2026-03-03T20:00:00", '
        b'"until": "2030-03-03T20:00:00", "reason": {"name": "demand", "sentence": "No zone."}}]',
    ],
    ids=["missing", "empty", "half-written", "binary", "foreign", "times-without-zone"],
)
def test_without_a_readable_file_of_leases_what_runs_is_ended(world: World, content: bytes | None) -> None:
    world.up()
    world.die()
    file = world.folder / "leases.json"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    world.pass_(1)
    world.wake()
    world.pass_(1)
    assert world.loop.state.vms == {} and not world.there()


def test_a_vm_whose_lease_ended_while_the_agent_was_away_is_ended(world: World) -> None:
    world.up()
    world.line.down = "connection refused"
    world.pass_(280)
    world.die()
    world.pass_(3)
    world.time.at += timedelta(seconds=60)
    world.wake()
    world.pass_(1)
    assert not world.there()


def test_an_order_without_instance_data_for_a_vm_that_is_not_here_is_not_begun(world: World) -> None:
    world.office.want()
    world.pass_(0.3)
    assert world.loop.state.vms["vm-1"].state == "fetching"
    world.die()
    world.wake()
    world.pass_(60)
    assert world.loop.state.vms == {} and world.loop.state.ended == ()


def test_a_disk_that_is_full_for_the_file_of_leases_does_not_stop_the_agent(world: World) -> None:
    world.folder.joinpath("leases.json").mkdir()
    world.up()
    assert world.running()


# -- what can't be read -------------------------------------------------------------------------------------------


def test_a_computer_that_can_not_be_read_refuses_and_ends_no_agent(tmp_path: Path) -> None:
    def odd(policy: Policy) -> Machine:
        raise ValueError("invalid literal: 'a\udcff'")

    world = World(tmp_path, ALL_DAY)
    world.more["read_machine"] = odd
    world.wake()
    world.office.want()
    world.pass_(60)
    refusals = world.office.reports[-1].availability.refusals
    assert refusals[0].name == "machine-unknown" and "ValueError" in refusals[0].reading
    assert not world.there() and world.office.reports[-1].room.memory_bytes == 0
    world.more.clear()
    world.wake()
    world.pass_(30)
    assert world.office.reports[-1].availability.refusals == ()


def test_a_computer_that_can_be_read_again_takes_machines_again(tmp_path: Path) -> None:
    told: list[Exception] = []

    def now_and_then(policy: Policy) -> Machine:
        if told:
            raise told[0]
        return ROOMY

    world = World(tmp_path, ALL_DAY)
    world.more["read_machine"] = now_and_then
    world.wake()
    told.append(OSError("no such file"))
    world.pass_(30)
    assert [one.name for one in world.office.reports[-1].availability.refusals][:1] == ["machine-unknown"]
    told.clear()
    world.pass_(30)
    world.office.want()
    world.pass_(30)
    assert world.running()
