"""The owner who does as told."""

import os
import threading
from pathlib import Path

import pytest

from deskgrid.model.policy import Machine
from deskgrid.model.presence import Ending
from deskgrid.presence.fake import AWAY, PRESENT, FakePresence, Owner, parse, set_presence
from tests.waiting import SOON_SECONDS


def test_words_and_json_say_the_same() -> None:
    assert parse(b"present\n") == PRESENT
    assert parse(b" away ") == AWAY
    assert parse(b'{"logged_in": true, "present": true}') == PRESENT
    assert parse(b'{"logged_in": true, "idle_seconds": 600}') == Owner(logged_in=True, idle_seconds=600.0)


@pytest.mark.parametrize("content", [b"", b"here", b"[]", b"{", b'{"idle_seconds": -1}', b'{"idle": 3}', b"\xff"])
def test_what_can_not_be_understood_is_busy_and_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "owner"
    path.write_bytes(content)
    reading = FakePresence(path).read()
    assert (reading.logged_in, reading.idle_seconds) == (None, None)
    assert str(path) in reading.faults[0]
    assert "expected present, away or" in reading.faults[0]


def test_a_missing_file_is_busy_and_named(tmp_path: Path) -> None:
    reading = FakePresence(tmp_path / "owner").read()
    assert (reading.logged_in, reading.idle_seconds) == (None, None)
    assert "No such file" in reading.faults[0]


def test_an_owner_who_is_present_stays_so_and_one_who_left_is_idle_for_longer_and_longer() -> None:
    now = [1000.0]
    driver = FakePresence(owner=PRESENT, clock=lambda: now[0])
    now[0] += 500
    assert driver.read().idle_seconds == 0.0
    driver.set(Owner(logged_in=True, idle_seconds=60.0))
    now[0] += 30
    assert driver.read().idle_seconds == 90.0
    now[0] -= 1000  # a clock that is set back makes nobody less idle than was said
    assert driver.read().idle_seconds == 60.0


def test_the_age_of_the_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "owner"
    set_presence(path, Owner(logged_in=True, idle_seconds=100.0))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 50))
    idle = FakePresence(path).read().idle_seconds
    assert idle is not None
    assert 150.0 <= idle < 160.0


def test_an_unknown_word_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected present, away"):
        set_presence(tmp_path / "owner", "gone")
    assert list(tmp_path.iterdir()) == []


def test_setting_makes_the_folder_leaves_no_rests_and_lets_everybody_read(tmp_path: Path) -> None:
    path = tmp_path / "desk" / "owner"
    set_presence(path, "present")
    set_presence(path, "away")
    assert [entry.name for entry in path.parent.iterdir()] == ["owner"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("poll", [False, True])
def test_a_file_that_appears_is_written_in_place_and_goes_is_told_each_time(tmp_path: Path, poll: bool) -> None:
    path, told = tmp_path / "owner", threading.Event()
    driver = FakePresence(path, poll=poll)
    driver.watch(told.set)
    try:
        for act in (lambda: path.write_text("present"), lambda: path.write_text("away"), path.unlink):
            told.clear()
            act()
            assert told.wait(SOON_SECONDS)
    finally:
        driver.close()


def test_other_files_in_the_folder_are_nobodys_sign(tmp_path: Path) -> None:
    told = threading.Event()
    driver = FakePresence(tmp_path / "owner")
    driver.watch(told.set)
    (tmp_path / "other").write_text("present")
    assert not told.wait(0.2)
    driver.close()


def test_a_folder_that_is_not_there_yet_is_looked_for_by_polling(tmp_path: Path) -> None:
    path, told = tmp_path / "later" / "owner", threading.Event()
    driver = FakePresence(path)
    driver.watch(told.set)
    set_presence(path, "present")
    assert told.wait(SOON_SECONDS)
    driver.close()


def test_what_the_file_says_of_the_machine_stands_for_what_is(tmp_path: Path) -> None:
    path = tmp_path / "owner"
    real = Machine(4, 8 << 30, 4 << 30, 1 << 40, others_cpu=0.5)
    driver = FakePresence(path)
    assert (driver.machine(real), driver.metered()) == (real, None)
    path.write_text(
        '{"logged_in": true, "idle_seconds": 900, "locked": true, "remote": true, "watching": ["Totem: a film"],'
        ' "full_screen": true, "lid_closed": true, "ending": "sleep",'
        ' "machine": {"on_battery": true, "battery_percent": 40, "metered": true, "programs": ["zoom"]}}'
    )
    machine = driver.machine(real)
    assert (machine.on_battery, machine.battery_percent, machine.programs) == (True, 40, ("zoom",))
    assert (machine.others_cpu, machine.cpus, driver.metered()) == (0.5, 4, True)
    reading = driver.read()
    assert (reading.locked, reading.remote, reading.full_screen, reading.lid_closed) == (True, True, True, True)
    assert (reading.watching, reading.ending) == (("Totem: a film",), Ending.SLEEP)
