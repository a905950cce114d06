"""A desktop's images as plain folders, unsigned and in the clear: the first store behind `contract.ImageStore`.

    <folder>/<name>/<digest>/     as `build.py` writes it (see manifest.py)

Rules, told first
- An image is held when its folder is whole: manifest of the right digest, every file there in its right length,
  and not known to be damaged.
- An image is given out only when the SHA-256 of every file is right. That is checked once: what was checked is
  remembered by length, time and inode of the files, in a file of the agent's own, so that a change is noticed.
- Names and digests are validated before they meet a path; only regular files count, no links.
- Any thread may ask; taking the sums of one image holds up nobody who asks for another.
"""

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from deskgrid.host.files import write_atomic
from deskgrid.images import manifest
from deskgrid.images.contract import ImageError, OpenedImage
from deskgrid.images.manifest import DISK, INITRD, KERNEL, Manifest, Stamps, check_lengths, measure
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.model.names import BadName, name

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def facts_of(folder: Path) -> ImageFacts:
    """Return what an image's own folder says of it. Raises: ImageError."""
    ref = reference(folder.resolve())
    return manifest.facts(manifest.read(folder, ref), ref.digest)


class FolderStore:
    """See `contract.ImageStore`."""

    def __init__(self, folder: Path, memory: Path | None = None) -> None:
        """Use the images in `folder`. memory: file that remembers what was checked; None: only this process does."""
        self._folder, self._memory = folder, memory
        self._lock = threading.Lock()
        self._sums: dict[str, threading.Lock] = {}
        self._checked = _recall(memory)
        self._damaged: dict[str, tuple[Stamps, str]] = {}

    def held(self) -> Sequence[ImageFacts]:
        """The images that are wholly here."""
        found = []
        for path in sorted(self._folder.glob(f"*/*/{manifest.FILE}")):
            with suppress(ImageError):
                ref = reference(path.parent)
                held = manifest.read(path.parent, ref)
                self._refuse_damaged(ref, check_lengths(path.parent, held))
                found.append(manifest.facts(held, ref.digest))
        return found

    def fetch(self, ref: ImageRef, grant: ImageGrant | None = None) -> None:
        """Check that the image is here and undamaged; seconds the first time. Raises: ImageError."""
        self._verified(ref)

    def open(self, ref: ImageRef, grant: ImageGrant | None = None) -> OpenedImage:
        """Give the files of an image that is held. Raises: ImageError."""
        folder, held = self._verified(ref)
        facts = manifest.facts(held, ref.digest)
        return OpenedImage(facts, held.cmdline, folder / DISK, folder / KERNEL, folder / INITRD)

    def close(self, ref: ImageRef) -> None:
        """Nothing is held open here."""

    def _verified(self, ref: ImageRef) -> tuple[Path, Manifest]:
        folder = self._place(ref)
        held = manifest.read(folder, ref)
        with self._lock:
            one = self._sums.setdefault(ref.digest, threading.Lock())
        with one:
            stamps = check_lengths(folder, held)
            self._refuse_damaged(ref, stamps)
            if self._checked.get(ref.digest) != stamps:
                self._check(ref, folder, held, stamps)
        return folder, held

    def _check(self, ref: ImageRef, folder: Path, held: Manifest, stamps: Stamps) -> None:
        for file, facts in held.files().items():
            try:
                found = measure(folder / file).sha256
            except OSError as error:
                raise ImageError(f"image {ref.name}: {folder / file} can't be read: {error.strerror}") from None
            if found != facts.sha256:
                sentence = (
                    f"image {ref.name}: {folder / file}: got SHA-256 {found[:12]}…, expected {facts.sha256[:12]}…: "
                    f"it is damaged; delete {folder} and build or copy it again"
                )
                self._damaged[ref.digest] = (stamps, sentence)
                raise ImageError(sentence)
        with self._lock:
            self._checked[ref.digest] = stamps
            if self._memory is not None:
                write_atomic(self._memory, msgspec.json.encode(self._checked), 0o600)

    def _refuse_damaged(self, ref: ImageRef, stamps: Stamps) -> None:
        seen, sentence = self._damaged.get(ref.digest, ({}, ""))
        if seen == stamps:
            raise ImageError(sentence)

    def _place(self, ref: ImageRef) -> Path:
        folder = self._folder / _valid(ref).name / ref.digest
        if not (folder / manifest.FILE).exists():
            raise ImageError(
                f"image {ref.name} {ref.digest[:12]}…: not in {self._folder}; build it with `deskgrid image build`, or "
                "copy its folder there"
            )
        return folder


def _recall(memory: Path | None) -> dict[str, Stamps]:
    try:
        content = memory.read_bytes() if memory is not None else b"{}"
        return msgspec.json.decode(content, type=dict[str, Stamps])
    except (OSError, msgspec.DecodeError):
        return {}


def reference(folder: Path) -> ImageRef:
    """Return the reference that an image's folder stands for. Raises: ImageError."""
    return _valid(ImageRef(folder.parent.name, folder.name))


def _valid(ref: ImageRef) -> ImageRef:
    """Return the reference if its parts may meet a path. Raises: ImageError."""
    try:
        name("image name", ref.name)
    except BadName as error:
        raise ImageError(str(error)) from None
    if not _DIGEST.match(ref.digest):
        raise ImageError(f"image digest: got {ref.digest!r}, expected 64 hexadecimal digits")
    return ref
