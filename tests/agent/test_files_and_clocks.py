"""What an agent keeps and reads on its own desktop."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deskgrid.agent.clock import calendar, steady_clock
from deskgrid.agent.leases import LeaseFile
from deskgrid.agent.owner.status import read_status, status_of, write_status
from deskgrid.agent.policy.files import PolicyTable
from deskgrid.agent.settings import AgentSettings
from deskgrid.core.desktop.inputs import Sensed
from deskgrid.core.desktop.state import begin
from deskgrid.host.system.toml import BadSettings, parse
from deskgrid.model.lease import Lease, Size
from deskgrid.model.policy import Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason

from .world import IMAGE, ROOMY, START


def lease(vm_id: str = "vm-1", until: float = 300.0) -> Lease:
    end = START + timedelta(seconds=until)
    return Lease(vm_id, "desk-1", IMAGE, Size(1, 1 << 30), START, end, Reason("demand", "A job waits."))


def still() -> float:
    """A steady clock that stands."""
    return 0.0


# -- leases -------------------------------------------------------------------------------------------------------


def test_leases_come_back_as_they_were_kept(tmp_path: Path) -> None:
    file = tmp_path / "leases.json"
    LeaseFile(file, still).keep({"vm-1": lease()}, START)
    assert LeaseFile(file, still).read(START) == {"vm-1": lease()}
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("hours", [-3, 0, 1, 9000])
def test_a_clock_that_was_set_while_no_agent_ran_makes_no_lease_longer_or_shorter(tmp_path: Path, hours: int) -> None:
    file, later = tmp_path / "leases.json", START + timedelta(hours=hours)
    LeaseFile(file, lambda: 50.0).keep({"vm-1": lease(until=300)}, START)
    assert LeaseFile(file, lambda: 60.0).read(later)["vm-1"].until == later + timedelta(seconds=290)


def test_the_file_is_rewritten_only_when_it_says_something_else_by_much(tmp_path: Path) -> None:
    file, kept = tmp_path / "leases.json", LeaseFile(tmp_path / "leases.json")
    kept.keep({"vm-1": lease(until=300)}, START)
    for until, rewritten in ((310, False), (359, False), (360, True), (390, False), (301, False), (100, True)):
        before = file.stat().st_ino
        kept.keep({"vm-1": lease(until=until)}, START)
        assert (file.stat().st_ino != before) is rewritten
    kept.keep({}, START)
    assert LeaseFile(file).read(START) == {}


def test_a_file_that_cannot_be_written_is_tried_again(tmp_path: Path) -> None:
    file = tmp_path / "later" / "leases.json"
    kept = LeaseFile(file, still)
    with pytest.raises(OSError):
        kept.keep({"vm-1": lease()}, START)
    file.parent.mkdir()
    kept.keep({"vm-1": lease()}, START)
    assert LeaseFile(file, still).read(START) == {"vm-1": lease()}


# -- status -------------------------------------------------------------------------------------------------------


def test_the_status_says_what_runs_here_or_why_nothing_does(tmp_path: Path) -> None:
    file = tmp_path / "status.json"
    desk = begin("desk-1", Policy(), Sensed(Reading(True, 3.0, ("tty1 3 s",)), ROOMY, START), START)
    write_status(file, status_of("desk-1", 4711, START, desk))
    status = read_status(file)
    assert status is not None
    assert (status.desktop, status.pid, status.at, status.sources) == ("desk-1", 4711, START, ("tty1 3 s",))
    assert status.availability.refusals[0].name == status.go_on.name == "owner-active"


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff"])
def test_a_status_that_is_missing_or_broken_is_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "status.json"
    if content is not None:
        file.write_bytes(content)
    assert read_status(file) is None


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    desk = begin("desk-1", Policy(), Sensed(Reading(None, None), ROOMY, START), START)
    write_status(tmp_path / "missing" / "status.json", status_of("desk-1", 1, START, desk))


# -- clocks and the machine ---------------------------------------------------------------------------------------


def test_the_steady_clock_starts_at_the_wall_clock_and_only_grows() -> None:
    clock = steady_clock()
    first, second = clock(), clock()
    assert abs((first - datetime.now(UTC)).total_seconds()) < 5
    assert first <= second and first.tzinfo is UTC


def test_the_calendar_is_that_of_the_named_zone_or_of_the_computer() -> None:
    now = datetime.now(UTC)
    for zone in ("Europe/Berlin", "America/New_York", ""):
        local = calendar(zone)()
        assert local.utcoffset() is not None and abs((local - now).total_seconds()) < 5
    assert str(calendar("Asia/Kolkata")().utcoffset()) == "5:30:00"


# -- settings -----------------------------------------------------------------------------------------------------

GOOD = """
coordinator = "https://head:9443"
desktop = "desk-1"
state = "/s"
"""


def test_settings_need_only_three_lines() -> None:
    settings = parse(GOOD, AgentSettings)
    assert settings.presence == "linux" and settings.policy == PolicyTable()


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ('coordinator = "http://head:9443"', "coordinator"),
        ('coordinator = "https://head:9443/path"', "coordinator"),
        ('desktop = "a/b"', "desktop"),
        ('presence = "mouse"', "presence"),
        ('presence = "file:relative"', "presence"),
        ('hypervisor = "xen"', "hypervisor"),
        ('zone = "Mars/Olympus"', "zone"),
        ('zone = "../etc/passwd"', "zone"),
        ("sense_seconds = 0", "sense_seconds"),
        ('colour = "blue"', "colour"),
        ("policy.idle_seconds = -1", "policy.idle_seconds"),
        ('policy.closed = ["25:00-26:00"]', r"policy.closed\[0\]"),
    ],
)
def test_settings_with_a_fault_are_refused_with_its_place(line: str, place: str) -> None:
    key = line.split()[0]
    rest = "\n".join(known for known in GOOD.splitlines() if not known.startswith(f"{key} "))
    with pytest.raises(BadSettings, match=place):
        parse(f"{rest}\n{line}\n", AgentSettings)


def test_all_faults_of_a_file_are_told_at_once() -> None:
    with pytest.raises(BadSettings) as caught:
        parse('desktop = "a/b"\ncolour = "blue"\npolicy.max_vms = 99\n', AgentSettings)
    assert len(caught.value.faults) == 5
