"""An image as `image build` writes it, of a few bytes or of what a test wants in it."""

from pathlib import Path

from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest, Package
from deskgrid.images.format.recipe import Recipe


def built_image(folder: Path, name: str = "demo", disk: bytes = b"a disk of few words\n" * 5000) -> Path:
    """Write it below `folder`. Returns: its own folder."""
    work = folder / name / "work"
    work.mkdir(parents=True)
    for file, content in (
        (manifest.DISK, disk + bytes(-len(disk) % 4096)),
        (manifest.KERNEL, b"a kernel\n" * 500),
        (manifest.INITRD, b"an initrd\n" * 500),
    ):
        (work / file).write_bytes(content)
    return sealed(work, name, packages=(Package("condor", "23"),))


def sealed(
    work: Path,
    name: str,
    *,
    memory_bytes: int = 512 << 20,
    disk_bytes: int = 1 << 30,
    cmdline: str = "quiet",
    packages: tuple[Package, ...] = (),
) -> Path:
    """Write the manifest of the files in a work folder, and give the folder its place beside. Returns: that."""
    facts = {file: manifest.measure(work / file) for file in (manifest.DISK, manifest.KERNEL, manifest.INITRD)}
    content = Manifest(
        name=name,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes,
        cmdline=cmdline,
        disk=facts[manifest.DISK],
        kernel=facts[manifest.KERNEL],
        initrd=facts[manifest.INITRD],
        packages=packages,
        recipe=Recipe(name=name, suite="trixie"),
        inputs="a" * 64,
    )
    encoded = manifest.encode(content)
    (work / manifest.FILE).write_bytes(encoded)
    (work / manifest.FILE).chmod(0o644)
    return work.rename(work.parent / manifest.digest(encoded))
