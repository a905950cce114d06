"""A desktop's images as plain folders, unsigned and in the clear: the first store behind `contract.ImageStore`.

    <folder>/<name>/<digest>/     as `build.py` writes it (see manifest.py)

Rules, told first
- An image is held when its folder is whole: manifest of the right digest, every file there in its right length.
- An image is given out only when the SHA-256 of every file is right. That is checked once: what was checked is
  remembered by length, time and inode of the files, in a file of the agent's own, so that a change is noticed.
- Names and digests are validated before they meet a path.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deskgrid.host.files import write_atomic
from deskgrid.images import manifest
from deskgrid.images.contract import ImageError, OpenedImage
from deskgrid.images.manifest import DISK, INITRD, KERNEL, Manifest, measure
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.names import BadName, name

Stamp = tuple[int, int, int]


def facts_of(folder: Path) -> ImageFacts:
    """What an image's own folder says of it. Raises: ImageError."""
    ref = _ref(folder.resolve())
    return manifest.facts(manifest.read(folder, ref), ref.digest)


class FolderStore:
    """See `contract.ImageStore`. memory: file that remembers what was checked; None: only this process does."""

    def __init__(self, folder: Path, memory: Path | None = None) -> None:
        self._folder, self._memory = folder, memory
        self._lock = threading.Lock()
        self._checked = _recall(memory)

    def held(self) -> Sequence[ImageFacts]:
        """The images that are wholly here."""
        found = []
        for path in sorted(self._folder.glob("*/*/" + manifest.FILE)):
            try:
                ref = _ref(path.parent)
                held = manifest.read(path.parent, ref)
                self._stamps(path.parent, held)
            except ImageError:
                continue
            found.append(manifest.facts(held, ref.digest))
        return found

    def fetch(self, ref: ImageRef) -> None:
        """Check that the image is here and undamaged. Raises: ImageError."""
        folder = self._place(ref)
        held = manifest.read(folder, ref)
        with self._lock:
            stamps = self._stamps(folder, held)
            if self._checked.get(ref.digest) == stamps:
                return
            for file, facts in held.files().items():
                if measure(folder / file).sha256 != facts.sha256:
                    raise ImageError(
                        f"image {ref.name}: {folder / file}: its content is not what the manifest says; "
                        f"delete {folder} and build or copy it again"
                    )
            self._checked[ref.digest] = stamps
            self._remember()

    def open(self, ref: ImageRef) -> OpenedImage:
        """Give the files of an image that is held. Raises: ImageError."""
        self.fetch(ref)
        folder = self._place(ref)
        held = manifest.read(folder, ref)
        return OpenedImage(
            manifest.facts(held, ref.digest), folder / DISK, folder / KERNEL, folder / INITRD, held.cmdline
        )

    def close(self, ref: ImageRef) -> None:
        """Nothing is held open here."""

    def _place(self, ref: ImageRef) -> Path:
        try:
            name("image name", ref.name)
            name("image digest", ref.digest)
        except BadName as error:
            raise ImageError(str(error)) from None
        folder = self._folder / ref.name / ref.digest
        if not (folder / manifest.FILE).exists():
            raise ImageError(
                f"image {ref.name} {ref.digest[:12]}: not in {self._folder}; build it there with `deskgrid image build`"
            )
        return folder

    def _stamps(self, folder: Path, held: Manifest) -> dict[str, Stamp]:
        stamps = {}
        for file, facts in held.files().items():
            try:
                stat = (folder / file).stat()
            except OSError as error:
                raise ImageError(f"image {held.name}: {folder / file}: {error.strerror}") from None
            if stat.st_size != facts.size_bytes:
                raise ImageError(
                    f"image {held.name}: {folder / file}: got {stat.st_size} bytes, expected {facts.size_bytes}"
                )
            stamps[file] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return stamps

    def _remember(self) -> None:
        if self._memory is not None:
            write_atomic(self._memory, msgspec.json.encode(self._checked), 0o600)


def _recall(memory: Path | None) -> dict[str, dict[str, Stamp]]:
    try:
        content = memory.read_bytes() if memory is not None else b"{}"
        return msgspec.json.decode(content, type=dict[str, dict[str, Stamp]])
    except (OSError, msgspec.DecodeError):
        return {}


def _ref(folder: Path) -> ImageRef:
    try:
        return ImageRef(name("image name", folder.parent.name), name("image digest", folder.name))
    except BadName as error:
        raise ImageError(f"image folder {folder}: {error}") from None
