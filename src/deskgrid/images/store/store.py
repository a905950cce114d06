"""The desktop's store: the very bytes of the server, as much of them as is wanted, and never more than it may take.

    <folder>/index.db            see index.py
             images/<digest>.json    manifests; <digest>.lock: held shared by whoever leases or reads the image
             packs/<aa>/<pack>       as on the server; what is not held is a hole in the file
             lock                held for a moment by whoever adds or removes images

Rules:
- Nothing here is in the clear, and no key is needed: a blob counts only when it has the sum that its pack's index
  says, and the index counts only when it has the sum that is the pack's name.
- It is checked at every read. What fails is thrown away and reported, and so comes to be fetched again.
- Nothing grows beyond the budget, nor the disk's free room below the floor: first the least recently used images go,
  never one that someone leases or reads (the kernel knows: they hold its lock), then the answer is a sentence.
- A process may be killed and the power may fail at any moment: what is half done is found by its sum, or is a file of
  another name that `gc` removes. Two agents may use one store: equal blobs are written to equal places.
- Any thread may ask.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from deskgrid.host.system.files import write_atomic
from deskgrid.host.system.locks import Locked, hold, locked
from deskgrid.images.contract import ImageError
from deskgrid.images.format import published
from deskgrid.images.format.keys import Damaged
from deskgrid.images.format.packs import PackIndex
from deskgrid.images.format.published import Pack, PublishedManifest, Table
from deskgrid.images.store.files import CACHED_BYTES, PackFiles
from deskgrid.images.store.index import HeldImage, Index, IndexDamaged

Report = Callable[[str], None]
_RESERVE_BYTES = 4 << 20
"""Asked for at once, so that the disk is not asked for every batch."""


class StoreFull(ImageError):
    """There is no room within budget and floor."""


class StoreLimits(msgspec.Struct, frozen=True):
    """budget_bytes: the most that packs may take. floor_bytes: so much of the disk stays free.

    cached_bytes: about so much of them may stay in the owner's page cache.
    """

    budget_bytes: int
    floor_bytes: int
    cached_bytes: int = CACHED_BYTES


class Admitted(msgspec.Struct, frozen=True):
    """An image whose manifest is in the store."""

    digest: str
    manifest: PublishedManifest
    table: Table

    @property
    def stored_bytes(self) -> int:
        """How much it takes when it is wholly here."""
        return self.manifest.blob_bytes + sum(pack.index_bytes for pack in self.manifest.packs)


class ChunkStore:
    """See the module."""

    def __init__(self, folder: Path, limits: StoreLimits, report: Report = lambda sentence: None) -> None:
        """Open or make a store. report: told each damage, in a sentence. Raises: ImageError."""
        self.folder, self.limits, self._report = folder, limits, report
        self._mutex = threading.RLock()
        self._indexes: dict[str, PackIndex] = {}
        self.files = PackFiles(folder / "packs", limits.cached_bytes)
        self._room = 0
        try:
            for part in ("images", "packs"):
                (folder / part).mkdir(parents=True, exist_ok=True, mode=0o700)
            self._index = self._open_index()
        except OSError as error:
            raise ImageError(f"store {folder}: {error.strerror}; see to the folder and its rights") from error

    def close(self) -> None:
        """Let go of all files."""
        with self._mutex:
            self.files.close()
            self._index.close()

    # Images

    @contextmanager
    def admit(self, content: bytes, names: tuple[str, str, str] | None = None) -> Iterator[Admitted]:
        """Know an image by its verified manifest, and keep it from being removed until the end of the block.

        Args:
            names: project, name and version that were asked for; the manifest must be theirs.

        Raises:
            ImageError: the manifest is bad. StoreFull: the budget is smaller than what is needed at least.
        """
        digest = published.digest(content)
        manifest, table = published.decode(content)
        if names is not None and names != (manifest.project, manifest.name, manifest.version):
            raise ImageError(
                f"manifest: got {published.title(manifest)}, expected {names[0]}/{names[1]} {names[2]}; "
                "it was signed under a wrong name"
            )
        image = Admitted(digest, manifest, table)
        with self._changing():
            lease = self._lease(digest)
            try:
                place = self.folder / "images" / f"{digest}.json"
                if not place.exists():
                    write_atomic(place, content, 0o600)
                with self._mutex:
                    self._index.add_image(_held(image, time.time()), [pack.name for pack in manifest.packs])
            except OSError as error:
                os.close(lease)
                raise ImageError(f"store {self.folder}: {error.strerror}; make room or move the store") from error
        try:
            yield image
        finally:
            os.close(lease)

    def manifest_of(self, digest: str) -> bytes:
        """Return the manifest of an image that was admitted. Raises: ImageError."""
        place = self.folder / "images" / f"{digest}.json"
        try:
            content = place.read_bytes()
        except OSError as error:
            raise ImageError(f"store: image {digest[:12]}…: {error.strerror}; fetch it") from None
        if published.digest(content) != digest:
            self._report(f"store: manifest {place} is damaged; it is thrown away")
            place.unlink(missing_ok=True)
            raise ImageError(f"store: manifest of image {digest[:12]}… is damaged; fetch it again")
        return content

    def require(self, image: Admitted) -> None:
        """Say at once when an image can never be here as a whole. Raises: StoreFull."""
        if image.stored_bytes > self.limits.budget_bytes:
            raise StoreFull(
                f"store {self.folder}: image {published.title(image.manifest)} takes {image.stored_bytes >> 10} KiB, "
                f"and the budget is {self.limits.budget_bytes >> 10} KiB; raise the budget"
            )

    def images(self) -> list[HeldImage]:
        """All images, the least recently used first."""
        with self._mutex:
            return self._index.images()

    def in_use(self, digest: str) -> bool:
        """Whether someone leases or reads the image."""
        try:
            os.close(hold(self._lock_of(digest), wait=False))
        except Locked:
            return True
        return False

    def remove(self, digest: str) -> bool:
        """Remove an image and the packs that only it uses; False when someone leases or reads it."""
        with self._changing():
            return self._remove(digest)

    # Blobs

    def pack_index(self, pack: Pack) -> PackIndex | None:
        """Return the index of a pack if it is here."""
        found = self._indexes.get(pack.name)
        if found is None:
            content = self._read(pack.name, 0, pack.index_bytes)
            with suppress(Damaged):
                found = self._indexes[pack.name] = PackIndex(pack.name, content)
        return found

    def put_index(self, index: PackIndex) -> None:
        """Keep the index of a pack. Raises: StoreFull."""
        self._make_room(len(index.content))
        self._write(index.name, [(0, index.content)])
        self._indexes[index.name] = index

    def held(self, pack: str) -> set[int]:
        """Which blobs of a pack are said to be here."""
        with self._mutex:
            return self._index.held(pack)

    def get(self, index: PackIndex, blob: int) -> bytes | None:
        """Return a blob that is right; None when it is not here. One that is damaged is not here."""
        start, end = index.span(blob)
        content = self._read(index.name, start, end - start)
        return content if index.right(blob, content) else None

    def packs(self) -> dict[str, int]:
        """All packs, with the bytes that are held of each."""
        with self._mutex:
            return self._index.packs()

    def packs_of(self, digest: str) -> dict[str, int]:
        """An image's packs, with the bytes that are held of each."""
        with self._mutex:
            return self._index.packs_of(digest)

    def forget_unused(self) -> list[str]:
        """Remove the packs that no image uses; the caller holds the store's lock."""
        with self._mutex:
            packs = self._index.forget_unused()
        for pack in packs:
            self.forget_pack(pack)
        return packs

    def drop(self, pack: str, blobs: Iterable[int]) -> None:
        """Note that blobs are gone."""
        with self._mutex:
            self._index.drop(pack, blobs)

    def discard(self, pack: str, blob: int) -> None:
        """A blob that was said to be here is damaged: throw it away and report it."""
        with self._mutex:
            self._index.drop(pack, [blob])
        self._report(f"store: blob {blob} of pack {pack[:12]}… is damaged; it is thrown away and fetched again")

    def put(self, index: PackIndex, blobs: Mapping[int, bytes]) -> None:
        """Keep blobs that were checked. Raises: StoreFull."""
        self._make_room(sum(map(len, blobs.values())))
        parts = [(index.offsets[number], content) for number, content in blobs.items()]
        if not self.files.path(index.name).exists():  # another process has removed it since its index was put
            parts = [(0, index.content), *parts]
        self._write(index.name, parts)
        try:
            with self._mutex:
                self._index.hold(index.name, [(number, len(content)) for number, content in blobs.items()])
        except ImageError as error:
            raise StoreFull(str(error)) from None

    def used_bytes(self) -> int:
        """How much is held."""
        with self._mutex:
            return self._index.used_bytes()

    def free_bytes(self) -> int:
        """How much room the disk has."""
        status = os.statvfs(self.folder)
        return status.f_bavail * status.f_frsize

    # Inside

    def _read(self, pack: str, offset: int, length: int) -> bytes:
        try:
            return self.files.read(pack, offset, length)
        except OSError as error:
            self._report(f"store: pack {pack[:12]}… can't be read: {error.strerror}")
            return b""

    def _write(self, pack: str, parts: Iterable[tuple[int, bytes]]) -> None:
        try:
            self.files.write(pack, parts)
        except OSError as error:
            raise StoreFull(
                f"store {self.folder}: {error.strerror} while a blob was written; make room on this disk, or set a "
                "smaller budget"
            ) from error

    def _make_room(self, wanted: int) -> None:
        """Remove images until so much fits. Raises: StoreFull."""
        with self._mutex:
            self._room -= wanted
            if self._room >= 0:
                return
        reserve = wanted + _RESERVE_BYTES
        with self._changing():
            for image in (*self.images(), None):
                lacking = self._lacking(wanted)
                if not lacking:
                    break
                if image is None:
                    raise StoreFull(lacking)
                self._remove(image.digest)
        self._room = 0 if self._lacking(reserve) else _RESERVE_BYTES

    def _lacking(self, wanted: int) -> str:
        """Say why so much does not fit; "" when it does."""
        used, free, limits = self.used_bytes(), self.free_bytes(), self.limits
        if used + wanted > limits.budget_bytes:
            return (
                f"store {self.folder}: {used >> 20} MiB are held for images in use, and the budget is "
                f"{limits.budget_bytes >> 20} MiB: too small for another {wanted >> 10} KiB; raise the budget"
            )
        if free - wanted < limits.floor_bytes:
            return (
                f"store {self.folder}: the disk has {free >> 20} MiB free, and {limits.floor_bytes >> 20} MiB must "
                f"stay free: no room for another {wanted >> 10} KiB; make room on this disk"
            )
        return ""

    def _remove(self, digest: str) -> bool:
        """Remove an image; the caller holds the store's lock."""
        if self.in_use(digest):
            return False
        with self._mutex:
            packs = self._index.forget_image(digest)
        (self.folder / "images" / f"{digest}.json").unlink(missing_ok=True)
        self._lock_of(digest).unlink(missing_ok=True)
        for pack in packs:
            self.forget_pack(pack)
        return True

    def forget_pack(self, pack: str) -> None:
        """Remove a pack's file."""
        self._indexes.pop(pack, None)
        self.files.remove(pack)

    def _open_index(self) -> Index:
        """One at a time: two that make it, or make it anew, would take it away from each other."""
        path = self.folder / "index.db"
        with self._changing():
            try:
                return Index(path)
            except IndexDamaged as error:
                self._report(f"{error}; it is made anew from the packs")
                for suffix in ("", "-wal", "-shm"):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
                return self._rebuilt(Index(path))

    def _rebuilt(self, index: Index) -> Index:
        """Fill an empty index from what is in the folder."""
        for path in sorted((self.folder / "images").glob("*.json")):
            content = path.read_bytes()
            if published.digest(content) != path.stem:
                path.unlink()
                continue
            manifest, table = published.decode(content)
            image = Admitted(path.stem, manifest, table)
            index.add_image(_held(image, path.stat().st_mtime), [pack.name for pack in manifest.packs])
            for pack in manifest.packs:
                found = self.pack_index(pack)
                if found is not None:
                    right = [(n, len(b)) for n in range(found.count) if (b := self.get(found, n)) is not None]
                    index.hold(pack.name, right)
        return index

    @contextmanager
    def _changing(self) -> Iterator[None]:
        with locked(self.folder / "lock"):
            yield

    def _lease(self, digest: str) -> int:
        return hold(self._lock_of(digest), shared=True)

    def _lock_of(self, digest: str) -> Path:
        return self.folder / "images" / f"{digest}.lock"


def _held(image: Admitted, used_at: float) -> HeldImage:
    facts = image.manifest
    return HeldImage(image.digest, facts.project, facts.name, facts.version, used_at, image.stored_bytes)
