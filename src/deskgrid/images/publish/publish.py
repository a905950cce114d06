"""Publish an image: chunks into packs, packs into a folder that any web server can serve, the manifest last.

Rules:
- What the project already has is not stored again: the packs in its folder are looked into, those of versions before
  and those that an interrupted publication left. So a second version writes its difference, and a second try goes on.
- What is there is not believed: others may write to that folder. A blob that is taken over is read, checked and opened,
  and must hold the very bytes that would be stored; else they are stored anew.
- What is published is what the image's own manifest says: the files' sums are taken of what is cut.
- Kernel, initrd and seed come first, then what a boot reads in its order, then the rest of the disk in order.
- A pack is written under another name, flushed, then renamed; the manifest is written the same way after the last
  pack. Whoever reads the folder sees a whole version or none.
- A name and version never change: publishing other content under it is refused.
- Taken away is only what an interrupted publication of ours left: files of such a name, in folders that are no links.
- One publication of a project at a time.
"""

import hashlib
import mmap
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from deskgrid.core.fleet.promise import Promise
from deskgrid.host.system.files import make_folder, open_plain, read_plain, write_atomic
from deskgrid.host.system.locks import locked
from deskgrid.images.contract import ImageError
from deskgrid.images.format import published
from deskgrid.images.format.cut import Piece, cut
from deskgrid.images.format.keys import NAME_BYTES, Damaged, ProjectKey
from deskgrid.images.format.manifest import DISK, INITRD, KERNEL, SEED, Package, read, reference
from deskgrid.images.format.packs import MOST_BLOBS, PACK_BYTES, PackIndex, assemble, index_bytes
from deskgrid.images.format.published import HOLE, Pack, PublishedManifest, Stream, Table
from deskgrid.model.values.names import BadName
from deskgrid.model.values.names import name as valid_name
from deskgrid.model.values.text import counted

Progress = Callable[[float], None]
Place = tuple[str, int]
"""A blob's pack and its number in it."""


class Publication(msgspec.Struct, frozen=True):
    """What shall be published.

    digest: of the built image's own manifest. first_reads: offsets that a boot reads. sums: SHA-256 of its files, by
    name, as that manifest has them. promise: what its machines say of themselves, as a trial boot told.
    """

    disk: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str
    memory_bytes: int
    packages: tuple[Package, ...]
    digest: str
    first_reads: Sequence[int] = ()
    seed: Path | None = None
    sums: Mapping[str, str] = {}
    promise: Promise = Promise()


def source_of(folder: Path, first_reads: Sequence[int] = ()) -> Publication:
    """What is to be published of an image's folder; an imported one has a seed too. Raises: ImageError."""
    ref = reference(folder.resolve())
    held = read(folder, ref)
    if held.imported is not None and held.seed is None:
        raise ImageError(f"image {ref.name}: its seed is not in its manifest; import it again with this version")
    return Publication(
        folder / DISK,
        folder / KERNEL if held.kernel is not None else None,
        folder / INITRD if held.initrd is not None else None,
        held.cmdline,
        held.memory_bytes,
        held.packages,
        ref.digest,
        first_reads,
        folder / SEED if held.seed is not None else None,
        {name: facts.sha256 for name, facts in held.files().items()},
    )


class Published(msgspec.Struct, frozen=True):
    """What was done. raw_bytes: read, without holes. new_bytes: written now, without the manifest.

    wrong_chunks: that lay in the project's packs, and were damaged or not what their names say.
    """

    manifest: PublishedManifest
    path: Path
    raw_bytes: int
    new_bytes: int
    new_packs: int
    new_chunks: int
    wrong_chunks: int


def pack_path(root: Path, project: str, pack: str) -> Path:
    """Where a pack is below the folder that is served."""
    return root / project / "packs" / pack[:2] / pack


def manifest_path(root: Path, project: str, name: str, version: str) -> Path:
    """Where a version's manifest is below the folder that is served."""
    return root / "images" / project / name / f"{version}.json"


def publish(
    source: Publication,
    root: Path,
    names: tuple[str, str, str],
    key: ProjectKey,
    progress: Progress = lambda part: None,
) -> Published:
    """Publish a version of an image into the folder `root`.

    Args:
        names: project, name, version. progress: told the part that is done, 0 to 1.

    Raises:
        ImageError: no room, the version is there with other content, or another publication runs.
        BadName: names that may not meet a path.
    """
    project, name, version = (valid_name(what, text) for what, text in zip(_WHAT, names, strict=True))
    if project in RESERVED:
        raise BadName(f"project: got {project!r}, which is a folder of every repository; choose another name")
    where = manifest_path(root, project, name, version)
    try:
        for folder in (where.parent, root / project / "packs"):
            make_folder(folder)
        with ExitStack() as stack:
            stack.enter_context(locked(root / project / ".publishing"))
            files = (source.disk, source.kernel, source.initrd, source.seed)
            streams = [_Stream(path, stack, source.sums) for path in files]
            writer = _Writer(root, project, key)
            places, boot = _chunks(streams, source.first_reads, writer, progress)
            needs = writer.blob_bytes(places)
            made = _manifest((project, name, version), source, streams, writer.packs(), places, boot, key.key_id, needs)
            _finish(where, made)
    except OSError as error:
        raise ImageError(f"publishing to {root}: {error.strerror}; see to it and publish again: it goes on") from error
    progress(1.0)
    done = (writer.raw_bytes, writer.new_bytes, writer.new_packs, writer.new_chunks, writer.wrong_chunks)
    return Published(made, where, *done)


