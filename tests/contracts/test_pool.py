"""What every pool driver keeps, held against the fake and against real HTCondor in an embedded pool."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from deskgrid.core.fleet.demand import wants
from deskgrid.core.fleet.why import vm_of
from deskgrid.host.system.files import own_folder, write_atomic
from deskgrid.host.trees import trees
from deskgrid.model.lease import Size
from deskgrid.model.plan import PlanSettings
from deskgrid.model.pool import Foreign, Match, OfflineAd, PoolSnapshot
from deskgrid.pool.config import PoolSettings
from deskgrid.pool.contract import Pool, PoolError, PoolRefused, PoolUnreachable
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool, free_port
from deskgrid.pool.tools.driver import CondorPool
from tests import condor
from tests.pool.execute_node import ExecuteNode, NodeIdentity
from tests.pool.fake import FakePool

MIB = 1 << 20
SMALL, LARGE = Size(1, 512 * MIB), Size(4, 2048 * MIB)


def offered(image: str, size: Size = SMALL) -> OfflineAd:
    return OfflineAd(image, size, 4096 * MIB, condor.SAYS)


IMAGE_A, IMAGE_B = offered("img-a"), offered("img-b")
HOSTILE = ("IMG-A", 'a" || true || "', "'; rm -rf /", "$(RELEASE_DIR) $ENV(HOME)", "é ☃", "img-a\\", "")


class Bench(Protocol):
    """The world around a pool: researchers, machines, faults, and time."""

    pool: Pool

    def submit(self, vm_name: str | None, count: int = 1, memory_mb: int = 64, seconds: int = 3600) -> list[str]: ...
    def flock(self, vm_name: str, count: int) -> None: ...
    def join(self, vm_id: str, image: str) -> None: ...
    def vacate(self, vm_id: str) -> None: ...
    def die(self, vm_id: str) -> None: ...
    def restart_collector(self) -> None: ...
    def stop(self) -> None: ...
    def go_on(self) -> None: ...
    def silence_schedd(self, silent: bool) -> None: ...
    def eventually(self, holds: Callable[[], bool], seconds: float = 40) -> None: ...


class FakeBench:
    """A minute of the fake's time passes in no time."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
        self.pool = FakePool(lambda: self.now, settle_seconds=20)

    def submit(self, vm_name: str | None, count: int = 1, memory_mb: int = 64, seconds: int = 3600) -> list[str]:
        return list(self.pool.submit(vm_name, count, memory_mb=memory_mb, run_seconds=seconds))

    def flock(self, vm_name: str, count: int) -> None:
        self.pool.flock("away@", vm_name, count)

    def join(self, vm_id: str, image: str) -> None:
        self.pool.join(vm_id, image, "desk-1", memory_mb=512)

    def vacate(self, vm_id: str) -> None:
        self.pool.leave(vm_id)

    def die(self, vm_id: str) -> None:
        self.pool.die(vm_id)

    def restart_collector(self) -> None:
        self.pool.restart_collector()

    def stop(self) -> None:
        self.pool.faults.unreachable = True

    def go_on(self) -> None:
        self.pool.faults.unreachable = False

    def silence_schedd(self, silent: bool) -> None:
        self.pool.faults.schedd_down = silent

    def eventually(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        for _ in range(int(seconds)):
            self.pool.negotiate()
            if holds():
                return
            self.now += timedelta(seconds=1)
        raise AssertionError(f"it did not come to hold within {seconds} s; {self.pool.snapshot()}")


class RealBench:
    """Real HTCondor; machines are execute daemons on this machine."""

    def __init__(self, tree: trees.Tree, folder: Path) -> None:
        self._tree, self._folder, self._port = tree, folder, free_port()
        self._nodes: dict[str, ExecuteNode] = {}
        self._away: EmbeddedPool | None = None

    def fresh(self) -> None:
        for vm_id in list(self._nodes):
            self.die(vm_id)
            self.pool.forget_vm(vm_id)
        assert self.embedded.command(["condor_rm", "-all"]).code in (0, 1)
        self.embedded.command(["condor_rm", "-all", "-forcex"])
        self.pool = CondorPool(self.embedded.reach(timeout_seconds=4), settle_seconds=20)
        self.pool.advertise([])

    def submit(self, vm_name: str | None, count: int = 1, memory_mb: int = 64, seconds: int = 3600) -> list[str]:
        lines = ["executable = /bin/sleep", f"arguments = {seconds}", "transfer_executable = false"]
        lines += ["request_cpus = 1", f"request_memory = {memory_mb}", "request_disk = 10MB"]
        lines += ["should_transfer_files = yes"]
        if vm_name is not None:
            escaped = vm_name.replace("\\", "\\\\") if vm_name.endswith("\\") else vm_name
            quoted = escaped.replace("$", "$(DOLLAR)").replace('"', '\\"')
            lines.append(f'+vm_name = "{quoted}"')
        text = "\n".join([*lines, f"queue {count}", ""])
        to = self._away or self.embedded
        said = to.command(["condor_submit", "-terse", "-"], to.jobs, stdin=text.encode())
        assert said.ok, said.stdout + said.stderr
        first, last = said.stdout.strip().splitlines()[-1].split(" - ")
        cluster = first.split(".")[0]
        return [f"{cluster}.{proc}" for proc in range(int(last.split(".")[1]) + 1)]

    def flock(self, vm_name: str, count: int) -> None:
        """A whole pool of its own, with a key and a trust domain of its own, whose schedd flocks here."""
        folder = self._folder / "away"
        for part in (folder, folder / "etc", folder / "etc/config.d"):
            own_folder(part, self._tree.account)
        lines = f"SCHEDD_NAME = away@\nFLOCK_TO = {self.embedded.collector}\nFLOCK_INCREMENT = 5\n"
        write_atomic(folder / "etc/config.d/70-flock.conf", lines.encode(), owner=self._tree.account)
        settings = HeadSettings(pool=PoolSettings(trust_domain="away", key="away"), cycle_seconds=2)
        self._away = EmbeddedPool.start(self._tree, folder, settings)
        self.submit(vm_name, count)

    def join(self, vm_id: str, image: str) -> None:
        token = self.pool.mint_token(vm_id, 3600)
        member = NodeIdentity(vm_id, image, "desk-1", token)
        folder = self._folder / vm_id
        self._nodes[vm_id] = ExecuteNode.start(self._tree, folder, member, self.embedded.collector)

    def vacate(self, vm_id: str) -> None:
        self._nodes.pop(vm_id).leave()

    def die(self, vm_id: str) -> None:
        self._nodes.pop(vm_id).die()

    def restart_collector(self) -> None:
        os.kill(self.embedded.daemon_pids()["condor_collector"], signal.SIGKILL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(0.2)
            if self.embedded.command(["condor_status", "-collector", "-af", "Name"], timeout_seconds=5).stdout.strip():
                return
        raise AssertionError("the collector did not come back")

    def stop(self) -> None:
        self.embedded.stop()

    def go_on(self) -> None:
        settings = HeadSettings(port=self._port, cycle_seconds=2)
        self.embedded = EmbeddedPool.start(self._tree, self._folder / "pool", settings)
        self.pool = CondorPool(self.embedded.reach(timeout_seconds=4), settle_seconds=20)

    def silence_schedd(self, silent: bool) -> None:
        os.kill(self.embedded.daemon_pids()["condor_schedd"], signal.SIGSTOP if silent else signal.SIGCONT)

    def eventually(self, holds: Callable[[], bool], seconds: float = 40) -> None:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"it did not come to hold within {seconds} s; {self.pool.snapshot()}")
            time.sleep(0.3)

    def close(self) -> None:
        if self._away is not None:
            self._away.stop()
        for vm_id in list(self._nodes):
            self.die(vm_id)
        if hasattr(self, "embedded"):
            self.embedded.stop()


@pytest.fixture(
    scope="module", params=["fake", *(pytest.param(which, marks=pytest.mark.real) for which in condor.BOTH)]
)
def world(request: pytest.FixtureRequest) -> Iterator[RealBench | None]:
    """Real HTCondor of one version, for all tests of this file; None for the fake."""
    if request.param == "fake":
        yield None
        return
    folder = Path(tempfile.mkdtemp(prefix="dgpool-", dir="/tmp"))
    folder.chmod(0o755)
    bench = RealBench(condor.tree(request.param), folder)
    try:
        bench.go_on()
        yield bench
    finally:
        bench.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bench(world: RealBench | None) -> Bench:
    if world is None:
        return FakeBench()
    world.fresh()
    return world


def matches(snapshot: PoolSnapshot) -> tuple[Match, ...]:
    assert snapshot.matches is not None, snapshot.faults
    return snapshot.matches


def counts(bench: Bench) -> dict[str, int]:
    found: dict[str, int] = {}
    for match in bench.pool.snapshot().matches or ():
        found[match.image] = found.get(match.image, 0) + match.count
    return found


def status(bench: Bench, job_id: str) -> int | None:
    job = bench.pool.job(job_id)
    return None if job is None else job.status


def joined(bench: Bench, vm_id: str) -> bool:
    return vm_id in {machine.vm_id for machine in bench.pool.snapshot().machines or ()}


def test_what_is_empty_is_said_to_be_empty_and_not_unknown(bench: Bench) -> None:
    bench.eventually(lambda: bench.pool.snapshot().idle == ())
    seen = bench.pool.snapshot()
    assert (seen.matches, seen.idle, seen.machines, seen.faults) == ((), (), (), ())


def test_idle_jobs_are_counted_on_the_ad_of_the_image_that_they_name(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A, IMAGE_B, offered("img-c")])
    bench.submit("img-a", 25)
    bench.submit("img-b", 7)
    bench.eventually(lambda: counts(bench) == {"img-a": 25, "img-b": 7})
    idle = bench.pool.snapshot().idle
    assert idle is not None
    assert {(group.vm_name, group.idle) for group in idle} == {("img-a", 25), ("img-b", 7)}


