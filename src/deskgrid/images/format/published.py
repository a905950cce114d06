"""A published version of an image in one file: what two people sign, and all that a desktop needs to find its chunks.

    images/<project>/<name>/<version>.json     this, in one canonical form; its SHA-256 is the version's digest
    <project>/packs/<aa>/<pack's name>         see packs.py; aa: the name's first two digits

Rules:
- It commits to every byte: to packs by their names, which commit to every blob, and to the order of the chunks.
- It says nothing of the content in the clear but lengths, packages and the kernel's command line.
- Nothing in it tells when or where it was published: the same content, key, and packs make the same manifest.
- It comes from outside until it was verified: everything in it is bounded, and checked before it is used.

The table holds the chunks of disk, kernel, initrd and seed in this order, as columns of little-endian unsigned numbers,
compressed: raw length (4 bytes each), number of the pack or HOLE (2), number of the blob in it (2; as the difference to
the number that follows the one before, since most follow each other). `boot` holds the
numbers of the chunks that a boot reads, in their order (4 bytes each), compressed.
"""

import hashlib
import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Annotated

import msgspec
import zstandard

from deskgrid.images.contract import ImageError
from deskgrid.images.format.cut import MOST_BYTES
from deskgrid.images.format.manifest import Package
from deskgrid.images.format.packs import MOST_BLOBS, PACK_BYTES, index_bytes
from deskgrid.model.image import Attribute
from deskgrid.model.values.names import Digest, Name
from deskgrid.model.values.outside import JsonReader
from deskgrid.model.values.text import counted

FORMAT = 2
HOLE = 0xFFFF
STREAMS = ("disk", "kernel", "initrd", "seed")
"""seed: a small read-only second disk from which cloud-init in an imported image gets its first data."""
MOST_MANIFEST_BYTES = 32 << 20
_MOST_PIECES = 8 << 20
_MOST_DISK_BYTES = 1 << 44

Bytes = Annotated[int, msgspec.Meta(ge=0, le=_MOST_DISK_BYTES)]


class Pack(msgspec.Struct, frozen=True):
    """A pack that the image has chunks in. bytes: its whole length, index included. blobs: how many are in it."""

    name: Digest
    bytes: Annotated[int, msgspec.Meta(gt=0, le=8 * PACK_BYTES)]
    blobs: Annotated[int, msgspec.Meta(gt=0, le=MOST_BLOBS)]

    @property
    def index_bytes(self) -> int:
        """How long its index is."""
        return index_bytes(self.blobs)


class Stream(msgspec.Struct, frozen=True):
    """One file of the image: its length, and how many pieces of the table it has."""

    bytes: Bytes
    pieces: Annotated[int, msgspec.Meta(ge=0, le=_MOST_PIECES)]


class PublishedManifest(msgspec.Struct, frozen=True):
    """See the module. source: digest of the built image's own manifest. key_id: tells the project's keys apart.

    blob_bytes: of all blobs that it needs. free_bytes: what jobs find free of the disk; says: what its machines say of
    themselves to HTCondor; both as a trial boot recorded them (core/fleet/promise.py), nothing without one.
    """

    project: Name
    name: Name
    version: Name
    source: Digest
    key_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    memory_bytes: Bytes
    cmdline: Annotated[str, msgspec.Meta(max_length=4096)]
    packages: tuple[Package, ...]
    disk: Stream
    kernel: Stream
    initrd: Stream
    packs: Annotated[tuple[Pack, ...], msgspec.Meta(max_length=HOLE)]
    table: bytes
    boot: bytes
    blob_bytes: Bytes
    format: int = FORMAT
    seed: Stream = Stream(0, 0)
    free_bytes: Bytes = 0
    says: Annotated[tuple[Attribute, ...], msgspec.Meta(max_length=1000)] = ()

    @property
    def disk_bytes(self) -> int:
        """The size of the disk that a guest sees."""
        return self.disk.bytes


class Table:
    """Where every part of every stream is: columns by the number of the piece."""

    __slots__ = ("blobs", "lengths", "packs")

    def __init__(self, lengths: "array[int]", packs: "array[int]", blobs: "array[int]") -> None:
        """Take the columns. lengths: raw bytes."""
        self.lengths, self.packs, self.blobs = lengths, packs, blobs

    def encode(self) -> bytes:
        """Return the form that stands in a manifest."""
        columns = (self.lengths, self.packs, _differences(self.blobs))
        return zstandard.compress(b"".join(map(_little, columns)), 19)


class Span(msgspec.Struct, frozen=True):
    """A stream's part of the table: the first piece's number, and where each begins; one more: the end."""

    first: int
    offsets: "array[int]"


_DECODER = JsonReader(PublishedManifest)


def encode(manifest: PublishedManifest) -> bytes:
    """Return the canonical form."""
    return msgspec.json.encode(manifest, order="deterministic")


def digest(content: bytes) -> str:
    """Return the digest of the version whose manifest has this content."""
    return hashlib.sha256(content).hexdigest()