_WHAT = ("project", "image name", "version")
RESERVED = ("images", "metadata", "pending", "targets")
"""Folders beside those of projects (`trust/signing/folder.py`)."""


class _Stream:
    """A file that is published: mapped and cut."""

    def __init__(self, path: Path | None, stack: ExitStack, sums: Mapping[str, str]) -> None:
        """Raises: ImageError when it is not what `sums` says of its name."""
        self.content = memoryview(b"")
        self.pieces: list[Piece] = []
        if path is None:
            return
        file = stack.enter_context(open_plain(path))
        if os.fstat(file.fileno()).st_size == 0:
            return
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        stack.callback(mapped.close)
        self.content = stack.enter_context(memoryview(mapped))
        if (wanted := sums.get(path.name)) is not None and hashlib.sha256(self.content).hexdigest() != wanted:
            raise ImageError(f"{path}: it is not what its image's manifest says: it was changed; build the image again")
        self.pieces = list(cut(self.content, file.fileno()))


def _chunks(
    streams: Sequence[_Stream], first_reads: Iterable[int], writer: "_Writer", progress: Progress
) -> tuple[list[Place | None], list[int]]:
    """Store every chunk. Returns: each piece's place (None: a hole), and the numbers of those that a boot reads."""
    pieces = [(stream, piece) for stream in streams for piece in stream.pieces]
    disk = len(streams[0].pieces)
    boot = [*range(disk, len(pieces)), *_touched(streams[0].pieces, first_reads)]
    boot = [number for number in boot if not pieces[number][1].hole]
    whole = sum(piece.raw_bytes for _, piece in pieces if not piece.hole) or 1
    places: list[Place | None] = [None] * len(pieces)
    done, told = 0, 0.0
    for number in dict.fromkeys((*boot, *range(len(pieces)))):
        stream, piece = pieces[number]
        if piece.hole:
            continue
        places[number] = writer.put(stream.content[piece.offset : piece.offset + piece.raw_bytes])
        done += piece.raw_bytes
        if done / whole - told >= 0.01:
            told = done / whole
            progress(told)
    writer.flush()
    return [writer.settled(place) for place in places], boot


def _touched(pieces: Sequence[Piece], offsets: Iterable[int]) -> list[int]:
    """The numbers of the pieces at these offsets of the disk, each once, in the order of the first."""
    begins = [piece.offset for piece in pieces]
    end = begins[-1] + pieces[-1].raw_bytes if pieces else 0
    return list(dict.fromkeys(bisect_right(begins, offset) - 1 for offset in offsets if 0 <= offset < end))


_UNFINISHED = re.compile(r"\.[0-9a-f]{64}\.[a-z0-9_]{8}\Z")
"""What `write_atomic` calls a pack until it is whole."""


