"""The guest's other programs: what they are made of."""

import calendar
import subprocess
import sys
from datetime import date, timedelta

import pytest

from deskgrid import guest

sys.path.insert(0, str(guest.FILES[f"{guest.FOLDER}/member.py"][0].parent))
import member

SHELL = [guest.INITRD_INIT, guest.PREPARE, *(path for path, _ in guest.FILES.values() if path.suffix != ".py")]


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_every_shell_program_parses(path: object) -> None:
    assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0


def test_the_member_needs_nothing_but_the_standard_library() -> None:
    argv = [sys.executable, "-I", "-S", str(guest.FILES[f"{guest.FOLDER}/member.py"][0]), "show=modules"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()
    assert any(path.endswith("json/decoder.py") for path in said)
    assert not any("site-packages" in path for path in said)


def test_days_are_counted_as_the_calendar_counts_them() -> None:
    day = date(1970, 1, 1)
    while day < date(2110, 1, 1):
        assert member._seconds_since_1970(day.year, day.month, day.day) == calendar.timegm(day.timetuple())
        day += timedelta(days=13)


def test_the_configuration_names_an_account_for_each_slot() -> None:
    instance: dict[str, str | int] = {
        "vm_id": "v",
        "vm_name": "i",
        "desktop": "d",
        "collector": "c:1",
        "trust_domain": "t",
        "cpus": 2,
        "memory_mb": 512,
        "token": "secret",
    }
    text = member.configuration(instance, "/run/condor", "/scratch", ["slot1", "slot2"])
    assert "SLOT1_1_USER = slot1\nSLOT1_2_USER = slot2\n" in text
    assert "DEDICATED_EXECUTE_ACCOUNT_REGEXP = slot1|slot2" in text
    assert "secret" not in text
