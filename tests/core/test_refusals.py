"""What a desktop is called in lists."""

import pytest

from deskgrid.core.refusals import REFUSALS, state, tally
from deskgrid.model.desktop import Availability, Room
from deskgrid.model.reason import Reason

ROOM, NO_ROOM = Room(4, 1 << 30, 1 << 30, 1), Room(0, 0, 0, 0)
SOMEBODY_IS_THERE = {"owner-active", "remote-session", "watching", "full-screen", "quiet-program"}


def refusing(*names: str) -> Availability:
    return Availability(False, tuple(Reason(name, "No.") for name in names))


def test_a_desktop_that_refuses_nothing_is_available_while_it_has_room() -> None:
    assert state(Availability(True), ROOM) == "available"
    assert state(Availability(True), NO_ROOM) == "full"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_a_desktop_is_in_use_only_where_somebody_uses_it(refusal: object) -> None:
    name = refusal.name  # type: ignore[attr-defined]
    assert (state(refusing(name), ROOM) == "in use") == (name in SOMEBODY_IS_THERE)


def test_a_desktop_that_waits_for_its_turn_is_waiting_and_the_first_refusal_counts() -> None:
    for name in ("just-booted", "start-spacing", "start-offset"):
        assert state(refusing(name), ROOM) == "waiting"
    assert state(refusing("owner-paused", "owner-active"), ROOM) == "paused"
    assert state(refusing("policy-unreadable"), ROOM) == "not fit"


def test_for_everybody_to_read_a_name_that_only_its_desktop_knows_is_other() -> None:
    said = [
        Reason(name, "")
        for name in ("owner-active", "owner-active", "no-demand", "pay here " + "x" * 100_000, "y", "machine-unknown")
    ]
    assert tally(said) == ["2 owner-active", "2 other", "1 no-demand", "1 machine-unknown"]
