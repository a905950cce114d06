"""Who gives, and who is told of whom."""

from collections import Counter

import msgspec
import pytest

from deskgrid.core.fleet.neighbours import MOST, Giver, gives, neighbours_of, subnet
from deskgrid.core.policy.refusals import BY_NAME, REFUSALS, Effect
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason

from .values import IMAGE, NOW, OTHER, after

ON = Policy(neighbours=True)


def giver(number: int, address: str = "", **more: object) -> Giver:
    known = Giver(f"lab-{number:02}", address or f"10.0.7.{number}", 4000 + number, NOW, (IMAGE,))
    return msgspec.structs.replace(known, **more)


def told(me: Giver | None, others: list[Giver], vm_id: str = "vm-1") -> tuple[str, ...]:
    return neighbours_of(me, IMAGE, others, vm_id, NOW, 120.0)


def test_it_is_switched_off_unless_a_policy_says_otherwise() -> None:
    assert not gives(Policy(), Availability(True))
    assert gives(ON, Availability(True))


@pytest.mark.parametrize("name", [refusal.name for refusal in REFUSALS])
def test_a_desktop_gives_only_while_virtual_machines_may_run_even_if_it_has_no_room_for_another(name: str) -> None:
    refused = Availability(False, (Reason(name, "So."),))
    full = ("memory-reserve", "memory-short", "disk-floor", "disk-short", "start-spacing", "start-offset")
    assert gives(ON, refused) == (name in full)
    assert not (gives(ON, refused) and BY_NAME[name].effect is Effect.STOP)


def test_a_desktop_is_told_of_those_on_its_subnet_that_hold_the_image() -> None:
    others = [
        giver(1),
        giver(2),
        giver(3, images=(OTHER,)),
        giver(4, "10.0.8.4"),
        giver(5, heard_at=after(-121)),
        giver(6, "not an address"),
    ]
    assert told(giver(1), others) == ("http://10.0.7.2:4002",)


def test_who_does_not_give_is_told_of_nobody() -> None:
    assert told(None, [giver(2)]) == ()


def test_nobody_is_told_of_another_at_its_own_address() -> None:
    assert told(giver(1), [giver(2, "10.0.7.1"), giver(3, "::ffff:10.0.7.1")]) == ()


def test_at_most_three_are_named_always_the_same_for_one_machine_whatever_the_order_of_the_reports() -> None:
    others = [giver(number) for number in range(1, 60)]
    named = told(giver(1), others)
    assert len(set(named)) == MOST == 3
    assert told(giver(1), others[::-1]) == named


def test_one_that_goes_changes_nothing_about_the_others() -> None:
    others = [giver(number) for number in range(2, 60)]
    first, *rest = told(giver(1), others)
    assert told(giver(1), [one for one in others if f":{one.port}" not in first])[:2] == tuple(rest)


def test_the_work_is_spread_evenly() -> None:
    others = [giver(number) for number in range(1, 51)]
    asked = Counter(url for n in range(1000) for url in told(giver(1), others, f"vm-{n}"))
    assert len(asked) == 49, "all but the one that asks"
    assert min(asked.values()) > 25 and max(asked.values()) < 110, "61 each on average"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.168.1.7", "192.168.1.250", True),
        ("192.168.1.7", "192.168.2.7", False),
        ("192.168.1.7", "::ffff:192.168.1.9", True),
        ("fd00:1:2:3::1", "fd00:1:2:3:ffff::2", True),
        ("fd00:1:2:3::1", "fd00:1:2:4::1", False),
    ],
)
def test_a_subnet_is_a_24_or_a_64(one: str, other: str, same: bool) -> None:
    assert subnet(one) and (subnet(one) == subnet(other)) == same


@pytest.mark.parametrize("address", ["129.70.1.2", "2a00:1450::1", "0.0.0.0", "::", "fe80::1", "?", " "])
def test_addresses_that_are_public_or_none_have_no_neighbours(address: str) -> None:
    assert subnet(address) == ""
    assert told(giver(1, address), [giver(2, address)]) == ()


def test_an_address_of_ipv6_is_written_as_one_in_a_url() -> None:
    assert told(giver(1, "fd00::1"), [giver(2, "fd00::2")]) == ("http://[fd00::2]:4002",)
