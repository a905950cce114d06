"""A real image, published and encrypted, comes alive on a desktop that has nothing of it yet."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rigs import MIB, QemuRig
from served import KEY

from deskgrid.core.events import Alive, Joined
from deskgrid.images.build.build import build
from deskgrid.images.fetch.source import Origin
from deskgrid.images.format import manifest as built
from deskgrid.images.format.keys import ProjectKey
from deskgrid.images.publish.publish import Publication, Published, publish
from deskgrid.images.serve.launch import disk_server
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.model.lease import Size
from deskgrid.wire.disk import OpenedImage
from deskgrid.wire.keeper import VmSpec

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
RECIPE = Path(__file__).parents[2] / "recipes/demo.toml"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Published]:
    """The demo's image, published: the server's folder, and what was published."""
    folder, web = build(RECIPE).folder, tmp_path_factory.mktemp("web")
    facts = msgspec.json.decode((folder / "image.json").read_bytes(), type=built.Manifest)
    files = (folder / "disk.raw", folder / "kernel", folder / "initrd")
    source = Publication(*files, facts.cmdline, facts.memory_bytes, (), folder.name)
    return web, publish(source, web, ("lab", "demo", "1"), ProjectKey(KEY))


class ImageRig(QemuRig):
    """Its VMs run that image."""

    def __init__(self, web: Path, published: Published, folder: Path) -> None:
        self.manifest = published.manifest
        self.store = ChunkStore(folder / "store", StoreLimits(1 << 40, 0))
        with self.store.admit(published.path.read_bytes()) as admitted:
            origin = Origin(f"file://{web}")
            order = ServeOrder(str(self.store.folder), self.store.limits, admitted.digest, (origin,), Prefetch.NOT)
        self.server = disk_server(order, KEY, self.manifest)
        super().__init__()

    def dressed(self, spec: VmSpec) -> VmSpec:
        disk = OpenedImage(spec.image.ref, cmdline=self.manifest.cmdline, served=self.server)
        size = Size(1, max(512 * MIB, self.manifest.memory_bytes))
        instance = msgspec.structs.replace(spec.instance, token="not.a.token")  # its form is checked by the guest
        return msgspec.structs.replace(spec, image=disk, size=size, instance=instance, overlay_bytes=1024 * MIB)

    def close(self) -> None:
        super().close()
        self.store.close()


@pytest.fixture
def rig(image: tuple[Path, Published], tmp_path: Path) -> Iterator[ImageRig]:
    made = ImageRig(*image, tmp_path)
    yield made
    made.close()


def test_it_comes_alive_and_gets_its_instance_data_while_a_part_of_it_is_fetched(rig: ImageRig) -> None:
    assert rig.store.used_bytes() == 0
    began = time.monotonic()
    vm = rig.start("obedient")
    rig.wait(vm, Alive, 240.0)
    took = time.monotonic() - began
    rig.wait(vm, Joined, 240.0)
    held, whole = rig.store.used_bytes(), rig.manifest.blob_bytes
    share = f"{held >> 20} of {whole >> 20} MiB"
    print(f"from an empty store: alive after {took:.1f} s; {share} fetched when it has joined")
    assert 0 < held < whole
    assert [path.name for path in (rig.home / "vms").iterdir()] == [vm]
    assert [path for path in (rig.home / "vms" / vm).iterdir() if path.is_file()] == []
