"""What takes an hour: network cuts and many kills, in rounds; interrupted, it goes on where it was.

    python -m bench.soak                  all rounds that build/soak.json does not have yet
    python -m bench.soak --only cuts      one of: cuts, kills, pauses
    python -m bench.soak --rounds 2       so many of each, to try it

Rules:
- A real pool, coordinator, two desktops with real guests, and a job that works without end.
- cuts: the cable of the job's desktop is out for 20 s, again and again, for an hour. That is no reason to take a job
  away: a round in which the job had to start again, or its VM ended, is a false alarm.
- kills: SIGKILL of the agent, the keeper, QEMU, of what serves the disk, of the coordinator; and power: the cable is
  out and then all of the desktop is killed, so that nobody is left to tell and no connection ends. Each round tells how
  long HTCondor believed in a job that was not there any more, whether a VM was left over, whether the job ran twice.
  Among them, busy: the owner comes back while as many programs compute as there are cores.
- pauses: the owner is there for as long as the round says, and goes again: the job must go on, not begin again.
- Each round is written before the next begins.

Exit code 0: all rounds are there, without a false alarm, a VM left over or a job that ran twice; 1: not.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from bench.cable import Cable, alone, cable
from bench.machine import CannotMeasure, qemu_of
from deskgrid.cli.demo import RECIPE
from deskgrid.cli.grid.pool import provide_tree
from deskgrid.cli.image.image import build_with_bar
from deskgrid.demo.cast import Cast, DemoError
from deskgrid.demo.stage import Stage
from deskgrid.host.system.account import become
from deskgrid.host.system.files import write_atomic
from deskgrid.pool.config import PoolSettings
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedError

T = TypeVar("T")
CUT_SECONDS = 20.0
VICTIMS = ("qemu", "keeper", "serve", "agent", "power", "busy", "coordinator")
PAUSES = (170, 200, 300, 600)
COUNTS = {"cuts": 90, "kills": 63, "pauses": len(PAUSES)}
CABLED, PATIENT = DESKTOPS = ("desk-1", "desk-2")
"""One has the cable, and gives up its VM at once when its owner returns; the other pauses it for long."""
GRACE_SECONDS = 700
_WAIT_SECONDS = 600.0
_JOB = "executable = /bin/sleep\narguments = 100000\ntransfer_executable = false\nrequest_memory = 128\n"
_JOB += 'request_disk = 10MB\nrequest_cpus = 1\nshould_transfer_files = yes\n+vm_name = "demo"\nqueue\n'


_SORTS = {"cut": "cuts", "pause": "pauses"}


class Round(msgspec.Struct, frozen=True):
    """What came of one round.

    kind: "cut", "pause" or who was killed. believed_seconds: from the kill until HTCondor knew that the job does not
    run there; None: it ran on. wrong: what must not be; "": nothing.
    """

    kind: str
    at: datetime
    believed_seconds: float | None = None
    wrong: str = ""


class Kept(msgspec.Struct):
    """build/soak.json."""

    rounds: list[Round] = []

    def count(self, sort: str) -> int:
        """How many rounds there are of cuts, kills or pauses."""
        return sum(_SORTS.get(one.kind, "kills") == sort for one in self.rounds)


class Where(msgspec.Struct, frozen=True):
    """Where the job runs now. starts: how often it has begun."""

    vm_id: str
    desktop: str
    starts: int


class Soak:
    """The grid and its job."""

    def __init__(self, stage: Stage, wire: Cable, say: Callable[[str], None]) -> None:
        self.stage, self.wire, self.say = stage, wire, say
        self.job = ""
        self._loops: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Start desktops and the job."""
        for desktop, grace in ((CABLED, 0), (PATIENT, GRACE_SECONDS)):
            self.stage.enrol(desktop, {"policy": {"grace_seconds": grace}})
            self.start_agent(desktop)
        done = self.stage.pool.command(["condor_submit", "-terse", "-"], cwd=self.stage.pool.jobs, stdin=_JOB.encode())
        if not done.ok:
            raise CannotMeasure(f"condor_submit: {done.stderr.strip()}")
        self.job = done.stdout.split()[0]

    def start_agent(self, desktop: str) -> None:
        """Start an agent, the first one's at the other end of the cable."""
        stage, cast = self.stage, self.stage.cast
        inside = self.wire.inside if desktop == CABLED else []
        settings = str(stage.agent_settings(desktop))
        argv = [*inside, *become(cast.account), sys.executable, "-m", "deskgrid", "--verbose", "agent", "run"]
        cast.start_argv(desktop, [*argv, "--settings", settings])

    def running(self) -> Where:
        """Wait until the job runs."""
        self.say("waiting until the job runs")
        return self._until("the job to run", self._where)

    def _where(self) -> Where | None:
        words = self._ask("JobStatus", "NumShadowStarts")
        if words[:1] != ["2"]:
            return None
        ours = ["-constraint", f'JobId == "{self.job}" && deskgrid_vm_id =!= undefined']
        done = self.stage.pool.command(["condor_status", *ours, "-af", "deskgrid_vm_id", "deskgrid_desktop"])
        found = done.stdout.split() if done.ok else []
        return Where(found[0], found[1], int(words[1])) if len(found) == 2 and qemu_of(found[0]) else None

    def _ask(self, *attributes: str) -> list[str]:
        done = self.stage.pool.command(["condor_q", self.job, "-af", *attributes])
        return done.stdout.split() if done.ok else []

    def _until(self, what: str, found: Callable[[], T | None], step_seconds: float = 0.5) -> T:
        end = time.monotonic() + _WAIT_SECONDS
        while (it := found()) is None:
            if time.monotonic() > end:
                raise CannotMeasure(f"waited {_WAIT_SECONDS:.0f} s for {what}, in vain")
            time.sleep(step_seconds)
        return it

    def cut(self) -> Round:
        """Pull the cable of the job's desktop for a while."""
        where, at = self._on(CABLED), datetime.now(UTC)
        self.wire.pull()
        time.sleep(CUT_SECONDS)
        self.wire.plug()
        time.sleep(random.uniform(15, 25))
        now = self._where()
        if now == where:
            return Round("cut", at)
        return Round("cut", at, wrong=f"before: {where}; after: {now or self._ask('JobStatus')}")

    def _on(self, desktop: str) -> Where:
        """Have the job run on this desktop."""
        where = self.running()
        if where.desktop != desktop:
            self.stage.owner(where.desktop, "present")
            self.stage.client.end_vm(where.vm_id, "the job is needed elsewhere")
            self._until("the job to move", lambda: True if self._elsewhere(where) else None)
            left, where = where, self.running()
            self.stage.owner(left.desktop, "away")
        return where

    def pause(self, seconds: float) -> Round:
        """The owner is there for a while."""
        where, at = self._on(PATIENT), datetime.now(UTC)
        self.stage.owner(PATIENT, "present")
        time.sleep(seconds)
        self.stage.owner(PATIENT, "away")
        self._until("the VM to go on", lambda: True if self._state(where) != "paused" else None)
        time.sleep(20)
        now = self._where()
        return Round("pause", at, None, "" if now == where else f"{seconds} s; before: {where}; after: {now}")

    def _state(self, where: Where) -> str:
        return next((vm.state for vm in self.stage.client.vms() if vm.vm_id == where.vm_id), "gone")

    def kill(self, victim: str) -> Round:
        """Kill it where the job runs."""
        where, at = self._on(CABLED) if victim in ("power", "busy") else self.running(), datetime.now(UTC)
        ran_on, began = self._strike(victim, where), time.monotonic()
        if ran_on:
            time.sleep(20)
            now = self._where()
            return Round(victim, at, wrong="" if now == where else f"before: {where}; after: {now}")
        self._until("HTCondor to know", lambda: True if self._elsewhere(where) else None, 0.2)
        believed = time.monotonic() - began
        self._mend(victim, where.desktop)
        self.running()
        left = qemu_of(where.vm_id)
        return Round(victim, at, believed, "" if left is None else f"{where.vm_id} is left over")

    def _strike(self, victim: str, where: Where) -> bool:
        """Kill. Returns: whether the job has to notice nothing."""
        qemu = qemu_of(where.vm_id)
        keeper = qemu.parent() if qemu else None
        if qemu is None or keeper is None:
            raise CannotMeasure(f"{where.vm_id}: it has no QEMU or no keeper")
        processes = self.stage.cast.processes
        if victim == "busy":
            self._loops = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
            ]
            time.sleep(5)
            self.stage.owner(where.desktop, "present")
            return False
        if victim == "coordinator":
            processes.pop("coordinator").kill()
            self.stage.start_coordinator()
            return True
        if victim == "serve":
            next(one for one in keeper.children() if "deskgrid.images.serve.serve" in one.cmdline()).kill()
        elif victim in ("qemu", "keeper"):
            {"qemu": qemu, "keeper": keeper}[victim].kill()
        else:
            top = psutil.Process(processes.pop(where.desktop).pid)
            family = [top, *top.children(recursive=True)] if victim == "power" else [top]
            if victim == "power":
                family += [keeper, qemu, *keeper.children(recursive=True)]
                self.wire.pull()
            for one in family:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        return False

    def _elsewhere(self, where: Where) -> bool:
        words = self._ask("JobStatus", "NumShadowStarts")
        return bool(words) and (words[0] == "1" or (words[0] == "2" and int(words[1]) > where.starts))

    def _mend(self, victim: str, desktop: str) -> None:
        if victim == "busy":
            for loop in self._loops:
                loop.kill()
            self.stage.owner(desktop, "away")
        if victim == "power":
            self.wire.plug()
        if victim in ("agent", "power"):
            self.start_agent(desktop)


