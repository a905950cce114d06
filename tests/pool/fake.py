"""A pool in memory with a tiny negotiator, for tests, simulations and the first look without HTCondor.

It keeps the driver's contract and knows no clock but the one it is given, so a campus of hundreds of desktops can
live through weeks in seconds. `negotiate` is one cycle: idle jobs get the slots of machines that fit, real ones
first, and what remains is recorded in the offline ads. `pass_time` ends jobs that have run long enough and loses
machines that died silently, after the job lease.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from deskgrid.model.pool import Foreign, Job, JobGroup, MachineAd, Match, OfflineAd, PoolSnapshot
from deskgrid.model.values.names import BadName, name
from deskgrid.pool.contract import Partial, PoolRefused, PoolUnreachable
from tests.pool.fake_world import COMPLETED, IDLE, REMOVED, RUNNING, FakeJob, FakeSlot, Faults, Group

_MIB = 1 << 20
_JOB_ID = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\Z")


class FakePool:
    """The contract in memory.

    Args:
        now: the clock.
        lease_seconds: how long a job is lost when its machine dies without a word (HTCondor: `pool/config.py`).
        settle_seconds: how long machines are unknown after `restart_collector`.
    """

    schedd = "fake-schedd"

    def __init__(self, now: Callable[[], datetime], lease_seconds: float = 12, settle_seconds: float = 120) -> None:
        self.faults = Faults()
        self.tokens: dict[str, datetime] = {}
        self._now = now
        self._lease = timedelta(seconds=lease_seconds)
        self._settle = timedelta(seconds=settle_seconds)
        self._tasks: dict[str, FakeJob] = {}
        self._idle: dict[Group, dict[str, FakeJob]] = {}
        self._clusters: dict[Group, int] = {}
        self._slots: dict[str, FakeSlot] = {}
        self._ads: set[OfflineAd] = set()
        self._expected: set[OfflineAd] = set()
        self._matches: dict[OfflineAd, tuple[Match, ...]] = {}
        self._abroad: dict[str, dict[Group, int]] = {}
        self._unknown_until: datetime | None = None
        self._numbers = itertools.count(1)

    # The contract

    def advertise(self, ads: Sequence[OfflineAd]) -> None:
        """See Pool.advertise."""
        self._reach()
        for ad in ads:
            try:
                name("image name", ad.image)
            except BadName as error:
                raise PoolRefused(str(error)) from None
        self._ads = self._expected = set(ads)
        self._matches = {ad: found for ad, found in self._matches.items() if ad in self._ads}

    def snapshot(self) -> PoolSnapshot:
        """See Pool.snapshot."""
        at = self._now()
        try:
            self._reach()
        except (PoolUnreachable, PoolRefused) as error:
            return PoolSnapshot(at, None, None, None, (str(error),))
        faults = []
        if self._ads != self._expected:
            faults.append("collector: it has forgotten our offline ads; it was restarted")
        if self._unknown_until is not None and at < self._unknown_until:
            faults.append("collector: it was restarted; machines are unknown")
        found = None if faults else tuple(self._machine(slot) for slot in self._slots.values() if not slot.forgotten)
        matched = None if self._ads != self._expected else self._known_matches()
        if self.faults.schedd_down:
            faults.append(f"schedd {self.schedd}: no answer")
        idle = None if self.faults.schedd_down else self._groups()
        foreign = tuple(Foreign(schedd, sum(groups.values())) for schedd, groups in sorted(self._abroad.items()))
        return PoolSnapshot(at, matched, idle, found, tuple(faults), foreign)

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        """See Pool.mint_token."""
        if self.faults.refused:
            raise PoolRefused("fake pool: it refuses")
        try:
            name("VM id", vm_id)
        except BadName as error:
            raise PoolRefused(str(error)) from None
        token = f"fake.{vm_id}.{next(self._numbers)}"
        self.tokens[token] = self._now() + timedelta(seconds=lifetime_seconds)
        return token

    def forget_vm(self, vm_id: str, token_dies: bool = True) -> None:
        """See Pool.forget_vm. The job of a machine that died silently waits for its lease all the same."""
        self._reach()
        try:
            name("VM id", vm_id)
        except BadName as error:
            raise PoolRefused(str(error)) from None
        if vm_id in self._slots:
            self._slots[vm_id].forgotten = True

    def job(self, job_id: str) -> Job | None:
        """See Pool.job."""
        self._reach()
        if self.faults.schedd_down:
            raise Partial(f"schedd {self.schedd}: no answer")
        if not _JOB_ID.match(job_id):
            raise PoolRefused(f"job id: got {job_id[:40]!r}, expected cluster.proc such as 12.0")
        task = self._tasks.get(job_id)
        return None if task is None else self._job(task)

    # The world: what researchers, machines and time do

    def submit(
        self,
        vm_name: str | None,
        count: int = 1,
        cpus: int = 1,
        memory_mb: int = 128,
        run_seconds: float | None = None,
    ) -> tuple[str, ...]:
        """Put jobs into the queue and return their ids."""
        cluster = next(self._numbers)
        tasks = [FakeJob(f"{cluster}.{proc}", vm_name, cpus, memory_mb, run_seconds) for proc in range(count)]
        for task in tasks:
            self._tasks[task.id] = task
            self._wait(task)
        return tuple(task.id for task in tasks)

    def flock(self, schedd: str, vm_name: str, count: int) -> None:
        """So many jobs of another pool's schedd wait and may be matched here."""
        self._abroad.setdefault(schedd, {})[vm_name, 1, 128] = count

    def join(self, vm_id: str, image: str, desktop: str, cpus: int = 1, memory_mb: int = 1024) -> None:
        """A machine's startd reports for the first time."""
        self._slots[vm_id] = FakeSlot(vm_id, image, desktop, cpus, memory_mb, self._now(), {})

    def leave(self, vm_id: str) -> None:
        """A machine vacates its jobs and takes its ads out; its jobs are idle at once."""
        slot = self._slots.pop(vm_id, None)
        for task in () if slot is None else tuple(slot.jobs.values()):
            self._wait(task)

    def die(self, vm_id: str) -> None:
        """A machine is gone without a word: its jobs seem to run until their lease is over."""
        slot = self._slots.get(vm_id)
        if slot is not None and slot.silent_since is None:
            slot.silent_since = self._now()

    def remove(self, job_id: str) -> None:
        """The researcher removes a job."""
        self._end(self._tasks[job_id], REMOVED)

    def complete(self, job_id: str) -> None:
        """A running job ends by itself."""
        self._end(self._tasks[job_id], COMPLETED)

    def restart_collector(self) -> None:
        """The collector starts anew: offline ads are forgotten, machines have to report again."""
        self._ads, self._matches = set(), {}
        self._unknown_until = self._now() + self._settle

    def pass_time(self) -> None:
        """Let jobs end that have run long enough, and give up machines whose lease is over."""
        now = self._now()
        for slot in tuple(self._slots.values()):
            if slot.silent_since is not None:
                if now - slot.silent_since >= self._lease:
                    self.leave(slot.vm_id)
                continue
            for task in tuple(slot.jobs.values()):
                needed, began = task.run_seconds, task.started_at
                if needed is not None and began is not None and now - began >= timedelta(seconds=needed):
                    self._end(task, COMPLETED)

    def negotiate(self) -> None:
        """One cycle: jobs get real slots, what remains is matched with the offline ads."""
        self.pass_time()
        if self.faults.unreachable or self.faults.schedd_down:
            return
        for slot in self._slots.values():
            if slot.silent_since is None and not slot.forgotten:
                self._fill(slot)
        now = self._now()
        for ad in self._ads:
            found = tuple(
                Match(ad.image, ad.size, self.schedd, self._clusters[group], len(tasks), now)
                for group, tasks in self._idle.items()
                if tasks and _fits(group, ad)
            )
            found += tuple(
                Match(ad.image, ad.size, schedd, number, count, now)
                for schedd, groups in self._abroad.items()
                for number, (group, count) in enumerate(groups.items(), start=1)
                if _fits(group, ad)
            )
            if found:
                self._matches[ad] = found

    # Inside

    def _reach(self) -> None:
        if self.faults.unreachable:
            raise PoolUnreachable("fake pool: no answer")
        if self.faults.refused:
            raise PoolRefused("fake pool: it refuses")

    def _fill(self, slot: FakeSlot) -> None:
        for tasks in self._idle.values():
            while tasks:
                task = next(iter(tasks.values()))
                if not slot.has_room(task):
                    break
                del tasks[task.id]
                now = self._now()
                task.status, task.vm_id, task.started_at, task.matched_at = RUNNING, slot.vm_id, now, now
                task.starts += 1
                slot.jobs[task.id] = task

    def _wait(self, task: FakeJob) -> None:
        task.last_vm = task.vm_id or task.last_vm
        task.status, task.vm_id, task.started_at = IDLE, None, None
        self._idle.setdefault(task.group, {})[task.id] = task
        self._clusters.setdefault(task.group, len(self._clusters) + 1)

    def _end(self, task: FakeJob, status: int) -> None:
        self._idle.get(task.group, {}).pop(task.id, None)
        if task.vm_id in self._slots:
            self._slots[task.vm_id].jobs.pop(task.id, None)
        task.status, task.vm_id = status, None

    def _known_matches(self) -> tuple[Match, ...]:
        """Each group counts on the smallest size that it was matched with."""
        chosen: dict[tuple[str, str, int], Match] = {}
        for found in self._matches.values():
            for match in found:
                key = (match.image, match.schedd, match.autocluster)
                if key not in chosen or match.size < chosen[key].size:
                    chosen[key] = match
        return tuple(chosen[key] for key in sorted(chosen))

    def _groups(self) -> tuple[JobGroup, ...]:
        return tuple(
            JobGroup(self.schedd, self._clusters[group], group[0], group[1], group[2], len(tasks))
            for group, tasks in self._idle.items()
            if tasks and group[0] is not None
        )

    def _machine(self, slot: FakeSlot) -> MachineAd:
        jobs = tuple(sorted(slot.jobs))
        return MachineAd(slot.vm_id, slot.vm_id, slot.image, slot.desktop, bool(jobs), jobs, slot.joined_at)

    def _job(self, task: FakeJob) -> Job:
        return Job(
            id=task.id,
            owner="fake",
            status=task.status,
            vm_name=task.vm_name,
            cpus=task.cpus,
            memory_mb=task.memory_mb,
            requirements="" if task.vm_name is None else "(TARGET.vm_name == MY.vm_name)",
            autocluster=self._clusters[task.group],
            schedd=self.schedd,
            remote_host=task.vm_id,
            last_host=task.last_vm,
            last_match_at=task.matched_at,
            starts=task.starts,
        )


def _fits(group: Group, ad: OfflineAd) -> bool:
    image, cpus, memory_mb = group
    return image == ad.image and cpus <= ad.size.cpus and memory_mb <= ad.size.memory_bytes // _MIB
