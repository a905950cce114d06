"""Layers from files: what was good stays in force while a file is not, and nothing gets looser by an accident."""

import os
import random
import time
from datetime import date, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deskgrid.agent.policy.calendar_events import days_of
from deskgrid.agent.policy.files import GONE_SECONDS, PolicyFiles
from deskgrid.core.policy.layers import Effective
from deskgrid.model.policy import Policy

TODAY = date(2026, 12, 1)
BERLIN = ZoneInfo("Europe/Berlin")
CALENDAR = """BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//test//test//EN
{events}END:VCALENDAR
"""


def calendar(*events: str) -> str:
    body = "".join(f"BEGIN:VEVENT\nUID:e{n}\n{event}\nEND:VEVENT\n" for n, event in enumerate(events))
    return CALENDAR.format(events=body).replace("\n", "\r\n")


class Place:
    """A policy folder, an agent's state folder, and a clock."""

    def __init__(self, tmp_path: Path) -> None:
        self.folder, self.state = tmp_path / "policy", tmp_path / "state"
        self.folder.mkdir()
        self.state.mkdir()
        self.settings = tmp_path / "agent.toml"
        self.now = 0.0
        self.stamp = 1_000_000
        self.begin()

    def begin(self) -> None:
        self.files = PolicyFiles(self.folder, self.state, self.settings, clock=lambda: self.now, today=lambda: TODAY)

    def write(self, name: str, text: str | bytes, folder: Path | None = None) -> None:
        path = (folder or self.folder) / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(0o644)
        self.stamp += 10
        os.utime(path, (self.stamp, self.stamp))

    def look(self) -> Effective | None:
        self.now += 1.0
        return self.files.read()

    def after_change(self) -> Effective | None:
        """Look twice: what has changed must have stood still."""
        assert self.look() is None
        return self.look()

    def resolved(self) -> Effective:
        """Wait for calendars."""
        effective, end = self.look(), time.monotonic() + 60
        while time.monotonic() < end:
            effective = self.look() or effective
            if not any(one.pending for one in self.files._calendars.values()):
                return self.look() or effective  # the last may have come after we looked
            time.sleep(0.02)
        return effective


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def policy(effective: Effective | None) -> Policy:
    assert effective is not None
    return effective.policy


def test_without_files_the_built_in_policy_holds_and_is_told_once(place: Place) -> None:
    assert policy(place.look()) == Policy()
    assert place.look() is None and place.files.refusals() == ()


def test_layers_are_read_in_their_order_and_only_tighten(place: Place) -> None:
    place.write("grid.toml", 'idle_seconds = 60\ncpu_share = 0.5\nmemory_reserve_bytes = "4GiB"\n')
    place.write("group.toml", "idle_seconds = 30\n")
    place.write("desktop.toml", 'quiet_programs = ["zoom"]\n')
    place.write("owner.toml", "cpu_share = 0.25\n", place.state)
    effective = place.look()
    held = policy(effective)
    assert (held.idle_seconds, held.cpu_share, held.quiet_programs) == (60, 0.25, ("zoom",))
    assert held.memory_reserve_bytes == 4 << 30
    assert [(one.layer, one.name) for one in effective.ignored] == [("group", "idle_seconds")]
    assert [name for name, _ in effective.sources] == ["grid", "group", "desktop", "owner"]


def test_the_table_in_the_agents_settings_is_the_desktops_layer_where_it_has_no_file(place: Place) -> None:
    place.write("agent.toml", 'coordinator = "https://head:9443"\n[policy]\nmax_vms = 1\n', place.settings.parent)
    effective = place.look()
    assert policy(effective).max_vms == 1
    assert effective.sources == (("desktop", f"{place.settings} [policy]"),)
    place.write("desktop.toml", "max_vms = 2\n")
    assert policy(place.after_change()).max_vms == 2


def test_a_table_in_the_agents_settings_that_does_not_count_does_no_harm(place: Place) -> None:
    place.write("agent.toml", "[policy]\nmax_vms = 900\n", place.settings.parent)
    place.look()
    assert place.files.refusals() != ()
    place.write("desktop.toml", "max_vms = 2\n")
    effective = place.after_change()
    assert policy(effective).max_vms == 2 and effective.faults == () and place.files.refusals() == ()


