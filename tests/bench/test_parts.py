"""The pure parts of the benchmarks: rates, ads, reports, guests, the demos taken together."""

import os
import time
from pathlib import Path

import msgspec
import pytest

from bench.demos import together
from bench.figure import Load
from bench.guest import program
from bench.killed import resident_bytes
from bench.machine import CannotMeasure, cpu_seconds, sample, switches
from bench.report_load import Counted, Desktop, report_at_rest
from bench.stillness import Sample
from bench.updates import machine_ad, rate, small_ad
from bench.workload import Spent, best, slower_percent, typical
from deskgrid.core.events import GuestLeft, Joined
from deskgrid.demo.figures import Figures
from deskgrid.wire.guest import Hello, decode_from_guest
from deskgrid.wire.messages import Report

AD = 'MyType = "Machine"\nName = "slot1@bench-node"\nMachine = "vm"\nCpus = 1\nCpuBusy = false\nOpSys = "LINUX"\n'
QUIET = Load(0.1, 1.0, 2)


def test_a_rate_counts_only_the_time_in_which_the_collector_is_at_work() -> None:
    idle = [Sample(float(at), 0) for at in range(5)]
    at_work = [Sample(5 + 0.1 * step, 50_000_000 * step) for step in range(41)]
    after = [Sample(9.0 + at, 2_000_000_000) for at in range(1, 4)]
    found = rate([*idle, *at_work, *after], 8000, AD)
    assert (found.per_second, found.per_cpu_second) == (pytest.approx(2000), pytest.approx(4000))
    assert "50 % of its core" in found.note


def test_a_rate_from_nothing_is_refused() -> None:
    with pytest.raises(CannotMeasure, match="no time"):
        rate([Sample(0.0, 7), Sample(1.0, 7)], 8000, AD)


def test_each_sender_is_a_machine_of_its_own() -> None:
    one = machine_ad(AD, 3)
    assert 'Name = "slot1@bench-3"' in one
    assert 'Machine = "bench-3"' in one
    assert one.count("\n") == AD.count("\n")


def test_an_ad_without_a_name_is_refused() -> None:
    with pytest.raises(CannotMeasure, match="got 0 attributes Name"):
        machine_ad("Cpus = 1\n", 3)


def test_a_small_ad_keeps_what_makes_it_a_machine() -> None:
    assert "CpuBusy" not in small_ad(AD)
    assert 'Name = "slot1@bench-node"' in small_ad(AD)


class Wire:
    """What a desktop writes to."""

    def __init__(self) -> None:
        self.said: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self) -> None:
        self.said.append(b"")


def test_the_load_says_whole_reports_each_newer_than_the_last() -> None:
    wire, counted = Wire(), Counted()
    desktop = Desktop("desk-1", "secret", counted)
    desktop.connection_made(wire)  # type: ignore[arg-type]
    desktop.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{}")
    assert counted.answers == 0
    desktop.data_received(b"{}")
    assert counted.answers == 1
    reports = []
    for said in wire.said:
        head, _, body = said.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        reports.append(msgspec.json.decode(body, type=Report))
    assert [report.sequence - report_at_rest().sequence for report in reports] == [1, 2]
    assert reports[0].incarnation == reports[1].incarnation


def test_the_load_stops_at_a_refusal_and_tells_it() -> None:
    wire, counted = Wire(), Counted()
    desktop = Desktop("desk-1", "secret", counted)
    desktop.connection_made(wire)  # type: ignore[arg-type]
    desktop.data_received(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno")
    assert counted.failures[0].endswith("no")
    assert counted.answers == 0


def test_the_guest_speaks_the_protocol() -> None:
    spoken = [word.split("'")[1] for word in program().split("echo ")[1:]]
    assert [type(decode_from_guest(line.encode())) for line in spoken] == [GuestLeft, Hello, Joined, GuestLeft]


def test_demos_are_taken_together_by_their_medians_and_what_failed_is_told() -> None:
    runs = [Figures(submit_to_order_s=value, accelerator="tcg") for value in (1.0, 5.0, 2.0)]
    figures = {figure.name: figure for figure in together(runs, ["waited in vain"], QUIET)}
    assert figures["submit_to_order_s"].value == 2.0
    assert figures["submit_to_order_s"].note == "demo on tcg; 1 failed: waited in vain"
    assert figures["owner_to_pause_ms"].value is None
    assert figures["owner_to_pause_ms"].reason == "waited in vain"


def test_cpu_time_of_a_process_grows_when_it_works() -> None:
    import os
    from pathlib import Path

    pid = os.getpid()
    before, threads = cpu_seconds([pid]), [Path(f"/proc/{pid}/task/{pid}")]
    ran = sample(threads).ran
    assert sum(number * number for number in range(300_000)) > 0
    assert cpu_seconds([pid]) > before
    assert sample(threads).ran >= ran


def test_how_much_slower_counts_all_of_an_owners_work() -> None:
    assert slower_percent(Spent(2.0, 1.0, 1.0), Spent(2.0, 1.0, 1.2)) == pytest.approx(5.0)


def test_what_an_owners_work_takes_is_the_median_of_each_part() -> None:
    runs = [Spent(2.0, 9.0, 1.0), Spent(3.0, 1.0, 1.0), Spent(9.0, 2.0, 4.0)]
    assert typical(runs) == Spent(3.0, 2.0, 1.0)
    assert best(runs) == Spent(2.0, 1.0, 1.0)


def test_a_process_that_waits_is_seen_to_be_woken() -> None:
    before = switches([os.getpid()])
    for _ in range(20):
        time.sleep(0.001)
    assert switches([os.getpid()]) - before >= 20


def test_the_pages_of_a_file_that_the_cache_holds_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 300_000)
    assert resident_bytes(file) == 303_104
