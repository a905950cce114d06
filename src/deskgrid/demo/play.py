"""The demo's story: three jobs, two desktops, one owner who comes back. Tells live what happens, and measures.

What is measured is observed from outside wherever that is possible: QEMU's start and end by its process, the job's
states by condor_q, the VM's arrival by condor_status; the order and the pause by the times in the VM's story.
"""

import threading
import time
from collections.abc import Callable

import psutil

from deskgrid.coordinator.client import NoAnswer
from deskgrid.demo.cast import DESKTOPS, HANG_SECONDS, DemoError
from deskgrid.demo.figures import Figures
from deskgrid.demo.jobs import IMAGE, JOBS, LONG, LOOK, PLAIN, DemoJob
from deskgrid.demo.stage import Stage
from deskgrid.wire.operator import StoryLine

Tell = Callable[[str, str], None]
_IDLE, _RUNNING, _DONE = 1, 2, 4


class Play:
    """One run of the story."""

    def __init__(self, stage: Stage, tell: Tell) -> None:
        self.stage, self._tell = stage, tell
        self.figures = Figures()
        self.lines: list[StoryLine] = []
        self.ids: dict[str, str] = {}
        self._last = stage.client.status().last_line
        self._stop = threading.Event()
        self._joined: dict[str, float] = {}
        self._qemu: dict[str, psutil.Process] = {}

    def run(self) -> None:
        """Play it all. Raises: DemoError when something does not happen in time."""
        follower = threading.Thread(target=self._follow, daemon=True)
        follower.start()
        try:
            self._await_desktops()
            self._nameless_job()
            self._named_jobs()
            self._owner_returns()
            self._all_done()
        finally:
            self._stop.set()
            follower.join(timeout=5)

    # -- the acts -------------------------------------------------------------------------------------------------

    def _await_desktops(self) -> None:
        self._until(
            "both desktops to report that they are idle",
            lambda: self.stage.client.status().available == len(DESKTOPS),
        )
        self._tell("fleet", f"{' and '.join(DESKTOPS)} are idle; machines of image {IMAGE} are offered to HTCondor")

    def _nameless_job(self) -> None:
        self._submit(PLAIN)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            self._breathe(0.5)
            if self.stage.client.vms():
                raise DemoError("a job without a name made a virtual machine start")
        self._tell("why", self.stage.ask("why", "job", self.ids[PLAIN.key]))

    def _named_jobs(self) -> None:
        submitted = time.time()
        self._submit(LOOK)
        self._submit(LONG)
        self._until("a desktop to be told to start", lambda: self._first("fetching") is not None)
        first = self._first("fetching")
        assert first is not None
        self.figures.submit_to_order_s = first.told_at.timestamp() - submitted
        self._until("a virtual machine to join the pool", self._watch_machines)
        vm_id, joined = next(iter(self._joined.items()))
        self.figures.start_to_join_s = joined - self._qemu[vm_id].create_time()
        self._tell("pool", f"{vm_id} joined {self.figures.start_to_join_s:.1f} s after QEMU's start")
        self._until("a job to run there", lambda: any(map(self._begun, (LOOK, LONG))), 0.1)
        self.figures.join_to_job_s = time.time() - joined
        self._until(f"job {self.ids[LONG.key]} to run", lambda: self._where(LONG) is not None)
        self._until("the first job to end", lambda: self._status(LOOK) == _DONE)
        self._breathe(2)

    def _owner_returns(self) -> None:
        vm_id, desktop = self._here(LONG)
        self._watch_machines()
        qemu = self._qemu[vm_id]
        self._tell("owner", f"the owner of {desktop} comes back while job {self.ids[LONG.key]} runs there")
        ended: list[float] = []
        waiter = threading.Thread(target=_await_end, args=(qemu, ended), daemon=True)
        waiter.start()
        before = self._starts(LONG)
        back = time.time()
        self.stage.owner(desktop, "present")
        self._until("the job to be idle again", lambda: self._gave_back(before), 0.05)
        self.figures.evict_to_idle_s = time.time() - back
        waiter.join(timeout=HANG_SECONDS)
        if not ended:
            raise DemoError(f"{vm_id} still runs although the owner is back")
        self.figures.owner_to_gone_ms = (ended[0] - back) * 1000
        self._until("the story of the eviction", lambda: self._told(vm_id, "stopped") is not None)
        stopped = self._told(vm_id, "stopped")
        assert stopped is not None
        self.figures.owner_to_pause_ms = (stopped.told_at.timestamp() - back) * 1000
        self._tell("HTCondor", f"job {self.ids[LONG.key]} is idle again, {self.figures.evict_to_idle_s:.1f} s after")
        self._until("the job to run on another desktop", lambda: self._runs_again(before))
        self.figures.evict_to_rerun_s = time.time() - back
        self.figures.idle_to_rerun_s = self.figures.evict_to_rerun_s - self.figures.evict_to_idle_s
        self._tell("why", self.stage.ask("why", "desktop", desktop))

    def _all_done(self) -> None:
        self._until("all jobs to end", lambda: all(self._status(job) == _DONE for job in JOBS))
        for job in JOBS:
            if fault := job.wrong(self.output(job)):
                self.figures.faults.append(fault)
            else:
                self.figures.jobs_done += 1
        self.figures.accelerator = next(
            (vm.accelerator for vm in self.stage.client.leases() if vm.accelerator), self.figures.accelerator
        )

    def output(self, job: DemoJob) -> str:
        """What a job printed."""
        try:
            return (self.stage.pool.jobs / f"{job.key}.out").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    # -- looking --------------------------------------------------------------------------------------------------

    def _submit(self, job: DemoJob) -> None:
        pool = self.stage.pool
        done = pool.command(["condor_submit", "-terse", f"{job.key}.sub"], cwd=pool.jobs)
        if not done.ok:
            raise DemoError(f"condor_submit {job.key}.sub: {done.fault}")
        self.ids[job.key] = done.stdout.split()[0]
        self._tell("submit", f"job {self.ids[job.key]}: {job.title}")

    def _status(self, job: DemoJob) -> int:
        return self._seen(job)[0]

    def _starts(self, job: DemoJob) -> int:
        return self._seen(job)[1]

    def _begun(self, job: DemoJob) -> bool:
        return self._status(job) in (_RUNNING, _DONE)

    def _gave_back(self, starts: int) -> bool:
        """Whether the long job waits again, or has begun once more: on a busy machine nobody may have seen it wait."""
        status, now = self._seen(LONG)
        return status == _IDLE or now > starts

    def _runs_again(self, starts: int) -> bool:
        status, now = self._seen(LONG)
        return now > starts and (status == _DONE or self._where(LONG) is not None)

    def _seen(self, job: DemoJob) -> tuple[int, int]:
        """A job's status and number of starts; 0 and 0 when nobody has answered."""
        for asked in (["condor_q", self.ids[job.key]], ["condor_history", self.ids[job.key], "-limit", "1"]):
            done = self.stage.pool.command([*asked, "-af", "JobStatus", "NumShadowStarts"])
            words = done.stdout.split() if done.ok else []
            if len(words) == 2:
                return int(words[0]), int(words[1]) if words[1].isdigit() else 0
        return 0, 0

    def _where(self, job: DemoJob) -> tuple[str, str] | None:
        """VM id and desktop of a running job; None: it does not run, or nobody has answered."""
        found = self._slots(f'JobId == "{self.ids[job.key]}"') if self._status(job) == _RUNNING else []
        return found[0] if found else None

    def _here(self, job: DemoJob) -> tuple[str, str]:
        """VM id and desktop of a job that runs."""
        self._until(f"the collector to say where job {self.ids[job.key]} runs", lambda: self._where(job) is not None)
        found = self._where(job)
        return found if found is not None else self._here(job)

    def _slots(self, constraint: str) -> list[tuple[str, str]]:
        ours = f"deskgrid_vm_id =!= undefined && ({constraint})"
        attributes = ["-af", "deskgrid_vm_id", "deskgrid_desktop"]
        answer = self.stage.pool.command(["condor_status", "-constraint", ours, *attributes])
        return [(vm, desktop) for vm, desktop in (line.split()[:2] for line in answer.stdout.splitlines() if line)]

    def _watch_machines(self) -> bool:
        """Note new QEMU processes and machines in the collector; whether any has joined."""
        for vm_id, process in _qemus():
            self._qemu.setdefault(vm_id, process)
        for vm_id, _ in self._slots("true"):
            if vm_id in self._qemu:
                self._joined.setdefault(vm_id, time.time())
        return bool(self._joined)

    def _first(self, state: str) -> StoryLine | None:
        return next((line for line in self.lines if line.state == state and line.source in DESKTOPS), None)

    def _told(self, vm_id: str, event: str) -> StoryLine | None:
        return next((line for line in self.lines if line.vm_id == vm_id and line.event == event), None)

    def _follow(self) -> None:
        """Tell what the stories say, as it comes."""
        while not self._stop.is_set():
            try:
                new = self.stage.client.events(self._last, wait_seconds=1.0)
            except NoAnswer as error:  # a busy coordinator is asked again; one that has ended is seen by `watch`
                if not self._stop.wait(1.0):
                    self._tell("coordinator", str(error))
                continue
            self._last = new.last
            self.lines += new.lines
            for line in new.lines:
                self._tell(line.source, f"{line.vm_id} {line.state or line.event}: {line.sentence}")

    def _until(self, what: str, done: Callable[[], bool], step_seconds: float = 0.3) -> None:
        end = time.monotonic() + HANG_SECONDS
        while not done():
            self._breathe(step_seconds)
            if time.monotonic() > end:
                raise DemoError(f"waited {HANG_SECONDS:.0f} s for {what}, in vain")

    def _breathe(self, seconds: float) -> None:
        self.stage.cast.watch()
        time.sleep(seconds)


def _qemus() -> list[tuple[str, psutil.Process]]:
    """The QEMU processes of this demo's VMs, by VM id (QEMU's -name)."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        argv = process.info["cmdline"] or []
        if (process.info["name"] or "").startswith("qemu-system") and "-name" in argv:
            name = argv[argv.index("-name") + 1].removeprefix("guest=").split(",")[0]
            found.append((name, process))
    return found


def _await_end(process: psutil.Process, ended: list[float]) -> None:
    """Note when a process has ended."""
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.005)
    ended.append(time.time())
