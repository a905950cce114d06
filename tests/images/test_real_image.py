"""The demo's image, really built and booted; a disk made twice; a real pool joined."""

import hashlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deskgrid.core.events import GuestLeft, Joined
from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.host.trees.entry import run_in
from deskgrid.images.build import disk
from deskgrid.images.build.build import Built, build
from deskgrid.images.build.listing import inspect
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.contract import ImageError
from deskgrid.images.format.manifest import measure
from deskgrid.model.instance import InstanceData
from deskgrid.pool.embedded.head import HeadSettings
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.driver import CondorPool
from deskgrid.wire.guest import Hello, Leave
from tests.waiting import eventually

from .machine import Machine
from .promised import assert_kept
from .trees import EPOCH, folder, member, plain, write

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

RECIPE = Path(__file__).parents[2] / "recipes/demo.toml"
Start = Callable[..., Machine]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(RECIPE)


@pytest.fixture(scope="module")
def tools() -> trees.Tree:
    return trees.provide()


@pytest.fixture
def start(built: Built, tmp_path: Path) -> Iterator[Start]:
    made: list[Machine] = []

    def one(direct: bool = True) -> Machine:
        made.append(Machine(built, direct, tmp_path / f"console-{len(made)}"))
        return made[-1]

    yield one
    for machine in made:
        machine.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged account can reach, as the work folder of a build."""
    place = cache_folder() / "images/.test.work"
    own_folder(place, service_account())
    yield place
    subprocess.run(["rm", "-rf", str(place)], check=True)


def small_tar(path: Path) -> Path:
    """A small root tree, normalised."""
    raw = write(
        path.with_suffix(".raw"),
        folder("./etc"),
        folder("./boot"),
        plain("./boot/vmlinuz", b"kernel" * 1000),
        plain("./boot/initrd", b"initrd" * 1000),
        folder("./home"),
        plain("./home/file", b"content", uid=1234, gid=5678, mode=0o640),
        (member("./link", b"2", linkname="home/file"), b""),
    )
    with RootTar(raw) as tree:
        tree.write_normal(path, EPOCH, {})
    path.chmod(0o644)
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_disk_made_twice_from_one_tar_has_the_same_bytes(tools: trees.Tree, open_folder: Path) -> None:
    tar = small_tar(open_folder / "root.tar")
    who = disk.identity("test", EPOCH)
    sums = []
    for name in ("one.raw", "two.raw"):
        disk.build(tools, tar, open_folder / name, 1 << 30, who, "quiet")
        sums.append(sha256(open_folder / name))
        time.sleep(1.1)
    assert sums[0] == sums[1]
    assert (open_folder / "one.raw").stat().st_blocks * 512 < 64 << 20


def test_the_file_system_is_sound_and_owners_are_those_of_the_tar(tools: trees.Tree, open_folder: Path) -> None:
    tar = small_tar(open_folder / "root.tar")
    path = open_folder / "one.raw"
    disk.build(tools, tar, path, 1 << 30, disk.identity("test", EPOCH), "quiet")
    with path.open("rb") as file:
        file.seek(disk.PARTITION_BYTES)
        (open_folder / "part.raw").write_bytes(file.read(64 << 20))
    (open_folder / "part.raw").chmod(0o644)
    argv = ["debugfs", "-R", "stat /home/file", f"{path}?offset={disk.PARTITION_BYTES}"]
    shown = run_in(tools, argv, timeout_seconds=30, binds=[open_folder])
    assert "User:  1234   Group:  5678" in shown.stdout, shown
    assert "Mode:  0640" in shown.stdout
    argv = ["e2fsck", "-f", "-n", f"{path}?offset={disk.PARTITION_BYTES}"]
    checked = run_in(tools, argv, timeout_seconds=60, binds=[open_folder])
    assert checked.code == 0, checked.stdout


def test_a_disk_that_is_too_small_is_one_sentence(tools: trees.Tree, open_folder: Path) -> None:
    tar = small_tar(open_folder / "root.tar")
    with pytest.raises(ImageError, match=r"does not fit into 2 MiB; ask for more disk_bytes"):
        disk.build(tools, _grown(tar), open_folder / "one.raw", 2 << 20, disk.identity("test", EPOCH), "quiet")


def _grown(tar: Path) -> Path:
    raw = write(
        tar.with_suffix(".raw"), folder("./etc"), folder("./boot"), plain("./boot/vmlinuz", bytes(range(256)) * 40000)
    )
    with RootTar(raw) as tree:
        tree.write_normal(tar, EPOCH, {"boot/big": bytes(range(256)) * 40000})
    return tar


def test_an_image_is_whole_as_its_manifest_says(built: Built) -> None:
    assert inspect(built.folder).manifest == built.manifest
    assert all(measure(built.folder / file) == facts for file, facts in built.manifest.files().items())
    assert {"condor", "busybox-static"} <= {package.name for package in built.manifest.packages}


@pytest.mark.parametrize("direct", [True, False], ids=["direct kernel", "BIOS and GRUB"])
def test_a_machine_boots_and_says_hello(start: Start, direct: bool) -> None:
    machine = start(direct)
    machine.hear(Hello)
    machine.say(Leave())
    assert machine.hear(GuestLeft).cause == "asked"
    assert "Kernel panic" not in machine.said()


def test_a_machine_whose_startd_can_not_reach_the_pool_still_leaves_when_asked(start: Start) -> None:
    machine = start()
    machine.join(instance(collector="10.0.2.2:1", token="a.b.c"))
    machine.hear(Joined)
    time.sleep(3)
    machine.say(Leave())
    assert machine.hear(GuestLeft, seconds=20).cause == "asked"


def test_bad_instance_data_end_a_machine_by_itself(start: Start) -> None:
    machine = start()
    machine.join(instance(collector="nowhere"))
    left = machine.hear(GuestLeft)
    assert (left.cause, "collector" in left.sentence) == ("failed", True)
    assert machine.end() == 0


@pytest.fixture
def website(tmp_path: Path) -> Iterator[int]:
    """A web server on this computer, which a guest behind QEMU's user network sees as 10.0.2.2. Its port."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/input.txt").write_text("what the web has\n")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