class _Writer:
    """Puts chunks into packs, each content once."""

    def __init__(self, root: Path, project: str, key: ProjectKey) -> None:
        self._root, self._project, self._key = root, project, key
        self._known: dict[bytes, Place] = {}
        self._also: dict[bytes, list[Place]] = {}  # further blobs that say a name
        self._facts: dict[str, Pack] = {}
        self._lengths: dict[str, Sequence[int]] = {}
        self._found: dict[str, PackIndex] = {}
        self._checked: set[Place] = set()
        self._used: dict[str, None] = {}
        self._open: list[bytes] = []
        self._open_bytes = 0
        self._number = 0
        self._settled: dict[int, str] = {}
        self.raw_bytes = self.new_bytes = self.new_packs = self.new_chunks = self.wrong_chunks = 0
        for folder in sorted((root / project / "packs").glob("*")):
            for path in sorted(folder.glob("*")) if not folder.is_symlink() else ():
                self._look_into(path)

    def put(self, plain: memoryview) -> Place:
        """Store a chunk if it is new; while its pack is open, its pack is a number."""
        self.raw_bytes += len(plain)
        name = self._key.name(plain)
        said = (self._known[name], *self._also.get(name, ())) if name in self._known else ()
        place = next((one for one in said if self._holds(one, plain)), None)
        if place is None:
            blob = self._key.seal(plain, name)
            if self._open_bytes + len(blob) > PACK_BYTES or len(self._open) == MOST_BLOBS:
                self.flush()
            place = self._known[name] = (f"#{self._number}", len(self._open))
            self._open.append(blob)
            self._open_bytes += len(blob)
            self.new_chunks += 1
        return place

    def _holds(self, place: Place, plain: memoryview) -> bool:
        """Whether a blob that is there already is right and holds just this; looked at once."""
        index = self._found.get(place[0])
        if index is None or place in self._checked:
            return True  # we made it, or looked
        start, end = index.span(place[1])
        try:
            with open_plain(pack_path(self._root, self._project, index.name)) as file:
                blob = os.pread(file.fileno(), end - start, start)
            right = index.right(place[1], blob) and self._key.open(blob, len(plain)) == plain
        except (Damaged, OSError):
            right = False
        if right:
            self._checked.add(place)
        else:
            self.wrong_chunks += 1
        return right

    def flush(self) -> None:
        """Write the open pack."""
        if not self._open:
            return
        name, index = assemble(self._open)
        path = pack_path(self._root, self._project, name)
        make_folder(path.parent)
        write_atomic(path, b"".join([index, *self._open]))
        self._settled[self._number] = name
        self._facts[name] = Pack(name, len(index) + self._open_bytes, len(self._open))
        self._lengths[name] = [len(blob) for blob in self._open]
        self.new_bytes += len(index) + self._open_bytes
        self.new_packs += 1
        self._number += 1
        self._open, self._open_bytes = [], 0

    def settled(self, place: Place | None) -> Place | None:
        """Return a place with its pack's name, and note that the pack is used."""
        if place is None:
            return None
        pack, ordinal = place
        if pack.startswith("#"):
            pack = self._settled[int(pack[1:])]
        self._used[pack] = None
        return pack, ordinal

    def packs(self) -> list[Pack]:
        """The packs that were used, in the order of their use."""
        return [self._facts[name] for name in self._used]

    def blob_bytes(self, places: Iterable[Place | None]) -> int:
        """How long the blobs at these places are, each counted once."""
        return sum(self._lengths[pack][ordinal] for pack, ordinal in {place for place in places if place is not None})

    def _look_into(self, path: Path) -> None:
        """Learn what is in a pack of the project; one that is no whole pack of this key is left alone."""
        if _UNFINISHED.match(path.name):
            path.unlink(missing_ok=True)
            return
        try:
            opened = open_plain(path)
        except OSError:
            return
        with opened as file:
            head = file.read(12)
            count = int.from_bytes(head[8:], "little")
            try:
                index = PackIndex(path.name, head + file.read(max(0, min(index_bytes(count), 4 << 20) - len(head))))
            except Damaged:
                return
            if os.fstat(file.fileno()).st_size != index.offsets[-1]:
                return
            self._found[path.name] = index
            self._facts[path.name] = Pack(path.name, index.offsets[-1], index.count)
            self._lengths[path.name] = [end - start for start, end in map(index.span, range(index.count))]
            for ordinal in range(index.count):
                name = os.pread(file.fileno(), NAME_BYTES, index.offsets[ordinal])
                place = (path.name, ordinal)
                if self._known.setdefault(name, place) is not place:
                    self._also.setdefault(name, []).append(place)


def _manifest(
    names: tuple[str, str, str],
    source: Publication,
    streams: Sequence[_Stream],
    packs: Sequence[Pack],
    places: Sequence[Place | None],
    boot: Sequence[int],
    key_id: str,
    blob_bytes: int,
) -> PublishedManifest:
    number = {pack.name: at for at, pack in enumerate(packs)}
    if len(packs) >= HOLE:
        raise ImageError(
            f"image {names[1]}: got {counted(len(packs), 'pack')}, expected less than {HOLE}; publish under a new key"
        )
    table = Table(
        array("I", [piece.raw_bytes for stream in streams for piece in stream.pieces]),
        array("H", [HOLE if place is None else number[place[0]] for place in places]),
        array("H", [0 if place is None else place[1] for place in places]),
    )
    disk, kernel, initrd, seed = (Stream(len(one.content), len(one.pieces)) for one in streams)
    return PublishedManifest(
        *names,
        source=source.digest,
        key_id=key_id,
        memory_bytes=source.memory_bytes,
        cmdline=source.cmdline,
        packages=source.packages,
        packs=tuple(packs),
        table=table.encode(),
        boot=published.encode_order(boot),
        blob_bytes=blob_bytes,
        disk=disk,
        kernel=kernel,
        initrd=initrd,
        seed=seed,
        free_bytes=source.promise.free_bytes,
        says=source.promise.says,
    )


def _finish(where: Path, made: PublishedManifest) -> None:
    """Write the manifest, unless it is there; other content under its name is refused."""
    content = published.encode(made)
    if where.exists():
        if read_plain(where, len(content)) != content:
            raise ImageError(
                f"image {published.title(made)}: it was published with other content, which never changes; "
                "choose another version"
            )
        return
    write_atomic(where, content)
