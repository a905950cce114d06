"""The words that the rest of deskgrid speaks with trust. Imports nothing heavy: an agent at rest may have them."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.model.values.names import BadName, Digest, Name, name
from deskgrid.model.values.text import plain

LATEST = "latest"
MANIFEST_BYTES = 32 << 20
POINTER_BYTES = 4096


def readable(text: str, most: int = 200) -> str:
    """Text from outside for a terminal or a page: what is odd in it is spelled out, and it is not too long."""
    shown = plain(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[:most]}…"


class Version(msgspec.Struct, frozen=True, order=True):
    """A version of an image of a project."""

    project: Name
    image: Name
    version: Name

    def __str__(self) -> str:
        return f"{self.project}/{self.image}/{self.version}"

    @property
    def path(self) -> str:
        """Its target path."""
        return f"images/{self.project}/{self.image}/{self.version}.json"

    @property
    def latest(self) -> str:
        """The target path of its image's pointer."""
        return f"images/{self.project}/{self.image}/{LATEST}.json"


class ListedVersion(msgspec.Struct, frozen=True):
    """What a role says of a version.

    number: its place among its image's versions, from 1; 0 for a pointer. revoked: why it may no longer be used.
    earlier: of a pointer, the SHA-256 of the one before, which is good too until the approver has signed the new one.
    """

    size_bytes: int
    sha256: Digest
    number: int = 0
    revoked: str | None = None
    earlier: Digest | None = None

    @property
    def plain(self) -> "ListedVersion":
        """What both roles must say alike."""
        return msgspec.structs.replace(self, earlier=None)


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of `latest.json`: which version is the latest.

    number: the version's own. serial: counts the pointers of this image. back_at: serial of the last pointer that was
    signed as a step back to an older version; 0: none.
    """

    version: Name
    number: Annotated[int, msgspec.Meta(ge=1)]
    serial: Annotated[int, msgspec.Meta(ge=1)]
    back_at: Annotated[int, msgspec.Meta(ge=0)] = 0


def version(project: str, image: str, version: str) -> Version:
    """A version whose parts may meet a path. Raises: TrustError."""
    try:
        found = Version(name("project", project), name("image", image), name("version", version))
    except BadName as error:
        raise TrustError(Duty.REQUEST, "bad-name", str(error)) from None
    if found.version == LATEST:
        raise TrustError(Duty.REQUEST, "bad-name", f"version of {image}: got {LATEST!r}, expected another name")
    return found


def manifest_place(folder: Path, entry: ListedVersion) -> Path:
    """Where a desktop keeps a manifest, in its folder for trust."""
    return folder / "manifests" / entry.sha256


class Freshness(msgspec.Struct, frozen=True):
    """How current what a desktop knows is.

    timestamp, root: versions of what is trusted. expires_at: until when new VMs may start without news. offline: why
    the repository could not be asked; empty: it was.
    """

    timestamp: int
    root: int
    expires_at: datetime
    offline: str = ""


class TrustConfiguration(msgspec.Struct, frozen=True):
    """Where a desktop keeps its metadata, the root that was shipped, and where the repository is.

    repository: a URL, or a folder. seconds: for one file. certificates: file of CAs for https.
    """

    folder: Path
    bootstrap: Path
    repository: str
    seconds: float = 20.0
    certificates: Path | None = None