JOB = "#!/bin/sh\nid -un\ncat input.txt\ncat /run/condor/tokens.d/* || echo refused\nsleep 600\n"
HOG = """\
executable = /usr/bin/python3
transfer_executable = false
should_transfer_files = yes
arguments = "-c 'import time; held = b''x'' * (250 << 20); time.sleep(600)'"
request_memory = 64
request_disk = 1M
+vm_name = "demo"
queue
"""


def test_a_machine_joins_a_real_pool_is_as_promised_runs_jobs_and_leaves_without_a_trace(
    start: Start, built: Built, tools: trees.Tree, open_folder: Path, website: int
) -> None:
    with EmbeddedPool.start(tools, open_folder / "pool", HeadSettings(cycle_seconds=1)) as pool:
        token = CondorPool(pool.reach()).mint_token("vm-real", 3600)
        own_folder(pool.jobs, service_account())
        (pool.jobs / "job.sh").write_text(JOB)
        submit = "executable = job.sh\noutput = out\nerror = err\nlog = log\nrequest_memory = 64\nrequest_disk = 1M\n"
        submit += f"transfer_input_files = http://10.0.2.2:{website}/input.txt\n"
        (pool.jobs / "job.sub").write_text(f'{submit}+vm_name = "demo"\nstream_output = true\nqueue\n')
        (pool.jobs / "hog.sub").write_text(HOG)
        for name in ("job.sh", "job.sub", "hog.sub"):
            (pool.jobs / name).chmod(0o755)
        machine = start()
        machine.join(
            instance(collector=pool.guest_collector, token=token, trust_domain=pool.state.trust_domain),
        )
        machine.hear(Joined)
        names = ["condor_status", "-af", "Name", "vm_name", "deskgrid_vm_id", "deskgrid_desktop", "PartitionableSlot"]
        eventually(lambda: "vm-real demo vm-real desk-1 true" in _flat(pool.command(names).stdout))
        assert_kept(built, pool, 2, 900)

        assert pool.command(["condor_submit", "job.sub"], cwd=pool.jobs).ok
        eventually(lambda: "2" in pool.command(["condor_q", "-af", "JobStatus"]).stdout.split(), seconds=60)
        eventually(lambda: (pool.jobs / "out").exists() and "refused" in (pool.jobs / "out").read_text(), seconds=30)
        assert (pool.jobs / "out").read_text().splitlines() == ["slot1", "what the web has", "refused"]

        assert pool.command(["condor_submit", "hog.sub"], cwd=pool.jobs).ok, "a job that takes more than it asked for"
        states = ["condor_q", "-af:r", "JobStatus"]
        eventually(lambda: pool.command(states).stdout.split() == ["2", "5"], seconds=120)
        held = pool.command(["condor_q", "-held", "-af", "HoldReason"]).stdout
        assert "memory limit of 128 megabytes" in held and "request_memory" in held
        assert pool.command(["condor_rm", "-constraint", "JobStatus == 5"]).ok

        machine.say(Leave())
        began = time.monotonic()
        assert machine.hear(GuestLeft).cause == "asked"
        eventually(lambda: pool.command(["condor_q", "-af", "JobStatus"]).stdout.split() == ["1"], seconds=10)
        assert time.monotonic() - began < 10
        CondorPool(pool.reach()).forget_vm("vm-real")  # what a coordinator does, hearing that it left
        ours = ["condor_status", "-any", "-constraint", 'deskgrid_vm_id == "vm-real"', "-af", "Name"]
        assert not pool.command(ours).stdout.strip()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_whole_builds_with_the_same_packages_give_the_same_image(built: Built) -> None:
    one = build(RECIPE, rebuild=True)
    two = build(RECIPE, rebuild=True)
    if one.manifest.packages != two.manifest.packages:
        pytest.skip("Debian's packages changed between the two builds")
    assert one.manifest == two.manifest
    assert one.ref == two.ref


def instance(**changed: str) -> InstanceData:
    known = {
        "vm_id": "vm-real",
        "vm_name": "demo",
        "desktop": "desk-1",
        "collector": "",
        "token": "",
        "trust_domain": "pool.test",
        "cpus": 2,
        "memory_mb": 900,
    }
    return InstanceData(**(known | changed))  # type: ignore[arg-type]


def _flat(text: str) -> str:
    return " ".join(text.replace("slot1@", "").replace(".deskgrid.internal", "").split())
