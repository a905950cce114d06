"""The pages docs/vm-life.md and docs/lease-life.md are what the tables say."""

from pathlib import Path

import pytest

from deskgrid.core.desktop.vm import KINDS
from deskgrid.core.events import name_of
from deskgrid.core.fleet.lease import LEASE_EVENTS, LeaseState
from deskgrid.model.desktop import VmState
from tools.drawings.lives import LEASE_STATES, VM_STATES, lease_life, vm_life

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"vm-life.md": vm_life, "lease-life.md": lease_life}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_on_a_life_is_current(name: str) -> None:
    drawn = PAGES[name]()
    assert (DOCS / name).read_text(encoding="utf-8") == drawn, f"docs/{name} is out of date: renew it with `make docs`"


def test_every_state_and_every_event_is_explained() -> None:
    assert list(VM_STATES) == list(VmState) and list(LEASE_STATES) == list(LeaseState)
    for kinds, page in ((KINDS, vm_life()), (LEASE_EVENTS, lease_life())):
        assert all(f"**{name_of(kind)}** | {(kind.__doc__ or '').splitlines()[0]}" in page for kind in kinds)
