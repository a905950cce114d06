"""A coordinator over HTTPS with the pool in memory, and real agent processes whose virtual machines are pretended.

For what goes wrong between coordinator and agent: no guest is needed for that, and hundreds of messages are.
"""

import queue
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from deskgrid.agent.owner.status import read_status
from deskgrid.coordinator.client import OperatorClient
from deskgrid.coordinator.images.catalogue import FixedCatalogue
from deskgrid.coordinator.service import Ready, run
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.demo.cast import Cast
from deskgrid.demo.stage import AGENT, over, write_agent
from deskgrid.host.system.account import become
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Size
from deskgrid.model.plan import PlanSettings
from deskgrid.model.pool import Job, OfflineAd, PoolSnapshot
from deskgrid.presence.fake import set_presence
from deskgrid.wire.local import Status
from tests.pool.fake import FakePool
from tests.pool.fake_world import COMPLETED

MIB = 1 << 20
WRONG_CLOCK = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from deskgrid.agent.run import run
from deskgrid.agent.settings import AgentSettings
from deskgrid.host.system.toml import read
run(read(Path(sys.argv[1]), AgentSettings), wall=lambda: datetime.now(UTC) + timedelta(hours=float(sys.argv[2])))
"""


class SharedPool(FakePool):
    """The pool in memory, for several threads; each question is a negotiation."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self.lock = threading.RLock()

    def advertise(self, ads: "tuple[OfflineAd, ...]") -> None:  # type: ignore[override]
        with self.lock:
            super().advertise(ads)

    def snapshot(self) -> PoolSnapshot:
        with self.lock:
            self.negotiate()
            return super().snapshot()

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        with self.lock:
            return super().mint_token(vm_id, lifetime_seconds)

    def forget_vm(self, vm_id: str, token_dies: bool = True) -> None:
        with self.lock:
            super().forget_vm(vm_id, token_dies)

    def job(self, job_id: str) -> Job | None:
        with self.lock:
            return super().job(job_id)

    def done(self, jobs: tuple[str, ...]) -> int:
        """How many of these have finished."""
        found = [self.job(job) for job in jobs]
        return sum(job is not None and job.status == COMPLETED for job in found)


class Campus:
    """The coordinator runs in this process; `ahead` is what its clock is ahead of the world's."""

    def __init__(self, cast: Cast, image: ImageFacts) -> None:
        self.cast, self.image = cast, image
        self.ahead = timedelta(0)
        self.pool = SharedPool(self.now)
        self.state = cast.folder / "office"
        self._ready: queue.Queue[Ready | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        at = self._ready.get(timeout=60)
        assert isinstance(at, Ready), at
        self.at = at
        self.client = OperatorClient(at.url, self.state)
        self._ended = threading.Event()
        self._startds = threading.Thread(target=self._live_as_startds, daemon=True)
        self._startds.start()

    def now(self) -> datetime:
        """The coordinator's clock."""
        return datetime.now(UTC) + self.ahead

    def close(self) -> None:
        self._ended.set()
        self._startds.join(60)
        self.at.stop()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def start_desktop(self, name: str, url: str = "", hours_ahead: float = 0.0) -> None:
        """A new member and its agent. url: how it calls the coordinator. hours_ahead: its clock is wrong."""
        cast = self.cast
        state = cast.make_folder(name)
        self.owner(name, "away")
        own = {
            "coordinator": url or self.at.url,
            "desktop": name,
            "state": str(state),
            "presence": f"file:{state / 'owner'}",
            "hypervisor": "fake",
            "policy": {"max_vms": 2, "cpu_share": 1},
        }
        settings = write_agent(cast, cast.folder / f"{name}.toml", over(AGENT, own))
        made = self.client.make_token(3600, 1)
        cast.run("agent", "enrol", "--settings", str(settings), stdin=f"{made.token}@{made.ca_fingerprint}")
        if hours_ahead:
            words = [*become(cast.account), sys.executable, "-c", WRONG_CLOCK, str(settings), str(hours_ahead)]
            cast.start_argv(name, words)
        else:
            cast.start(name, "agent", "run", "--settings", str(settings))

    def owner(self, name: str, word: str) -> None:
        set_presence(self.cast.folder / name / "owner", word)

    def status(self, name: str) -> Status | None:
        """What an agent last told on its own desktop."""
        return read_status(self.cast.folder / name / "status.json")

    def _serve(self) -> None:
        settings = CoordinatorSettings(
            state_dir=self.state,
            port=0,
            cycle_seconds=0.2,
            report_seconds=2,
            hold_seconds=5,
            plan=PlanSettings(lease_seconds=120, stale_seconds=20, sizes=(Size(1, 256 * MIB),), backoff_seconds=1),
        )
        try:
            run(settings, self.pool, self._ready.put, self.now, FixedCatalogue(self.image))
        except BaseException as error:
            self._ready.put(error)

    def _live_as_startds(self) -> None:
        """What the startds in the guests would do: join the pool when they are up, leave it when they end."""
        joined: set[str] = set()
        while not self._ended.wait(0.1):
            vms = {vm.vm_id: vm for vm in self.client.vms()}
            with self.pool.lock:
                for vm_id, vm in vms.items():
                    if vm.state == "running" and vm_id not in joined:
                        joined.add(vm_id)
                        self.pool.join(vm_id, vm.image.name, vm.desktop, 1, 256)
                for vm_id in joined - vms.keys():
                    self.pool.leave(vm_id)
                joined &= vms.keys()


class Watch(threading.Thread):
    """Looks at what every agent runs, all the time."""

    def __init__(self, campus: Campus, desktops: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._campus, self._desktops = campus, desktops
        self.seen: dict[str, str] = {}
        self.faults: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for desktop in self._desktops:
                status = self._campus.status(desktop)
                vms = status.vms if status is not None else ()
                if len(vms) > 2:
                    self.faults.append(f"{desktop} runs {len(vms)} machines")
                for vm in vms:
                    if self.seen.setdefault(vm.vm_id, desktop) != desktop:
                        self.faults.append(f"{vm.vm_id} ran on {self.seen[vm.vm_id]} and {desktop}")

    def stop(self) -> None:
        self.ended.set()
        self.join(60)


def soon(seconds: float) -> float:
    """The monotonic time in so many seconds."""
    return time.monotonic() + seconds


def decoded(raw: bytes) -> object:
    """JSON, for messages of failed assertions."""
    return msgspec.json.decode(raw)