def test_a_match_names_the_same_schedd_and_autocluster_as_the_idle_jobs_that_it_counts(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 3)
    bench.eventually(lambda: counts(bench) == {"img-a": 3})
    seen = bench.pool.snapshot()
    assert [(g.schedd, g.autocluster) for g in seen.idle or ()] == [(m.schedd, m.autocluster) for m in matches(seen)]


def test_jobs_that_need_only_a_part_are_counted_and_those_too_large_are_not(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 4, memory_mb=500)
    bench.submit("img-a", 2, memory_mb=600)
    bench.eventually(lambda: counts(bench) == {"img-a": 4})
    assert sum(group.idle for group in bench.pool.snapshot().idle or ()) == 6


def test_all_groups_of_jobs_that_fit_are_counted_on_one_ad(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    for memory_mb in (60, 120, 180, 240):
        bench.submit("img-a", 2, memory_mb=memory_mb)
    bench.eventually(lambda: counts(bench) == {"img-a": 8})
    assert len(matches(bench.pool.snapshot())) == 4


def test_jobs_that_fit_several_sizes_are_counted_once_on_the_smallest(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A, offered("img-a", LARGE)])
    bench.submit("img-a", 5, memory_mb=100)
    bench.submit("img-a", 3, memory_mb=1000)
    bench.eventually(lambda: counts(bench) == {"img-a": 8})
    assert {(match.size, match.count) for match in matches(bench.pool.snapshot())} == {(SMALL, 5), (LARGE, 3)}


