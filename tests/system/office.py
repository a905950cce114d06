"""Real agents with real QEMU and signed images, beside a real coordinator; the pool is in memory.

For attacks on images and faults of what serves them: no HTCondor is needed for that. Coordinator, signers and web
server run as whoever tests, the desktops as the service account: what is theirs can be told from the rest.
"""

import queue
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "hypervisor"))

from tiny_guest import CMDLINE, DISK_BYTES, DISK_LINE, tiny_guest

from deskgrid.coordinator.client import OperatorClient
from deskgrid.coordinator.service import Ready, run
from deskgrid.coordinator.settings import CoordinatorSettings, ImageSettings
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.demo.cast import Cast
from deskgrid.demo.signers import Signers
from deskgrid.demo.stage import AGENT, over, write_agent
from deskgrid.host.system.account import become
from deskgrid.images.build import cpio
from deskgrid.images.format import manifest
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.images.store.upkeep import StoreVerified, verify
from deskgrid.images.trust.values import Version
from deskgrid.model.lease import Size
from deskgrid.model.plan import PlanSettings
from deskgrid.pool.embedded.pool import free_port
from deskgrid.presence.fake import set_presence
from tests.images.built import sealed

from .campus import SharedPool
from .grid import qemu_of, until

MIB = 1 << 20
NOISE_BYTES = 8 * MIB
WEB = Path(__file__).with_name("web_of_packs.py")
CLOCK = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from deskgrid.agent.run import run
from deskgrid.agent.settings import AgentSettings
from deskgrid.host.system.toml import read
wrong = Path(sys.argv[2])
run(read(Path(sys.argv[1]), AgentSettings), wall=lambda: datetime.now(UTC) + timedelta(days=float(wrong.read_text())))
"""
POLICY = {"disk_floor_bytes": 0, "vm_disk_bytes": 128 * MIB, "max_vms": 1, "cpu_share": 1, "sense_seconds": 1}


class Pool(SharedPool):
    """Its tokens are secrets, and known here."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self.minted: list[str] = []

    def mint_token(self, vm_id: str, lifetime_seconds: int) -> str:
        super().mint_token(vm_id, lifetime_seconds)
        self.minted.append(f"pool-token-{secrets.token_hex(12)}")
        return self.minted[-1]


