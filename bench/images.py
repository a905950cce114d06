"""Images in chunks: what moves, how fast it is published and read, how soon a machine can start.

Rules:
- The image is real: the demo's with a compiler and NumPy, built twice: from a Debian release as it came out, and from
  the same with its updates and security updates until now. What differs is what Debian changed in between. It is no
  larger since the peers pack it: recipes/scientific.toml takes them half an hour.
- `small`: the demo's own image and an altered copy of it, to try everything without building anything.
- Speeds are bytes per second of the process's own processor time on one core: what others do on the machine counts
  little. Packs are in the page cache; what it costs when they are not is said in the note.
- A step that fails costs its own figures; a peer that fails costs its own column; the next one goes on.
"""

import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.request import urlopen

import msgspec

from bench.figure import Figure, Load, measured, missing
from bench.ground import Ground
from bench.image_boots import ColdDesktop, Start, repository, seconds_to_joined
from bench.image_peers import Moved, Peers
from bench.image_reads import CACHED, KEY, UNCACHED, speeds, written
from bench.link import Web, slow_link
from bench.machine import CannotMeasure
from deskgrid.cli.demo import RECIPE as DEMO
from deskgrid.demo.cast import DemoError
from deskgrid.host.system.paths import cache_folder
from deskgrid.images.build.build import Built, build, images_folder
from deskgrid.images.contract import ImageError
from deskgrid.images.fetch.fetch import Fetcher
from deskgrid.images.fetch.source import Origin, open_source
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.format.manifest import DISK, INITRD, KERNEL
from deskgrid.images.publish.publish import Publication, Published, publish
from deskgrid.images.publish.trial import keep_reads, kept_reads
from deskgrid.images.publish.trial_boot import QEMU, try_out
from deskgrid.images.serve.launch import Server
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore

NAMES = (
    "image_delta_mb",
    "image_delta_s",
    "image_publish_mb_per_s",
    "image_read_in_order_mb_per_s",
    "image_read_random_mb_per_s",
    "image_store_process_mb",
    "image_boot_ratio",
    "image_first_job_read_percent",
    "image_cold_start_ratio",
)
NAME = "bench"
_RECIPE_TEXT = """from = "demo.toml"
name = "bench"
disk_bytes = "3GiB"
packages = ["gcc", "libc6-dev", "make", "python3", "python3-numpy"]
"""
_BLOCK = 4096
Say = Callable[[str], None]
Step = Callable[[], Iterator[Figure]]


class Ours(msgspec.Struct, frozen=True):
    """What was published: the two versions, and the processor time of the first."""

    before: Built
    after: Built
    first: Published
    second: Published
    cpu_seconds: float


def run(place: Ground, load: Load, boots: int = 5, small: bool = False) -> list[Figure]:
    """Measure everything. boots: of each kind."""
    with tempfile.TemporaryDirectory(prefix="deskgrid-bench-", dir=cache_folder()) as name:
        work = Path(name)
        try:
            before, after = altered(work, place.demo, place.say) if small else versions(work, place.say)
            ours = _published(before, after, work, place.say)
        except ImageError as error:
            return [missing(one, str(error), load) for one in NAMES]
        steps: tuple[tuple[tuple[str, ...], Step], ...] = (
            (NAMES[2:3], lambda: _publishing(ours)),
            (NAMES[3:6], lambda: _reading(ours, work, place.say)),
            (NAMES[6:7], lambda: _boots(ours, work, boots, place.say)),
            (NAMES[0:2], lambda: _delta(ours, work, place.say)),
            (NAMES[7:9], lambda: _cold(place, ours, work)),
        )
        return [
            msgspec.structs.replace(figure, load=load)
            for names, step in steps
            for figure in _tried(names, step, place.say)
        ]


def _tried(names: tuple[str, ...], step: Step, say: Say) -> list[Figure]:
    try:
        return list(step())
    except (CannotMeasure, DemoError, ImageError, OSError, subprocess.SubprocessError) as error:
        say(f"{names[0]}: {error}")
        return [missing(name, str(error)) for name in names]


def built_before() -> bool:
    """Whether images were built for this, and packed, so that it takes minutes less."""
    return (images_folder() / NAME).is_dir() and _peers_folder().is_dir()