@contextlib.contextmanager
def soaking(say: Callable[[str], None]) -> Iterator[Soak]:
    """A grid to soak. Raises: CannotMeasure, DemoError, EmbeddedError."""
    tree, image = provide_tree(), build_with_bar(RECIPE)
    cast = Cast()
    try:
        stage = Stage(cast, tree, image.folder)
        say("starting a pool, a coordinator and two desktops")
        stage.vouch(image.folder)
        stage.start_pool(HeadSettings(PoolSettings(), cycle_seconds=2))
        stage.start_coordinator()
        with cable((stage.port, int(stage.pool.guest_collector.rpartition(":")[2]))) as wire:
            made = Soak(stage, wire, say)
            try:
                made.begin()
                yield made
            finally:
                cast.close()
    finally:
        cast.close()


def main() -> int:
    """Do what is left to do. Returns: the exit code."""
    parser = argparse.ArgumentParser("python -m bench.soak", description="Network cuts and kills, for hours.")
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"), help="where the rounds go")
    parser.add_argument("--only", choices=tuple(COUNTS), help="one of them")
    parser.add_argument("--rounds", type=int, help=f"so many of each, instead of {COUNTS}")
    asked = parser.parse_args()
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    kept = msgspec.json.decode(asked.output.read_bytes(), type=Kept) if asked.output.exists() else Kept()
    wanted = {sort: asked.rounds or count for sort, count in COUNTS.items()}
    todo = [sort for sort in wanted if asked.only in (None, sort) and kept.count(sort) < wanted[sort]]
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:8.1f} s  {line}", flush=True)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    try:
        if todo:
            alone("bench.soak", sys.argv[1:])
            with soaking(say) as soak:
                for sort in todo:
                    _rounds(soak, sort, wanted[sort], kept, asked.output)
    except (CannotMeasure, DemoError, EmbeddedError) as error:
        say(f"stopped: {error}; the rounds until now are in {asked.output}")
        return 1
    return _tell(kept)


