"""Images: what a VM boots from."""

import msgspec

from deskgrid.model.names import Digest, Name
from deskgrid.model.numbers import Bytes


class ImageRef(msgspec.Struct, frozen=True, order=True):
    """One version of one image: its name (the job's `vm_name`) and the SHA-256 of its manifest's content."""

    name: Name
    digest: Digest


class ImageFacts(msgspec.Struct, frozen=True):
    """What coordinator and planner need to know of an image.

    memory_bytes: least memory a VM of it needs. disk_bytes: size of its (virtual) disk.
    project, version: under which its signers list it; empty for an image that only pretends (simulated fleets).
    """

    ref: ImageRef
    memory_bytes: Bytes
    disk_bytes: Bytes
    project: str = ""
    version: str = ""


class ImageGrant(msgspec.Struct, frozen=True):
    """What a desktop needs to open an image for one VM.

    project, version: under which its signers list it. key: the project's, 64 hexadecimal digits. SECRET.
    sources: base addresses of its packs, to be asked in this order.
    """

    project: Name
    version: Name
    key: str
    sources: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"ImageGrant(project={self.project!r}, version={self.version!r}, key=<secret>)"
