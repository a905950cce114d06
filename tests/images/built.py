"""An image as `image build` writes it, of a few bytes or of what a test wants in it."""

from pathlib import Path

from deskgrid.images import manifest
from deskgrid.images.manifest import Manifest, Package
from deskgrid.images.recipe import Recipe


def built_image(folder: Path, name: str = "demo", disk: bytes = b"a disk of few words\n" * 5000) -> Path:
    """Write it below `folder`. Returns: its own folder."""
    work = folder / "work"
    work.mkdir(parents=True)
    for file, content in (
        (manifest.DISK, disk + bytes(-len(disk) % 4096)),
        (manifest.KERNEL, b"a kernel\n" * 500),
        (manifest.INITRD, b"an initrd\n" * 500),
    ):
        (work / file).write_bytes(content)
    facts = Manifest(
        name=name,
        memory_bytes=512 << 20,
        disk_bytes=1 << 30,
        cmdline="quiet",
        disk=manifest.measure(work / manifest.DISK),
        kernel=manifest.measure(work / manifest.KERNEL),
        initrd=manifest.measure(work / manifest.INITRD),
        packages=(Package("condor", "23"),),
        recipe=Recipe(name=name, suite="trixie"),
        inputs="a" * 64,
    )
    encoded = manifest.encode(facts)
    (work / manifest.FILE).write_bytes(encoded)
    place = folder / name / manifest.digest(encoded)
    place.parent.mkdir(exist_ok=True)
    return work.rename(place)
