"""A simulated week says what the decisions say."""

from datetime import UTC, date
from zoneinfo import ZoneInfo

import pytest

from deskgrid.core.policy.week import days
from deskgrid.model.policy import Policy

BERLIN = ZoneInfo("Europe/Berlin")


def test_a_week_without_hours_gives_all_of_it() -> None:
    assert [day.hours for day in days(Policy(closed=()), (), date(2026, 3, 2), 7, UTC)] == [24.0] * 7


def test_working_hours_take_from_it_only_while_somebody_is_logged_in() -> None:
    policy = Policy(closed=("Mon-Fri 07:00-17:00",))
    assert sum(day.hours for day in days(policy, (), date(2026, 3, 2), 7, UTC)) == 168
    assert sum(day.hours for day in days(policy, ("Mon-Fri 08:30-17:30",), date(2026, 3, 2), 7, UTC)) == 168 - 5 * 8.5


def test_half_hours_that_are_given_in_part_say_what_takes_the_rest() -> None:
    (day,) = days(Policy(closed_nobody=("10:10-10:40",)), (), date(2026, 3, 2), 1, UTC)
    assert [(s.minutes, s.given, s.refusal) for s in day.slots[20:22]] == [
        (30, 10, "closed-hours"),
        (30, 20, "closed-hours"),
    ]
    assert day.hours == 23.5


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 29), 23.0), (date(2026, 10, 25), 25.0)])
def test_the_days_on_which_the_clocks_change_have_their_own_length(day: date, hours: float) -> None:
    (drawn,) = days(Policy(), (), day, 1, BERLIN)
    assert drawn.hours == hours
    assert drawn.slots[4].minutes == (0 if hours == 23 else 60)


def test_spacing_and_offset_take_nothing_from_it() -> None:
    (day,) = days(Policy(start_offset_seconds=3600.0, boot_delay_seconds=3600.0), (), date(2026, 3, 2), 1, UTC)
    assert day.hours == 24