def _rounds(soak: Soak, sort: str, count: int, kept: Kept, output: Path) -> None:
    while (number := kept.count(sort)) < count:
        victim, seconds = VICTIMS[number % len(VICTIMS)], PAUSES[number % len(PAUSES)]
        rounds: dict[str, tuple[str, Callable[[], Round]]] = {
            "cuts": ("cut", soak.cut),
            "kills": (victim, partial(soak.kill, victim)),
            "pauses": (f"{seconds} s", partial(soak.pause, seconds)),
        }
        what, run = rounds[sort]
        soak.say(f"{sort}: round {number + 1} of {count}: {what}")
        done = run()
        soak.say(f"{what}: {_told(done)}")
        kept.rounds.append(done)
        write_atomic(output, msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n", 0o644)


def _told(one: Round) -> str:
    if one.wrong:
        return f"WRONG: {one.wrong}"
    return "nothing was lost" if one.believed_seconds is None else f"HTCondor knew after {one.believed_seconds:.1f} s"


def _tell(kept: Kept) -> int:
    for kind in ("cut", *VICTIMS, "pause"):
        rounds = [one for one in kept.rounds if one.kind == kind]
        believed = [one.believed_seconds for one in rounds if one.believed_seconds is not None]
        wrong = [one.wrong for one in rounds if one.wrong]
        print(f"{kind:<12} {len(rounds):3d} rounds, {len(wrong)} wrong")
        if believed:
            print(
                f"             HTCondor knew after {statistics.median(believed):.1f} s, at most {max(believed):.1f} s"
            )
        for one in wrong:
            print(f"             {one}")
    return int(any(one.wrong for one in kept.rounds))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
