"""What a desktop gave is counted once, in the right month, whatever clocks and agents do."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deskgrid.agent.owner.usage import GAP_SECONDS, KEEP_DAYS, KEEP_MONTHS, Book, UsageBook, add, gift, spans
from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.reason import Reason
from deskgrid.wire.local import Usage

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
S = VmState


class Desk:
    """A book, and the two clocks that it reads."""

    def __init__(self, folder: Path, local: datetime = NOON) -> None:
        self.path, self.local, self.steady = folder / "usage.json", local, 1000.0
        self.begin()

    def begin(self) -> None:
        self.book = UsageBook(self.path, lambda: self.local, lambda: self.steady)

    def after(self, seconds: float, *vms: VmReport, ended: tuple[VmReport, ...] = (), **cpu: float) -> None:
        self.steady += seconds
        self.local += timedelta(seconds=seconds)
        self.book.see(vms, ended, {name.replace("_", "-"): used for name, used in cpu.items()})

    def during(self, seconds: int, *vms: VmReport) -> None:
        for _ in range(seconds):
            self.after(1, *vms)

    @property
    def used(self) -> dict[str, Usage]:
        return self.book.gift().month

    def kept(self) -> Book:
        return UsageBook(self.path, lambda: self.local)._book


def vm(state: VmState, vm_id: str = "vm-1", reason: str = "demand", image: str = "img-a", cpus: int = 2) -> VmReport:
    return VmReport(vm_id, ImageRef(image, "a" * 64), Size(cpus, 1 << 30), state, NOON, Reason(reason, "…"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_only_the_time_in_which_its_processors_run_is_given(desk: Desk) -> None:
    for state in (S.FETCHING, S.STARTING, S.BOOTING, S.RUNNING, S.PAUSED, S.RUNNING, S.LEAVING):
        desk.during(10, vm(state, reason="owner-active"))
    assert desk.used == {"img-a": Usage(vm_seconds=30, core_seconds=60, vms=1, pauses=1, evictions=1)}


def test_each_image_has_its_own_account(desk: Desk) -> None:
    desk.after(1, vm(S.FETCHING, "a", image="x"), vm(S.FETCHING, "b", image="y"))
    desk.during(5, vm(S.RUNNING, "a", image="x"), vm(S.RUNNING, "b", image="y", cpus=1))
    assert desk.used == {"x": Usage(4, 8, vms=1), "y": Usage(4, 4, vms=1)}
    assert desk.book.gift().total() == Usage(8, 12, vms=2)


@pytest.mark.parametrize(
    ("reason", "evictions"),
    [
        ("owner-active", 1),
        ("paused-overdue", 1),
        ("memory-short", 1),
        ("owner-paused", 1),
        ("withdrawn", 0),
        ("lease-over", 0),
        ("guest-unused", 0),
        ("guest-failed", 0),
        ("died", 0),
        ("agent-stops", 0),
    ],
)
def test_only_a_machine_that_made_way_for_the_owner_was_evicted(desk: Desk, reason: str, evictions: int) -> None:
    desk.after(1, vm(S.FETCHING))
    desk.after(1, vm(S.RUNNING))
    desk.after(1, vm(S.LEAVING, reason=reason))
    desk.after(1, vm(S.KILLING, reason=reason))
    desk.after(1, ended=(vm(S.ENDED, reason=reason),))
    desk.after(1, ended=(vm(S.ENDED, reason=reason),))
    assert desk.used["img-a"].evictions == evictions


def test_a_machine_that_had_no_work_yet_was_not_evicted(desk: Desk) -> None:
    desk.after(1, vm(S.FETCHING))
    desk.after(1, vm(S.BOOTING))
    desk.after(1, ended=(vm(S.ENDED, reason="owner-active"),))
    assert desk.used == {"img-a": Usage(1, 2, vms=1)}


def test_what_its_processors_really_used_is_counted_where_it_is_known(desk: Desk) -> None:
    desk.after(1, vm(S.FETCHING))
    desk.after(1, vm(S.RUNNING), vm_1=0.5)
    desk.after(1, vm(S.RUNNING), vm_1=2.0)
    desk.after(1, vm(S.RUNNING))
    desk.after(1, vm(S.RUNNING), vm_1=1.0)  # another process than before
    desk.after(1, vm(S.RUNNING), vm_1=1.25)
    assert desk.used["img-a"].cpu_seconds == 1.75


def test_what_spans_the_end_of_a_month_is_split(tmp_path: Path) -> None:
    desk = Desk(tmp_path, datetime(2026, 11, 30, 23, 59, 30, tzinfo=ZoneInfo("Europe/Berlin")))
    desk.after(0, vm(S.RUNNING))
    desk.after(100, vm(S.RUNNING))
    months = dict(desk.book.gift().months)
    assert months["2026-11"].vm_seconds == pytest.approx(30, abs=0.01)
    assert months["2026-12"].vm_seconds == pytest.approx(70, abs=0.01)
    assert dict(desk.book.gift().days)["2026-12-01"] == pytest.approx(70, abs=0.01)


def test_sleep_is_not_given(desk: Desk) -> None:
    desk.after(0, vm(S.RUNNING))
    desk.local += timedelta(hours=8)  # the steady clock stood still
    desk.after(1, vm(S.RUNNING))
    assert desk.used["img-a"].vm_seconds == 1


def test_a_gap_of_which_nothing_is_known_is_not_given(desk: Desk) -> None:
    desk.after(0, vm(S.RUNNING))
    desk.after(GAP_SECONDS + 1, vm(S.RUNNING))
    assert desk.used == {}


def test_a_calendar_set_back_costs_nothing_and_gives_nothing(desk: Desk) -> None:
    desk.after(0, vm(S.RUNNING))
    desk.during(10, vm(S.RUNNING))
    desk.local -= timedelta(hours=5)
    desk.during(10, vm(S.RUNNING))
    assert desk.used["img-a"].vm_seconds == pytest.approx(20)


def test_a_killed_agent_loses_at_most_a_minute_and_counts_no_machine_twice(desk: Desk) -> None:
    desk.after(1, vm(S.FETCHING))
    desk.during(150, vm(S.RUNNING))
    desk.begin()  # killed, and back
    desk.during(61, vm(S.RUNNING))
    total = desk.used["img-a"]
    assert 150 + 61 - 62 <= total.vm_seconds <= 150 + 61
    assert total.vms == 1


def test_the_file_is_written_at_most_once_a_minute_and_at_ends(desk: Desk) -> None:
    writes = 0
    seen = 0
    desk.after(1, vm(S.FETCHING))
    for _ in range(300):
        desk.after(1, vm(S.RUNNING))
        if desk.path.exists() and desk.path.stat().st_ino != seen:
            writes, seen = writes + 1, desk.path.stat().st_ino
    assert writes <= 5
    desk.after(1, ended=(vm(S.ENDED, reason="withdrawn"),))
    assert desk.kept().months["2026-11"]["img-a"].vm_seconds == pytest.approx(300)


def test_a_desktop_that_gives_nothing_writes_nothing(desk: Desk) -> None:
    desk.during(200)
    desk.book.write()
    assert not desk.path.exists()


def test_a_disk_that_is_full_loses_only_time(desk: Desk) -> None:
    desk.path.mkdir()
    desk.after(0, vm(S.RUNNING))
    desk.during(70, vm(S.RUNNING))
    desk.path.rmdir()
    desk.during(61, vm(S.RUNNING))
    assert desk.kept().months["2026-11"]["img-a"].vm_seconds > 100


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"months":7}', b"\xff", b'{"months":{"2026-11":{"a":3}}}'])
def test_a_damaged_file_begins_anew(desk: Desk, content: bytes) -> None:
    desk.path.write_bytes(content)
    desk.begin()
    desk.after(0, vm(S.RUNNING))
    desk.during(61, vm(S.RUNNING))
    assert json.loads(desk.path.read_text())["months"]["2026-11"]["img-a"]["vm_seconds"] > 50


def test_two_years_of_months_and_two_months_of_days_are_kept() -> None:
    book = Book()
    for day in range(3 * 365):
        book = add(book, NOON + timedelta(days=day), "img", Usage(vm_seconds=1))
    assert len(book.months) == KEEP_MONTHS
    assert len(book.days) == KEEP_DAYS
    assert min(book.months) == "2027-12"


def test_the_owner_is_shown_the_last_thirty_one_days() -> None:
    book = add(add(Book(), NOON, "a", Usage(60)), NOON - timedelta(days=30), "a", Usage(30))
    shown = gift(book, NOON)
    assert len(shown.days) == 31
    assert shown.days[0] == ("2026-10-23", 30)
    assert shown.days[-1] == ("2026-11-22", 60)
    assert [month for month, _ in shown.months] == ["2026-10", "2026-11"]


@given(st.integers(0, 366 * 86400), st.floats(0, 3 * 86400))
def test_shares_add_up_and_each_lies_within_one_day(later: int, seconds: float) -> None:
    parts = list(spans(NOON + timedelta(seconds=later), seconds))
    assert sum(share for _, share in parts) == pytest.approx(seconds, abs=1e-6)
    for at, share in parts:
        edges = {(at - timedelta(seconds=share * 0.499)).date(), (at + timedelta(seconds=share * 0.499)).date()}
        assert len(edges) == 1
