"""Images: what a VM boots from."""

import msgspec

from deskgrid.model.names import Digest, Name


class ImageRef(msgspec.Struct, frozen=True, order=True):
    """One version of one image: its name (the job's `vm_name`) and the SHA-256 of its manifest's content."""

    name: Name
    digest: Digest


class ImageFacts(msgspec.Struct, frozen=True):
    """What coordinator and planner need to know of an image.

    memory_bytes: least memory a VM of it needs. disk_bytes: size of its (virtual) disk.
    """

    ref: ImageRef
    memory_bytes: int
    disk_bytes: int