def test_a_changed_file_is_taken_when_it_has_stood_still(place: Place) -> None:
    place.write("grid.toml", "max_vms = 2\n")
    place.look()
    place.write("grid.toml", "max_vms = 1\n")
    assert place.look() is None
    place.write("grid.toml", "max_vms = 3\n")
    assert place.look() is None
    assert policy(place.look()).max_vms == 3
    assert place.look() is None


WRONG = {
    "half-written": "max_vms = 1\nidle_sec",
    "unknown": "max_vm = 9\n",
    "out of range": "max_vms = 900\n",
    "bad hours": 'closed = ["07:00-07:00"]\n',
    "bad zone": 'zone = "Mars/Olympus"\n',
    "empty": "",
    "blank": "\n\n",
    "binary": b"\xff\xfe\x00",
    "null": b"\x00" * 512,
    "huge": "#" * (2 << 20),
}


@pytest.mark.parametrize("wrong", list(WRONG.values()), ids=list(WRONG))
def test_a_wrong_file_leaves_the_last_good_one_in_force_and_is_told_over_restarts(
    place: Place, wrong: str | bytes
) -> None:
    place.write("grid.toml", "max_vms = 1\n")
    place.look()
    place.write("grid.toml", wrong)
    effective = place.after_change()
    assert policy(effective).max_vms == 1
    (fault,) = effective.faults
    assert "grid.toml" in fault and "what was good before stays in force" in fault
    place.begin()
    again = place.look()
    assert policy(again).max_vms == 1 and again.faults == effective.faults
    assert place.files.refusals() == ()
    place.write("grid.toml", "max_vms = 2\n")
    mended = place.after_change()
    assert policy(mended).max_vms == 2 and mended.faults == ()


@pytest.mark.parametrize("wrong", list(WRONG.values()), ids=list(WRONG))
def test_a_desktop_whose_file_was_never_good_starts_nothing_and_says_why(place: Place, wrong: str | bytes) -> None:
    place.write("group.toml", wrong)
    effective = place.look()
    assert effective.faults and policy(effective) == Policy()
    (reason,) = place.files.refusals()
    assert reason.name == "policy-unreadable" and "group.toml" in reason.reading
    place.write("group.toml", "max_vms = 2\n")
    place.after_change()
    assert place.files.refusals() == ()


def test_a_file_that_everybody_may_write_is_not_obeyed(place: Place) -> None:
    place.write("grid.toml", "max_vms = 1\n")
    place.look()
    place.write("grid.toml", "max_vms = 9\n")
    (place.folder / "grid.toml").chmod(0o666)
    effective = place.after_change()
    assert policy(effective).max_vms == 1 and "everybody may write it" in effective.faults[0]


def test_a_file_that_went_away_is_gone_only_after_a_while(place: Place) -> None:
    place.write("group.toml", "max_vms = 1\n")
    place.look()
    (place.folder / "group.toml").unlink()
    for _ in range(int(GONE_SECONDS)):
        assert place.look() is None
    assert policy(place.look()).max_vms == Policy().max_vms
    place.begin()
    assert policy(place.look()).max_vms == Policy().max_vms


def test_a_file_that_is_deleted_and_written_anew_was_never_gone(place: Place) -> None:
    place.write("group.toml", "max_vms = 1\n")
    place.look()
    (place.folder / "group.toml").unlink()
    place.look()
    place.write("group.toml", "max_vms = 1\nidle_seconds = 900\n")
    held = policy(place.after_change())
    assert (held.max_vms, held.idle_seconds) == (1, 900)


def test_a_file_that_was_deleted_while_no_agent_ran_is_gone_after_the_same_while(place: Place) -> None:
    place.write("group.toml", "max_vms = 1\n")
    place.look()
    (place.folder / "group.toml").unlink()
    place.begin()
    assert policy(place.look()).max_vms == 1
    place.now += GONE_SECONDS
    assert policy(place.look()).max_vms == Policy().max_vms


