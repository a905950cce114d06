"""What the fake does beyond the contract: guests' behaviour as data, in a guest's own time."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rigs import GUESTS, FakeRig, into, spec_of

from deskgrid.core.commands import Kill, Pause, Resume, Vacate
from deskgrid.core.events import Alive, FromHypervisor, Gone, Joined, Started
from deskgrid.hypervisor.fake import FakeDesktop, FakeHypervisor
from deskgrid.hypervisor.fake_guest import GuestBehaviour


def test_a_guest_s_time_stands_still_while_it_is_paused() -> None:
    rig = FakeRig()
    vm = rig.start("obedient")
    rig.pass_time(3.0)
    rig.driver.order(vm, Pause())
    rig.pass_time(60.0)
    assert not any(isinstance(event, Alive) for event in rig.events(vm))
    before = rig.now()
    rig.driver.order(vm, Resume())
    rig.wait(vm, Alive)
    assert 2.0 < rig.now() - before < 2.6


def test_a_vm_that_was_paused_before_it_started_starts_when_it_may() -> None:
    rig = FakeRig()
    vm = rig.start("obedient")
    rig.driver.order(vm, Pause())
    rig.pass_time(5.0)
    assert rig.events(vm) == []
    rig.driver.order(vm, Resume())
    assert rig.wait(vm, Started).accelerator == "kvm"


def test_a_guest_that_hangs_on_one_accelerator_lives_on_the_next_after_distrust() -> None:
    rig = FakeRig()
    GUESTS["picky"] = ("", GuestBehaviour(silent_on=frozenset({"kvm"})))
    try:
        rig.come_back()
    finally:
        del GUESTS["picky"]
    vm = rig.start_spec(spec_of("vm-kvm", "obedient", None), image="picky")
    assert rig.wait(vm, Started).accelerator == "kvm"
    rig.pass_time(100.0)
    assert not any(isinstance(event, Alive) for event in rig.events(vm))
    rig.driver.distrust("kvm")
    rig.driver.order(vm, Kill())
    again = rig.start_spec(spec_of("vm-tcg", "obedient", None), image="picky")
    assert rig.wait(again, Started).accelerator == "fake"
    rig.wait(again, Joined)
    rig.driver.distrust("fake")
    third = rig.start_spec(spec_of("vm-last", "obedient", None), image="picky")
    assert rig.wait(third, Started).accelerator == "fake"


def test_without_a_limit_of_silence_vms_live_on_untended() -> None:
    rig = FakeRig()
    events: list[FromHypervisor] = []
    driver = FakeHypervisor(
        into(events),
        rig.later,
        rig.clock,
        desktop=FakeDesktop(),
        silence_seconds=None,
    )
    driver.start(spec_of("vm-1", "obedient", None))
    rig.pass_time(1000.0)
    assert [type(event) for event in events] == [Started, Alive, Joined]
    driver.order("vm-1", Kill())
    rig.pass_time(1.0)
    assert isinstance(events[-1], Gone)


def test_nothing_is_emitted_inside_a_command() -> None:
    rig = FakeRig()
    vm = rig.start("obedient")
    rig.wait(vm, Joined)
    before = list(rig.events(vm))
    rig.driver.order(vm, Pause())
    rig.driver.order(vm, Vacate())
    rig.driver.order(vm, Kill())
    assert rig.events(vm) == before
