"""The contract of a desktop's image store."""

from collections.abc import Sequence
from typing import Protocol

from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.wire.disk import OpenedImage


class ImageError(Exception):
    """An image is missing, damaged or not allowed. The message says which and what to do. whose: whose fault."""

    def __init__(self, sentence: str, whose: Fault = Fault.DESKTOP) -> None:
        super().__init__(sentence)
        self.whose = whose


class ImageStore(Protocol):
    """The images that a desktop holds.

    A driver MUST give an image out only when its content has the digest of its reference and enough of the right
    people have signed it, and MUST be able to be asked from several threads.
    """

    def held(self) -> Sequence[ImageFacts]:
        """The images of which enough is here that a VM starts without waiting; quick."""

    def fetch(self, ref: ImageRef, grant: ImageGrant | None) -> None:
        """Make sure that one of its VMs may start now; may take long. Called before each start. Raises: ImageError."""

    def open(self, ref: ImageRef, grant: ImageGrant | None) -> OpenedImage:
        """Give an image that was fetched, once for each VM. Raises: ImageError."""

    def close(self, ref: ImageRef) -> None:
        """One of its VMs is gone; called once for each `open`."""