def decode(content: bytes) -> tuple[PublishedManifest, Table]:
    """Read a manifest and its table, and check every bound. Raises: ImageError."""
    if len(content) > MOST_MANIFEST_BYTES:
        raise ImageError(f"manifest: got {len(content)} bytes, expected at most {MOST_MANIFEST_BYTES}; don't use it")
    try:
        manifest = _DECODER.decode(content)
    except msgspec.MsgspecError as error:
        raise ImageError(f"manifest: {error}; publish the image again with this version") from None
    if manifest.format != FORMAT:
        raise ImageError(
            f"manifest of {title(manifest)}: got format {manifest.format}, expected {FORMAT}; update deskgrid"
        )
    table = _table(manifest)
    _check(manifest, table)
    return manifest, table


def title(manifest: PublishedManifest) -> str:
    """Return project, name and version for a sentence."""
    return f"{manifest.project}/{manifest.name} {manifest.version}"


def span(manifest: PublishedManifest, table: Table, stream: str) -> Span:
    """Return where the pieces of one of STREAMS are."""
    first = 0
    for name in STREAMS:
        facts: Stream = getattr(manifest, name)
        if name == stream:
            return Span(first, array("Q", accumulate(table.lengths[first : first + facts.pieces], initial=0)))
        first += facts.pieces
    raise ValueError(f"stream: got {stream!r}, expected one of {', '.join(STREAMS)}")


def boot_order(manifest: PublishedManifest) -> "array[int]":
    """Return the numbers of the pieces that a boot reads first, in order. Raises: ImageError."""
    order = _column("I", _unpacked(manifest, manifest.boot, 4 * _pieces(manifest)))
    if order and max(order) >= _pieces(manifest):
        raise ImageError(f"manifest of {title(manifest)}: boot order names piece {max(order)}, which is not there")
    return order


def encode_order(numbers: Sequence[int]) -> bytes:
    """Return a boot order as it stands in a manifest."""
    return zstandard.compress(_little(array("I", numbers)), 19)


def wanted(manifest: PublishedManifest, table: Table) -> Iterator[tuple[int, int]]:
    """All blobs that the image needs, each once: what a boot reads first, then the rest in order; as (pack, blob)."""
    seen = set()
    for number in (*boot_order(manifest), *range(len(table.lengths))):
        place = (table.packs[number], table.blobs[number])
        if place[0] != HOLE and place not in seen:
            seen.add(place)
            yield place


def _pieces(manifest: PublishedManifest) -> int:
    return sum(getattr(manifest, name).pieces for name in STREAMS)


def _table(manifest: PublishedManifest) -> Table:
    count = _pieces(manifest)
    if count > _MOST_PIECES:
        raise ImageError(
            f"manifest of {title(manifest)}: got {counted(count, 'piece')}, expected at most {_MOST_PIECES}"
        )
    plain = _unpacked(manifest, manifest.table, 8 * count)
    if len(plain) != 8 * count:
        raise ImageError(f"manifest of {title(manifest)}: got a table of {len(plain)} bytes, expected {8 * count}")
    return Table(
        _column("I", plain[: 4 * count]),
        _column("H", plain[4 * count : 6 * count]),
        _sums(_column("H", plain[6 * count :])),
    )


def _check(manifest: PublishedManifest, table: Table) -> None:
    at = 0
    for name in STREAMS:
        facts: Stream = getattr(manifest, name)
        found = sum(table.lengths[at : at + facts.pieces])
        if found != facts.bytes:
            raise ImageError(f"manifest of {title(manifest)}: got {found} bytes of {name}, expected {facts.bytes}")
        at += facts.pieces
    blobs = [pack.blobs for pack in manifest.packs]
    for length, pack, blob in zip(table.lengths, table.packs, table.blobs, strict=True):
        if pack != HOLE and (pack >= len(blobs) or blob >= blobs[pack] or not 0 < length <= MOST_BYTES):
            raise ImageError(
                f"manifest of {title(manifest)}: got a piece of {length} bytes in blob {blob} of pack {pack}, which "
                "can't be; don't use it"
            )
    boot_order(manifest)


def _unpacked(manifest: PublishedManifest, packed: bytes, most_bytes: int) -> bytes:
    """Unpack at most so many bytes; the frame says how many it has, and is not believed further than that."""
    try:
        said = zstandard.frame_content_size(packed)
        if 0 <= said <= most_bytes:
            return zstandard.decompress(packed, max_output_size=most_bytes)
    except zstandard.ZstdError:
        said = -1
    raise ImageError(f"manifest of {title(manifest)}: got a table that unpacks to {said} bytes, expected {most_bytes}")


def _column(kind: str, content: bytes) -> "array[int]":
    if len(content) % array(kind).itemsize:
        raise ImageError("manifest: got a column with half a number; don't use it")
    column: array[int] = array(kind, content)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _differences(numbers: "array[int]") -> "array[int]":
    return array("H", [(now - before - 1) & 0xFFFF for before, now in pairwise((-1, *numbers))])


def _sums(differences: "array[int]") -> "array[int]":
    """Undo `_differences`."""
    return array("H", [(at + number) & 0xFFFF for number, at in enumerate(accumulate(differences))])


def _little(column: "array[int]") -> bytes:
    copy = column[:]
    if sys.byteorder == "big":
        copy.byteswap()
    return copy.tobytes()