def versions(work: Path, say: Say) -> tuple[Built, Built]:
    """The image from a release as it came out, and with its updates. Raises: ImageError."""
    recipes = shutil.copytree(DEMO.parent, work / "recipes")
    found = []
    for name, rest in (("before", "extra_suites = []\n"), ("after", "")):
        path = recipes / f"{name}.toml"
        path.write_text(_RECIPE_TEXT + rest)
        say(f"building the image, {name} its updates")
        found.append(build(path))
    return found[0], found[1]


def altered(work: Path, demo: Built, say: Say) -> tuple[Built, Built]:
    """The demo's image, and the same with a hundredth of its disk's blocks written anew: nothing has to be built."""
    _source(demo, say)  # its trial boot counts for both
    place = work / "altered" / "".join(reversed(demo.ref.digest))
    shutil.copytree(demo.folder, place)
    rng = random.Random(5)
    with (place / DISK).open("r+b") as disk:
        for start, end in written(demo.folder / DISK):
            for at in range(start, end, 100 * _BLOCK):
                disk.seek(at)
                disk.write(rng.randbytes(min(_BLOCK, end - at)))
    ref = msgspec.structs.replace(demo.ref, digest=place.name)
    return demo, msgspec.structs.replace(demo, folder=place, ref=ref)


def _published(before: Built, after: Built, work: Path, say: Say) -> Ours:
    key, made, spent = ProjectKey(KEY), [], []
    for number, built in enumerate((before, after)):
        source = _source(built, say)
        began = time.process_time()
        made.append(publish(source, work / "www", ("bench", NAME, str(number + 1)), key))
        spent.append(time.process_time() - began)
        say(f"published {built.folder.name[:12]}…: {made[-1].raw_bytes >> 20} MiB, {made[-1].new_bytes >> 20} MiB new")
    return Ours(before, after, made[0], made[1], spent[0])


def _source(built: Built, say: Say) -> Publication:
    """What is published, with the first reads of a trial boot."""
    folder, facts = built.folder, built.manifest
    files = (folder / DISK, folder / KERNEL, folder / INITRD)
    source = Publication(
        *files, facts.cmdline, facts.memory_bytes, facts.packages, built.ref.digest, kept_reads(folder)
    )
    if not source.first_reads and shutil.which(QEMU) is not None:
        reads = try_out(source, say).first_reads
        keep_reads(folder, reads)
        source = msgspec.structs.replace(source, first_reads=reads)
    return source


def _publishing(ours: Ours) -> Iterator[Figure]:
    note = (
        f"{ours.first.raw_bytes / 1e6:.0f} MB of content became {ours.first.new_bytes / 1e6:.0f} MB, and a manifest of "
        f"{ours.first.path.stat().st_size / 1e3:.0f} KB"
    )
    yield measured("image_publish_mb_per_s", [ours.first.raw_bytes / 1e6 / ours.cpu_seconds], note=note)


def _reading(ours: Ours, work: Path, say: Say) -> Iterator[Figure]:
    """Speed and memory of the process that serves."""
    disk = ours.before.folder / DISK
    manifest = ours.first.path.read_bytes()
    cold = speeds(disk, work, manifest, UNCACHED, say)
    ordered, anywhere, used = speeds(disk, work, manifest, CACHED, say)
    uncached = f"{statistics.median(cold[0]):.0f} when packs come from the disk"
    yield measured("image_read_in_order_mb_per_s", ordered, note=uncached)
    uncached = f"over all of the disk's content; {statistics.median(cold[1]):.0f} when packs come from the disk"
    yield measured("image_read_random_mb_per_s", anywhere, note=uncached)
    yield measured("image_store_process_mb", [used, cold[2]], of=max, note="resident, after all of the reads")


def _boots(ours: Ours, work: Path, count: int, say: Say) -> Iterator[Figure]:
    """The same boot from a plain qcow2 and from the store, by turns."""
    qemu = shutil.which(QEMU)
    if qemu is None:
        raise CannotMeasure("no QEMU is installed")
    source = _source(ours.before, say)
    plain = work / "plain.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(source.disk), str(plain)], check=True)
    store = ChunkStore(work / "store", UNCACHED)
    origin = Origin(f"file://{work / 'www'}")
    beside: list[tuple[float, float]] = []
    with store.admit(ours.first.path.read_bytes()) as image:
        for number in range(count):
            say(f"boot {number + 1} of {count}, from a plain qcow2 and from the store")
            first = seconds_to_joined(qemu, source, f"format=qcow2,cache=none,file={plain}")
            server = Server(ServeOrder(str(store.folder), UNCACHED, image.digest, (origin,), Prefetch.ALL), KEY, say)
            try:
                base = f"format=raw,file=nbd+unix:///disk?socket={server.socket}"
                beside.append((seconds_to_joined(qemu, source, base), first))
            finally:
                server.close()
    store.close()
    plain.unlink()
    middle = [statistics.median(one) for one in zip(*beside, strict=True)]
    note = f"seconds: {middle[0]:.2f} beside {middle[1]:.2f}; until the guest has started HTCondor's daemons, tcg"
    yield measured("image_boot_ratio", [ours_s / plain_s for ours_s, plain_s in beside], note=note)