def test_jobs_without_an_image_make_no_demand(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit(None, 5)
    bench.submit("img-a", 1)
    bench.eventually(lambda: counts(bench) == {"img-a": 1})
    assert [group.vm_name for group in bench.pool.snapshot().idle or ()] == ["img-a"]


def test_advertising_again_keeps_what_was_matched(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 6)
    bench.eventually(lambda: counts(bench) == {"img-a": 6})
    bench.pool.advertise([IMAGE_A, IMAGE_B])
    bench.pool.advertise([IMAGE_A])
    assert counts(bench) == {"img-a": 6}


def test_a_withdrawn_ad_takes_its_matches_with_it(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A, IMAGE_B])
    bench.submit("img-a", 2)
    bench.submit("img-b", 2)
    bench.eventually(lambda: counts(bench) == {"img-a": 2, "img-b": 2})
    bench.pool.advertise([IMAGE_B])
    assert counts(bench) == {"img-b": 2}
    bench.pool.advertise([])
    bench.pool.advertise([])
    assert counts(bench) == {}


def test_a_match_says_when_it_was_made_so_that_it_can_grow_old(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a")
    bench.eventually(lambda: counts(bench) == {"img-a": 1})
    seen = bench.pool.snapshot()
    assert abs((seen.at - matches(seen)[0].matched_at).total_seconds()) < 30


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda text: repr(text))
def test_a_hostile_image_name_is_a_text_like_any_other_and_makes_no_demand(bench: Bench, hostile: str) -> None:
    bench.pool.advertise([IMAGE_A])
    (job_id,) = bench.submit(hostile)
    bench.submit("img-a")
    bench.eventually(lambda: counts(bench) == {"img-a": 1})
    names = {group.vm_name for group in bench.pool.snapshot().idle or ()}
    assert "img-a" in names and len(names) == 2
    job = bench.pool.job(job_id)
    assert job is not None and job.vm_name in names - {"img-a"}