class Web:
    """A web server of the repository in a process of its own, which can be stopped, ended, and started again."""

    def __init__(self, root: Path) -> None:
        self._root, self.port = root, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        argv = [sys.executable, str(WEB), str(self._root), str(self.port)]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline()

    def silent(self, silent: bool) -> None:
        """It stops to answer, or goes on."""
        self.process.send_signal(signal.SIGSTOP if silent else signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Image(msgspec.Struct, frozen=True):
    """An image that was made and signed. disk, canary: what is in it, and is nowhere else."""

    name: str
    version: Version
    disk_sum: str
    canary: str


class Office:
    """Signers, web server, coordinator; desktops are added."""

    def __init__(self, folder: Path, cast: Cast) -> None:
        self.folder, self.cast = folder, cast
        self.signers = Signers(folder / "signers")
        self.places = self.signers.places
        self.web = Web(self.places.repository)
        self.sources: tuple[str, ...] = (self.web.url,)
        self.ahead = timedelta(0)
        self.pool = Pool(self.now)
        self.root = cast.folder / "root.json"
        self.root.write_bytes(self.places.root.read_bytes())
        self.root.chmod(0o644)
        self.desktops: set[str] = set()
        self.jobs: list[str] = []

    def now(self) -> datetime:
        """The coordinator's clock."""
        return datetime.now(UTC) + self.ahead

    def open(self) -> None:
        """Start the coordinator."""
        said: queue.Queue[Ready | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, args=(said,), daemon=True)
        self._thread.start()
        at = said.get(timeout=60)
        assert isinstance(at, Ready), at
        self.at = at
        self.client = OperatorClient(at.url, self.folder / "state")

    def _serve(self, said: "queue.Queue[Ready | BaseException]") -> None:
        places = self.places
        images = ImageSettings(
            places.repository, places.online, places.password, places.project_keys, self.sources, renew_seconds=5
        )
        sizes = (Size(1, 256 * MIB),)
        settings = CoordinatorSettings(
            state_dir=self.folder / "state",
            port=0,
            cycle_seconds=0.5,
            report_seconds=2,
            hold_seconds=5,
            plan=PlanSettings(lease_seconds=300, stale_seconds=20, sizes=sizes, backoff_seconds=1),
            images=images,
        )
        try:
            run(settings, self.pool, said.put, self.now)
        except BaseException as error:
            said.put(error)

    def close(self) -> None:
        for name in list(self.desktops):
            self.end_agent(name)
        self.at.stop()
        self._thread.join(60)
        self.web.close()

    # -- images -----------------------------------------------------------------------------------------------------

    def sign(self, name: str, words: str = "") -> Image:
        """Make an image of the tiny guest with canaries in disk, kernel and initrd; publish it, signed by both."""
        guest, canary = tiny_guest(), f"canary-{secrets.token_hex(16)}"
        work = self.folder / "built" / name / "work"
        work.mkdir(parents=True)
        told = (canary.encode() + b"\n") * 1000
        noise = random.Random(name).randbytes(NOISE_BYTES)
        disk = (DISK_LINE.encode() + b"\n" + told + noise + told).ljust(DISK_BYTES, b"\0")
        (work / manifest.DISK).write_bytes(disk)
        (work / manifest.KERNEL).write_bytes(guest.kernel.read_bytes() + told)
        (work / manifest.INITRD).write_bytes(guest.initrd.read_bytes() + cpio.archive([cpio.plain("canary", told)]))
        checksum = manifest.measure(work / manifest.DISK).sha256
        built = sealed(work, name, memory_bytes=256 * MIB, disk_bytes=DISK_BYTES, cmdline=f"{CMDLINE}{words}")
        return Image(name, self.signers.publish(built), checksum, canary)

    @property
    def project_key(self) -> bytes:
        (file,) = self.places.project_keys.glob("*.key")
        return bytes.fromhex(file.read_text())

    # -- desktops ---------------------------------------------------------------------------------------------------

    def start_desktop(self, name: str, policy: dict[str, object] | None = None, **more: object) -> None:
        """A new member and its agent; its clock is what the file `days` in its folder says, in days."""
        cast, state = self.cast, self.cast.make_folder(name)
        self.owner(name, "away")
        self.clock(name, 0)
        own = {
            "coordinator": self.at.url,
            "desktop": name,
            "state": str(state),
            "root": str(self.root),
            "repository": self.web.url,
            "presence": f"file:{state / 'owner'}",
            "policy": {key: value for key, value in (POLICY | (policy or {})).items() if key != "sense_seconds"},
            **more,
        }
        settings = write_agent(cast, cast.folder / f"{name}.toml", over(AGENT, own))
        made = self.client.make_token(3600, 1)
        cast.run("agent", "enrol", "--settings", str(settings), stdin=f"{made.token}@{made.ca_fingerprint}")
        self.start_agent(name)

    def start_agent(self, name: str) -> None:
        cast = self.cast
        words = [sys.executable, "-c", CLOCK, str(cast.folder / f"{name}.toml"), str(cast.folder / f"{name}.days")]
        cast.start_argv(name, [*become(cast.account), *words])
        self.desktops.add(name)

    def end_agent(self, name: str, number: int = signal.SIGTERM) -> None:
        """End an agent; politely, its machines end first."""
        self.desktops.discard(name)
        process = self.cast.processes.pop(name)
        process.send_signal(number)
        process.wait(60)

    def retire(self, name: str) -> None:
        """End an agent for good: its desktop is no member any more, so that nothing is given to it."""
        if name in self.desktops:
            self.end_agent(name)
            self.client.revoke(name, "the test is over")

    def owner(self, name: str, word: str) -> None:
        set_presence(self.cast.folder / name / "owner", word)

    def clock(self, name: str, days: float) -> None:
        """The clock of a desktop is so far ahead from now on."""
        self.cast.write(self.cast.folder / f"{name}.days", str(days))

    def pid(self, name: str) -> int:
        """The agent itself: what became the service account."""
        return self.cast.processes[name].pid

    def log(self, name: str) -> str:
        return (self.cast.folder / f"{name}.log").read_text(errors="replace")

    def verified(self, store: Path) -> StoreVerified:
        """Read and check all that a desktop's store holds."""
        opened = ChunkStore(store, StoreLimits(1 << 40, 0))
        try:
            return verify(opened)
        finally:
            opened.close()

    # -- machines ---------------------------------------------------------------------------------------------------

    def want(self, image: Image, count: int = 1) -> None:
        """Jobs wait for it, and for nothing else."""
        self.want_nothing()
        with self.pool.lock:
            self.jobs = list(self.pool.submit(image.name, count))

    def want_nothing(self) -> None:
        with self.pool.lock:
            for job in self.jobs:
                self.pool.remove(job)
        self.jobs = []
        for vm in self.client.vms():
            with suppress(Exception):
                self.client.end_vm(vm.vm_id, "the test wants nothing")

    def leases(self, image: Image, desktop: str = "") -> list[LeaseRecord]:
        """All leases of an image, oldest first."""
        found = [one for one in self.client.leases(limit=10_000) if one.lease.image.name == image.name]
        found = [one for one in found if desktop in ("", one.lease.desktop)]
        return sorted(found, key=lambda one: one.lease.granted_at)

    def events(self, vm_id: str) -> list[str]:
        return [line.event for line in self.client.story(vm_id)]

    def story(self, vm_id: str) -> str:
        return "\n".join(f"{line.event}: {line.sentence}" for line in self.client.story(vm_id))

    def machine(self, image: Image, event: str, desktop: str = "", seconds: float = 240.0) -> str:
        """Wait until that has happened to a living machine of an image; its id."""

        def found() -> str:
            for record in reversed(self.leases(image, desktop)):
                if record.ended_at is None and event in self.events(record.lease.vm_id):
                    return record.lease.vm_id
            return ""

        until(f"{image.name} to have {event}", found, seconds)
        return found()

    def ended(self, vm_id: str, seconds: float = 240.0) -> LeaseRecord:
        """Wait for a machine's end; its record."""

        def record() -> LeaseRecord:
            return next(one for one in self.client.leases(limit=10_000) if one.lease.vm_id == vm_id)

        until(f"{vm_id} to end", lambda: record().ended_at is not None, seconds)
        return record()

    def processes(self, vm_id: str) -> dict[str, psutil.Process]:
        """Keeper, QEMU and what serves the disk of a machine that runs."""
        qemu = qemu_of(vm_id)
        assert qemu is not None
        keeper = qemu.parent()
        assert keeper is not None
        (serve,) = [one for one in keeper.children() if "deskgrid.images.serve.serve" in one.cmdline()]
        return {"keeper": keeper, "qemu": qemu, "serve": serve}

    def left_behind(self, desktop: str, vm_id: str, pids: list[int]) -> list[str]:
        """What is still there of a machine."""
        folder = self.cast.folder / desktop / "vms"
        files = [str(path) for path in folder.rglob("*") if vm_id in str(path)] if folder.exists() else []
        return files + [f"process {pid}" for pid in pids if alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def reads_right(record: LeaseRecord, image: Image) -> bool:
    """Whether a machine with dg.all and dg.sum has told of the very disk that was published."""
    return record.end is not None and f"read all {image.disk_sum}" in record.end.sentence
