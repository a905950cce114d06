"""Neighbours: what reports say of them, and for how long."""

from datetime import timedelta

import msgspec

from deskgrid.coordinator.state.neighbours import Neighbours
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.wire.messages import Report

from .values import FREE, GIB, IMAGE, ROOM, START, WHY


def report(port: int, *images: ImageRef) -> Report:
    return Report("start-1", 1, START, FREE, ROOM, 8, 1 << 34, images=images, neighbour_port=port)


def lab() -> Neighbours:
    known = Neighbours(120.0)
    for number in (1, 2, 3):
        known.hear(f"lab-{number}", f"10.0.7.{number}", report(4000 + number, IMAGE), START)
    return known


def test_a_desktop_that_gives_is_told_of_the_others() -> None:
    assert set(lab().of("lab-1", IMAGE, "vm-1", START)) == {"http://10.0.7.2:4002", "http://10.0.7.3:4003"}


def test_without_a_port_in_its_report_a_desktop_neither_gives_nor_is_told() -> None:
    known = lab()
    known.hear("lab-2", "10.0.7.2", report(0, IMAGE), START)
    assert known.of("lab-1", IMAGE, "vm-1", START) == ("http://10.0.7.3:4003",)
    assert known.of("lab-2", IMAGE, "vm-1", START) == ()
    assert known.of("never heard of", IMAGE, "vm-1", START) == ()


def test_a_desktop_that_moved_has_other_neighbours() -> None:
    known = lab()
    known.hear("lab-1", "10.0.8.1", report(4001, IMAGE), START)
    assert known.of("lab-1", IMAGE, "vm-1", START) == ()
    assert known.of("lab-2", IMAGE, "vm-1", START) == ("http://10.0.7.3:4003",)


def test_who_is_silent_is_not_named() -> None:
    known, later = lab(), START + timedelta(seconds=121)
    known.hear("lab-1", "10.0.7.1", report(4001), later)
    known.hear("lab-3", "10.0.7.3", report(4003, IMAGE), later)
    assert known.of("lab-1", IMAGE, "vm-1", later) == ("http://10.0.7.3:4003",)


def test_who_is_forgotten_is_not_named_and_again_is_no_harm() -> None:
    known = lab()
    for _ in range(2):
        for number in (1, 2, 3):
            known.drop(f"lab-{number}")
    assert known.of("lab-1", IMAGE, "vm-1", START) == ()
    known.hear("lab-1", "10.0.7.1", report(4001, IMAGE), START)
    known.hear("lab-2", "10.0.7.2", report(4002, IMAGE), START)
    assert known.of("lab-1", IMAGE, "vm-1", START) == ("http://10.0.7.2:4002",)


def test_a_grant_names_neighbours_before_all_other_sources() -> None:
    grant = ImageGrant("lab", "1", "0" * 64, ("https://cache",))
    lease = Lease("vm-1", "lab-1", IMAGE, Size(1, GIB), START, START, WHY)
    enclosed = lab().enclose(grant, lease, START)
    assert set(enclosed.sources[:2]) == {"http://10.0.7.2:4002", "http://10.0.7.3:4003"}
    assert enclosed.sources[2:] == ("https://cache",)
    assert msgspec.structs.replace(enclosed, sources=grant.sources) == grant
    assert Neighbours(120.0).enclose(grant, lease, START) == grant


def test_public_addresses_have_no_neighbours() -> None:
    known = Neighbours(120.0)
    for number in (1, 2):
        known.hear(f"lab-{number}", f"129.70.1.{number}", report(4001, IMAGE), START)
    assert known.of("lab-1", IMAGE, "vm-1", START) == ()