def test_an_ad_with_an_image_name_that_is_no_name_is_refused(bench: Bench) -> None:
    with pytest.raises(PoolRefused, match="image name"):
        bench.pool.advertise([OfflineAd('x" || true || "', SMALL, MIB)])


def test_a_machine_that_joins_is_known_by_its_vm_and_runs_the_jobs_of_its_image(bench: Bench) -> None:
    bench.join("vm-1", "img-a")
    bench.eventually(lambda: joined(bench, "vm-1"))
    (machine,) = bench.pool.snapshot().machines or ()
    assert (machine.image, machine.desktop) == ("img-a", "desk-1")
    (wrong,), (right,) = bench.submit("img-b"), bench.submit("img-a")
    bench.eventually(lambda: status(bench, right) == 2)
    assert status(bench, wrong) == 1
    bench.eventually(lambda: [(m.claimed, m.jobs) for m in bench.pool.snapshot().machines or ()] == [(True, (right,))])


def test_a_job_without_an_image_uses_a_machine_that_runs(bench: Bench) -> None:
    bench.join("vm-2", "img-a")
    (job_id,) = bench.submit(None, seconds=1)
    bench.eventually(lambda: status(bench, job_id) == 4)
    job = bench.pool.job(job_id)
    assert job is not None and job.vm_name is None and job.starts == 1


def test_jobs_that_run_are_no_demand_any_more(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 2, memory_mb=400)
    bench.eventually(lambda: counts(bench) == {"img-a": 2})
    bench.join("vm-3", "img-a")
    bench.eventually(lambda: [group.idle for group in bench.pool.snapshot().idle or ()] == [1])


def test_the_job_of_a_machine_that_vacates_is_idle_at_once_and_runs_on_the_next(bench: Bench) -> None:
    bench.join("vm-vacatesaaa", "img-a")
    (job_id,) = bench.submit("img-a")
    bench.eventually(lambda: status(bench, job_id) == 2)
    bench.vacate("vm-vacatesaaa")
    bench.eventually(lambda: status(bench, job_id) == 1)  # cut off before its starter was up: see the next test
    bench.pool.forget_vm("vm-vacatesaaa")  # HTCondor takes nobody's word for it that a machine is gone
    assert not joined(bench, "vm-vacatesaaa")
    bench.join("vm-5", "img-a")
    bench.eventually(lambda: status(bench, job_id) == 2)


def test_the_job_of_a_machine_that_died_without_a_word_is_soon_idle_and_runs_on_the_next(bench: Bench) -> None:
    bench.join("vm-diesaaaaaa", "img-a")
    (job_id,) = bench.submit("img-a")
    bench.eventually(lambda: status(bench, job_id) == 2)
    bench.die("vm-diesaaaaaa")
    bench.pool.forget_vm("vm-diesaaaaaa")
    bench.eventually(lambda: status(bench, job_id) == 1)
    bench.join("vm-takesovera", "img-a")
    bench.eventually(lambda: status(bench, job_id) == 2)
    job = bench.pool.job(job_id)
    assert job is not None and job.starts == 2
    assert (vm_of(job.last_host), vm_of(job.remote_host)) == ("vm-diesaaaaaa", "vm-takesovera")


def test_a_machine_that_is_forgotten_is_gone_from_the_collector_at_once(bench: Bench) -> None:
    bench.join("vm-6", "img-a")
    bench.join("vm-7", "img-a")
    bench.eventually(lambda: joined(bench, "vm-6") and joined(bench, "vm-7"))
    bench.die("vm-6")
    assert joined(bench, "vm-6")
    bench.pool.forget_vm("vm-6")
    assert not joined(bench, "vm-6") and joined(bench, "vm-7")


def test_forgetting_an_unknown_machine_is_no_error_and_a_hostile_one_is_refused(bench: Bench) -> None:
    bench.pool.forget_vm("vm-unknown")
    with pytest.raises(PoolRefused, match="VM id"):
        bench.pool.forget_vm('" || true || "')