def _delta(ours: Ours, work: Path, say: Say) -> Iterator[Figure]:
    """From the first version to the second over the slow link, beside others."""
    peers = Peers(_peers_folder(), say)
    with _web(work) as web:
        mine = _fetched(ours, work, web)
        say(mine.told)
        others = peers.compare(web, ours.before.folder, ours.after.folder)
    told = "; ".join(one.told for one in (mine, *others))
    told = f"20 ms, 100 Mbit/s; disk, kernel and initrd; {ours.first.raw_bytes / 1e6:.0f} MB of content; {told}"
    there = [one for one in others if not one.fault]
    least = min((one.bytes / 1e6 for one in there), default=None)
    quickest = min((one.seconds for one in there), default=None)
    yield measured("image_delta_mb", [mine.bytes / 1e6], peer_value=least, note=told)
    yield measured("image_delta_s", [mine.seconds], peer_value=quickest, note=told)


def _peers_folder() -> Path:
    return cache_folder() / "bench-peers"


def _web(work: Path) -> AbstractContextManager[Web]:
    """What was published, and the peers' files, behind the slow link."""
    folder = work / f"web-{time.monotonic_ns()}"
    folder.mkdir()
    link = work / "www" / "peers"
    if not link.is_symlink():
        link.symlink_to(_peers_folder())
    return slow_link(work / "www", folder)


def _fetched(ours: Ours, work: Path, web: Web) -> Moved:
    """What a desktop that has the first version fetches for the second."""
    store = ChunkStore(work / "desktop", UNCACHED)
    with store.admit(ours.first.path.read_bytes()) as image:
        Fetcher(store, image, [open_source(Origin(f"file://{work / 'www'}"))]).whole()
        before, began = web.sent(), time.monotonic()
        with urlopen(f"{web.url}/images/bench/{NAME}/2.json", timeout=60) as answer:
            content = answer.read()
        with store.admit(content) as image:
            Fetcher(store, image, [open_source(Origin(web.url))]).whole()
        seconds = time.monotonic() - began
    store.close()
    after = web.sent()
    return Moved("ours", after.bytes - before.bytes, seconds, after.requests - before.requests)


def _cold(place: Ground, ours: Ours, work: Path) -> Iterator[Figure]:
    """The first job of a desktop that has nothing, beside download, then boot."""
    whole = Peers(_peers_folder(), place.say)
    _source(ours.before, place.say)  # its first reads are kept beside it
    desktop = ColdDesktop(place, ours.before.folder, ours.before.manifest.name)
    link = work / "www" / "demo"
    link.unlink(missing_ok=True)
    link.symlink_to(repository(place) / "demo")
    with _web(work) as web:
        desktop.begin(web)
        place.say("a desktop that has nothing starts")
        cold = desktop.first_job(web, "cold")
        desktop.clear()
        place.say("the same again, with what it has fetched")
        warm = desktop.first_job(web, "warm")
        whole_again = whole.download(web, ours.before.folder)
    yield from _told(ours, cold, warm, whole_again.seconds, whole.size(ours.before.folder))


def _told(ours: Ours, cold: Start, warm: Start, download_seconds: float, whole_bytes: int) -> Iterator[Figure]:
    fetched = cold.fetched_bytes + ours.first.path.stat().st_size
    note = (
        f"{fetched / 1e6:.1f} MB, kernel, initrd and manifest included; the image is {whole_bytes / 1e6:.0f} MB as "
        f"zstd, {ours.first.new_bytes / 1e6:.0f} MB in packs"
    )
    yield measured("image_first_job_read_percent", [100 * fetched / whole_bytes], note=note)
    later = download_seconds + warm.seconds
    note = (
        f"{cold.seconds:.1f} s beside {download_seconds:.1f} + {warm.seconds:.1f} s; 100 Mbit/s, 20 ms; from the order "
        "to the running job, tcg"
    )
    yield measured("image_cold_start_ratio", [cold.seconds / later], note=note)
