"""Images: what a VM boots from."""

from typing import Annotated

import msgspec

from deskgrid.model.values.names import Digest, Name
from deskgrid.model.values.numbers import Bytes


class Attribute(msgspec.Struct, frozen=True, order=True):
    """One attribute of a machine's ad. text: its value as a ClassAd literal: true, false, a number or a quoted text."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
    text: Annotated[
        str,
        msgspec.Meta(
            pattern=r'^(true|false|-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?|"[ !#-\[\]-~]{0,1000}")\Z'
        ),
    ]


class ImageRef(msgspec.Struct, frozen=True, order=True):
    """One version of one image: its name (the job's `vm_name`) and the SHA-256 of its manifest's content."""

    name: Name
    digest: Digest


class ImageFacts(msgspec.Struct, frozen=True):
    """What coordinator and planner need to know of an image.

    memory_bytes: least memory that its VMs need. disk_bytes: size of its (virtual) disk. free_bytes: what a job
    finds free in a machine; 0: not known. says: what each of its machines says in its ad, recorded at a trial boot.
    project, version: under which its signers list it; empty for an image that only pretends (simulated fleets).
    """

    ref: ImageRef
    memory_bytes: Bytes
    disk_bytes: Bytes
    project: str = ""
    version: str = ""
    free_bytes: Bytes = 0
    says: tuple[Attribute, ...] = ()


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
