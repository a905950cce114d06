"""An image store in memory, with files of a few bytes: for tests and for desktops that only pretend to run machines.

Rules:
- `fetchable` images come to be held by `fetch`; others are unknown, unless `anything` goes.
- `damage` makes an image refuse as a damaged one does, until `mend`.
"""

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from deskgrid.images.contract import ImageError
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.wire.disk import OpenedImage


class FakeStore:
    """See `contract.ImageStore`."""

    def __init__(
        self,
        folder: Path,
        held: Iterable[ImageFacts] = (),
        fetchable: Iterable[ImageFacts] = (),
        anything: bool = False,
    ) -> None:
        """Put the files of opened images below `folder`."""
        self._folder, self._anything = folder, anything
        self._lock = threading.Lock()
        self._held = {facts.ref: facts for facts in held}
        self._fetchable = {facts.ref: facts for facts in fetchable}
        self._damaged: set[ImageRef] = set()
        self.opened: dict[ImageRef, int] = {}
        """How often each image is open now."""

    def damage(self, ref: ImageRef) -> None:
        """From now on this image is damaged."""
        self._damaged.add(ref)

    def mend(self, ref: ImageRef) -> None:
        """It is whole again."""
        self._damaged.discard(ref)

    def held(self) -> Sequence[ImageFacts]:
        """The images that are wholly here."""
        with self._lock:
            return [self._held[ref] for ref in sorted(self._held) if ref not in self._damaged]

    def fetch(self, ref: ImageRef, grant: ImageGrant | None = None) -> None:
        """Make the image be here. Raises: ImageError."""
        with self._lock:
            facts = self._held.get(ref) or self._fetchable.get(ref)
            if facts is None and self._anything:
                facts = ImageFacts(ref, 0, 0)
            if facts is None:
                raise ImageError(f"image {ref.name} {ref.digest[:12]}…: not in this store; give it to the fake")
            if ref in self._damaged:
                raise ImageError(f"image {ref.name} {ref.digest[:12]}…: it is damaged; mend it")
            self._held[ref] = facts

    def open(self, ref: ImageRef, grant: ImageGrant | None = None) -> OpenedImage:
        """Give the files of an image that is held. Raises: ImageError."""
        if ref not in self._held:
            raise ImageError(f"image {ref.name} {ref.digest[:12]}…: not held; fetch it first")
        self.fetch(ref)
        folder = self._folder / ref.name / ref.digest
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / name for name in ("disk.raw", "kernel", "initrd")]
        for file in files:
            file.write_bytes(ref.digest.encode())
        with self._lock:
            self.opened[ref] = self.opened.get(ref, 0) + 1
        return OpenedImage(ref, "", files[0], files[1], files[2])

    def close(self, ref: ImageRef) -> None:
        """The hypervisor no longer reads it."""
        with self._lock:
            left = self.opened.get(ref, 0) - 1
            self.opened[ref] = left
            if left <= 0:
                self.opened.pop(ref, None)
