"""The contract of a desktop's image store.

Signing, chunks and encryption will fill this interface; callers will not change.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from deskgrid.model.image import ImageFacts, ImageRef


class ImageError(Exception):
    """An image is missing, damaged or not allowed. The message says which and what to do."""


class OpenedImage(msgspec.Struct, frozen=True):
    """Files of an image that a hypervisor may read, until `close`."""

    facts: ImageFacts
    disk: Path
    kernel: Path | None
    initrd: Path | None
    cmdline: str


class ImageStore(Protocol):
    """The images that a desktop holds.

    A driver MUST give an image out only when its content has the digest of its reference, and MUST be able to be
    asked from several threads.
    """

    def held(self) -> Sequence[ImageFacts]:
        """The images that are wholly here."""

    def fetch(self, ref: ImageRef) -> None:
        """Make the image be here; may take long. Idempotent. Raises: ImageError."""

    def open(self, ref: ImageRef) -> OpenedImage:
        """Give the files of an image that is held. Raises: ImageError."""

    def close(self, ref: ImageRef) -> None:
        """The hypervisor no longer reads it."""