@pytest.mark.parametrize("how", ["folder", "dangling link", "loop"])
def test_a_file_that_cannot_be_read_is_kept(place: Place, how: str) -> None:
    path = place.folder / "grid.toml"
    place.write("grid.toml", "max_vms = 1\n")
    place.look()
    path.unlink()
    if how == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if how == "loop" else place.folder / "nowhere")
    effective = place.after_change()
    assert policy(effective).max_vms == 1 and "grid.toml" in effective.faults[0]
    place.now += 10 * GONE_SECONDS
    assert place.look() is None


def test_a_damaged_file_of_what_was_good_is_told_and_written_anew(place: Place) -> None:
    place.write("grid.toml", "max_vms = 1\n")
    place.look()
    for damage in (b"\x00\x01", b'{"layers": {"grid": {"max_vms": 900}}}', b"[]"):
        (place.state / "policy-last-good.json").write_bytes(damage)
        place.begin()
        effective = place.look()
        assert policy(effective).max_vms == 1
    (place.state / "policy-last-good.json").write_bytes(b"\x00\x01")
    place.write("grid.toml", "max_vms =")
    place.begin()
    assert len(place.look().faults) >= 1
    assert place.files.refusals() != ()


@pytest.mark.parametrize("seed", range(6))
def test_a_file_cut_off_anywhere_is_never_looser_than_the_one_before_for_longer_than_it_stands(
    place: Place, seed: int
) -> None:
    """Cut between two lines it is valid, and so it is obeyed if it stays; a writer at work is waited for."""
    rng = random.Random(seed)
    place.write("grid.toml", "max_vms = 1\n")
    place.look()
    whole = 'max_vms = 1\nidle_seconds = 1200\nclosed = ["Mon-Fri 06:00-20:00"]\n'
    for cut in sorted(rng.sample(range(1, len(whole)), 8)):
        place.write("grid.toml", whole[:cut])
        assert place.look() is None
    place.write("grid.toml", whole)
    held = policy(place.after_change())
    assert (held.max_vms, held.idle_seconds) == (1, 1200)


# -- calendars ----------------------------------------------------------------------------------------------------


def expand(*events: str, touching: bool = False, zone: tzinfo = BERLIN) -> list[str]:
    found = days_of(calendar(*events).encode(), TODAY, 60, touching=touching, zone=zone)
    return [day.isoformat()[5:] for day in found]


def test_events_of_whole_days_count_for_each_of_their_days() -> None:
    assert expand("DTSTART;VALUE=DATE:20261224") == ["12-24"]
    assert expand("DTSTART;VALUE=DATE:20261224\nDTEND;VALUE=DATE:20261227") == ["12-24", "12-25", "12-26"]
    assert expand("DTSTART;VALUE=DATE:20261224\nDURATION:P2D") == ["12-24", "12-25"]
    assert expand("DTSTART;VALUE=DATE:20261130\nDTEND;VALUE=DATE:20261203") == ["12-01", "12-02"]


def test_events_that_recur_are_expanded_with_their_exceptions() -> None:
    weekly = "DTSTART;VALUE=DATE:20261204\nRRULE:FREQ=WEEKLY;UNTIL=20261225T000000Z"
    assert expand(weekly) == ["12-04", "12-11", "12-18", "12-25"]
    assert expand(f"{weekly}\nEXDATE;VALUE=DATE:20261211\nRDATE;VALUE=DATE:20261207") == [
        "12-04",
        "12-07",
        "12-18",
        "12-25",
    ]
    assert expand("DTSTART;VALUE=DATE:19991225\nRRULE:FREQ=YEARLY") == ["12-25"]


