"""Manifests of images that nobody published: what people sign, without a disk behind it."""

from array import array

from deskgrid.images.format.manifest import Package
from deskgrid.images.format.published import HOLE, Pack, PublishedManifest, Stream, Table, encode, encode_order


def manifest(
    image: str, cmdline: str = "quiet", packages: tuple[Package, ...] = (), chunks: tuple[str, ...] = ()
) -> bytes:
    """The manifest of project/image/version. chunks: names of packs with one chunk each of 1,000 bytes."""
    project, name, version = image.split("/")
    table = Table(
        array("I", [1000] * len(chunks) + [4096]),
        array("H", [*range(len(chunks)), HOLE]),
        array("H", [0] * (len(chunks) + 1)),
    )
    return encode(
        PublishedManifest(
            *(project, name, version),
            source="0" * 64,
            key_id="0" * 32,
            memory_bytes=256 << 20,
            cmdline=cmdline,
            packages=packages,
            packs=tuple(Pack(chunk * 64, 1100, 1) for chunk in chunks),
            table=table.encode(),
            boot=encode_order(()),
            blob_bytes=1060 * len(chunks),
            disk=Stream(1000 * len(chunks) + 4096, len(chunks) + 1),
            kernel=Stream(0, 0),
            initrd=Stream(0, 0),
        )
    )