def test_each_token_is_another_and_a_hostile_vm_gets_none(bench: Bench) -> None:
    first, second = bench.pool.mint_token("vm-1", 60), bench.pool.mint_token("vm-1", 60)
    assert first and second and first != second
    with pytest.raises(PoolRefused, match="VM id"):
        bench.pool.mint_token("../../etc", 60)


def test_a_job_is_described_while_it_waits_and_after_it_has_ended(bench: Bench) -> None:
    (job_id,) = bench.submit("img-a", memory_mb=64, seconds=1)
    job = bench.pool.job(job_id)
    assert job is not None
    assert (job.id, job.status, job.vm_name, job.cpus, job.memory_mb) == (job_id, 1, "img-a", 1, 64)
    assert "TARGET.vm_name == MY.vm_name" in job.requirements
    bench.join("vm-8", "img-a")
    bench.eventually(lambda: status(bench, job_id) == 4)


def test_an_unknown_job_is_none_and_a_malformed_id_is_refused(bench: Bench) -> None:
    assert bench.pool.job("999999.0") is None
    for hostile in ("1", "1.0 || true", "-1.0", "1.0\n", "", "1.0;ls"):
        with pytest.raises(PoolRefused, match="job id"):
            bench.pool.job(hostile)


def test_a_restarted_collector_that_forgot_our_ads_is_partial_and_not_empty(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 2)
    bench.eventually(lambda: counts(bench) == {"img-a": 2})
    bench.restart_collector()
    seen = bench.pool.snapshot()
    assert seen.matches is None and seen.machines is None and seen.faults
    bench.pool.advertise([IMAGE_A])
    seen = bench.pool.snapshot()
    assert seen.matches is not None
    assert seen.machines is None, "startds have not had the time to report again"
    bench.eventually(lambda: counts(bench) == {"img-a": 2})
    bench.eventually(lambda: bench.pool.snapshot().machines == ())


def test_a_silent_schedd_makes_idle_jobs_unknown_and_nothing_else(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A])
    bench.submit("img-a", 2)
    bench.eventually(lambda: counts(bench) == {"img-a": 2})
    bench.silence_schedd(True)
    try:
        began = time.monotonic()
        seen = bench.pool.snapshot()
        assert time.monotonic() - began < 8
        assert seen.idle is None and seen.faults
        assert seen.matches is not None and seen.machines is not None
        with pytest.raises(PoolError):
            bench.pool.job("1.0")
    finally:
        bench.silence_schedd(False)
    bench.eventually(lambda: bench.pool.snapshot().idle is not None)


def test_a_pool_that_is_down_is_unknown_in_every_part(bench: Bench) -> None:
    bench.stop()
    try:
        seen = bench.pool.snapshot()
        assert (seen.matches, seen.idle, seen.machines) == (None, None, None)
        assert seen.faults
        with pytest.raises(PoolUnreachable):
            bench.pool.advertise([IMAGE_A])
        with pytest.raises(PoolUnreachable):
            bench.pool.forget_vm("vm-1")
        with pytest.raises(PoolUnreachable):
            bench.pool.job("1.0")
    finally:
        bench.go_on()
    bench.pool.advertise([IMAGE_A])
    assert bench.pool.snapshot().matches == ()


def test_a_schedd_of_another_pool_that_flocks_here_is_known_as_foreign_and_idle_jobs_stay_known(bench: Bench) -> None:
    bench.pool.advertise([IMAGE_A, IMAGE_B])
    bench.submit("img-a", 2)
    bench.eventually(lambda: counts(bench) == {"img-a": 2})
    bench.flock("img-b", 3)
    bench.eventually(lambda: counts(bench) == {"img-a": 2, "img-b": 3}, seconds=90)
    seen = bench.pool.snapshot()
    assert (seen.foreign, seen.faults) == ((Foreign("away@", 3),), ())
    assert [(group.vm_name, group.idle) for group in seen.idle or ()] == [("img-a", 2)]
    assert {match.schedd: match.count for match in matches(seen)}["away@"] == 3
    assert [(want.image, want.vms) for want in wants(seen, PlanSettings()) or ()] == [("img-a", 2), ("img-b", 3)]
    assert bench.pool.job("999999.0") is None, "nobody asks the foreign one"