def test_a_single_changed_instance_replaces_the_one_of_the_rule_and_a_cancelled_event_does_not_count() -> None:
    text = CALENDAR.format(
        events="BEGIN:VEVENT\nUID:x\nDTSTART;VALUE=DATE:20261204\nRRULE:FREQ=WEEKLY;COUNT=3\nEND:VEVENT\n"
        "BEGIN:VEVENT\nUID:x\nRECURRENCE-ID;VALUE=DATE:20261211\nDTSTART;VALUE=DATE:20261212\nEND:VEVENT\n"
        "BEGIN:VEVENT\nUID:y\nDTSTART;VALUE=DATE:20261231\nSTATUS:CANCELLED\nEND:VEVENT\n"
    )
    assert days_of(text.encode(), TODAY, 60, touching=False, zone=BERLIN) == [
        date(2026, 12, 4),
        date(2026, 12, 12),
        date(2026, 12, 18),
    ]


def test_an_event_of_hours_closes_its_days_and_gives_none_off() -> None:
    exam = "DTSTART;TZID=Europe/Berlin:20261210T220000\nDTEND;TZID=Europe/Berlin:20261211T020000"
    assert expand(exam) == []
    assert expand(exam, touching=True) == ["12-10", "12-11"]
    assert expand("DTSTART:20261210T090000\nDTEND:20261211T000000", touching=True) == ["12-10"]
    assert expand("DTSTART:20261210T090000", touching=True) == ["12-10"]


@pytest.mark.parametrize("content", [b"", b"hello", b"BEGIN:VCALENDAR\r\n"])
def test_what_is_no_calendar_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        days_of(content, TODAY, 60, touching=False, zone=BERLIN)


def test_days_come_from_a_calendar_beside_the_file_that_names_it(place: Place) -> None:
    place.write("holidays.ics", calendar("DTSTART;VALUE=DATE:20261224"))
    place.write("exams.ics", calendar("DTSTART:20261210T090000\nDTEND:20261210T120000"))
    place.write(
        "grid.toml",
        'days_off = [2026-12-23]\ndays_off_file = "holidays.ics"\ndays_closed_file = "exams.ics"\n',
    )
    first = place.look()
    assert policy(first).days_off == (date(2026, 12, 23),)
    assert [reason.name for reason in place.files.refusals()] == ["policy-unreadable"], "exams are not known yet"
    held = policy(place.resolved())
    assert held.days_off == (date(2026, 12, 23), date(2026, 12, 24))
    assert held.days_closed == (date(2026, 12, 10),)
    assert place.files.refusals() == ()


def test_a_calendar_that_breaks_or_goes_away_leaves_its_last_good_days_over_restarts(place: Place) -> None:
    place.write("exams.ics", calendar("DTSTART;VALUE=DATE:20261210"))
    place.write("group.toml", 'days_closed_file = "exams.ics"\n')
    place.resolved()
    place.write("exams.ics", "BEGIN:VCAL")
    broken = place.resolved()
    assert policy(broken).days_closed == (date(2026, 12, 10),)
    assert "exams.ics: cannot be read" in broken.faults[0]
    (place.folder / "exams.ics").unlink()
    place.begin()
    gone = place.resolved()
    assert policy(gone).days_closed == (date(2026, 12, 10),) and "missing" in gone.faults[0]
    assert place.files.refusals() == ()
    place.write("exams.ics", calendar("DTSTART;VALUE=DATE:20261211"))
    mended = place.resolved()
    assert policy(mended).days_closed == (date(2026, 12, 11),) and mended.faults == ()


def test_a_calendar_that_was_never_good_lets_nothing_start(place: Place) -> None:
    place.write("group.toml", 'days_closed_file = "nowhere.ics"\n')
    effective = place.resolved()
    assert "nowhere.ics: missing" in effective.faults[0]
    assert "nowhere.ics" in place.files.refusals()[0].reading


def test_a_command_waits_for_calendars_and_keeps_nothing(place: Place) -> None:
    place.write("exams.ics", calendar("DTSTART;VALUE=DATE:20261210"))
    place.write("grid.toml", 'days_closed_file = "exams.ics"\n')
    files = PolicyFiles(place.folder, place.state, keep=False, today=lambda: TODAY)
    assert files.settled(60).policy.days_closed == (date(2026, 12, 10),)
    assert list(place.state.iterdir()) == []
