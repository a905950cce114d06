"""Real QEMU whose disk, kernel and initrd come from a process that serves them out of an encrypted store."""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent))

from rigs import MIB, QemuRig
from tiny_guest import DISK_LINE, tiny_guest

from deskgrid.images.fetch.source import Origin
from deskgrid.images.format import published
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.publish.publish import Publication, publish
from deskgrid.images.serve.launch import disk_server
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.wire.disk import DiskServer, OpenedImage
from deskgrid.wire.keeper import VmSpec

KEY = bytes(range(1, 33))
CANARY = b"a canary in the disk that nobody may find in the clear "
NOISE_BYTES = 12 * MIB
Change = Callable[[ServeOrder], ServeOrder]


@cache
def publication() -> tuple[Path, Path]:
    """The tiny guest, published, with and without a kernel: the server's folder; `manifest` of each is below it."""
    import atexit

    home = Path(tempfile.mkdtemp(prefix="dg-web-"))
    atexit.register(shutil.rmtree, home, True)
    guest, disk = tiny_guest(), home / "disk.raw"
    with disk.open("wb") as file:
        file.write(DISK_LINE.encode() + b"\n" + CANARY * 2000 + random.Random(5).randbytes(NOISE_BYTES) + CANARY * 10)
        file.truncate(64 * MIB)
    facts = ("console=ttyS0", 256 * MIB, (), "0" * 64)
    made = [
        publish(Publication(disk, *files, *facts, ()), home / "web", ("lab", name, "1"), ProjectKey(KEY)).path
        for name, files in (("tiny", (guest.kernel, guest.initrd)), ("bios", (None, None)))
    ]
    return home / "web", made[0].parent.parent


def manifest_of(name: str) -> bytes:
    """The published manifest of "tiny" or "bios"."""
    return (publication()[1] / name / "1.json").read_bytes()


class ServedRig(QemuRig):
    """The same VMs; each store is empty at first, and its source a folder."""

    missing_fault = "desktop"

    def __init__(self, origin: Origin | None = None, change: Change = lambda order: order) -> None:
        """origin: of packs. change: made to each order."""
        self.origin = origin or Origin(f"file://{publication()[0]}")
        self.change = change
        self.key, self.image = KEY, "tiny"
        self.shelf = Path(tempfile.mkdtemp(prefix="dg-store-"))
        self.store = ChunkStore(self.shelf / "store", StoreLimits(1 << 30, 0))
        for name in ("tiny", "bios"):
            with self.store.admit(manifest_of(name)):
                pass
        super().__init__()

    def server(self, missing: bool = False) -> DiskServer:
        """What serves the disk."""
        content = manifest_of(self.image)
        digest = "f" * 64 if missing else published.digest(content)
        order = ServeOrder(str(self.store.folder), self.store.limits, digest, (self.origin,), Prefetch.NOT)
        return disk_server(self.change(order), self.key, published.decode(content)[0])

    def dressed(self, spec: VmSpec) -> VmSpec:
        disk = spec.image
        served = self.server(missing=disk.ref.name == "missing")
        return msgspec.structs.replace(spec, image=OpenedImage(disk.ref, cmdline=disk.cmdline, served=served))

    def close(self) -> None:
        super().close()
        self.store.close()
        shutil.rmtree(self.shelf, ignore_errors=True)
