"""The page docs/vm-life.md is what the table says."""

from pathlib import Path

from deskgrid.core.desktop.vm import KINDS
from deskgrid.core.events import name_of
from deskgrid.core.figure import STATES, vm_life
from deskgrid.model.desktop import VmState

PAGE = Path(__file__).parents[2] / "docs" / "vm-life.md"


def test_the_page_on_the_life_of_a_vm_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == vm_life(), "docs/vm-life.md is out of date: renew it with `make docs`"


def test_every_state_and_every_event_is_explained() -> None:
    assert list(STATES) == list(VmState)
    assert all(f"**{name_of(kind)}**" in vm_life() for kind in KINDS)
