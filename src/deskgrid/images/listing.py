"""What images are in a folder, for people: also those that are not whole, with the reason."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deskgrid.images import manifest
from deskgrid.images.contract import ImageError
from deskgrid.images.manifest import Manifest
from deskgrid.images.store import reference
from deskgrid.model.image import ImageRef


class Listed(msgspec.Struct, frozen=True):
    """One image in a folder. used_bytes: what it takes on this disk. fault: why it can't be used; "" when it can."""

    ref: ImageRef
    folder: Path
    built_at: datetime
    used_bytes: int
    manifest: Manifest | None
    fault: str = ""


def listed(images: Path) -> Sequence[Listed]:
    """Return the images below a folder, by name, the newest first; sums are not taken."""
    found = [_look(path.parent) for path in images.glob(f"[!.]*/*/{manifest.FILE}")]
    return sorted(found, key=lambda one: (one.ref.name, -one.built_at.timestamp()))


def inspect(folder: Path) -> Listed:
    """Return all that is known of the image in one folder. Raises: ImageError when it can't be used."""
    found = _look(folder.resolve())
    if found.fault:
        raise ImageError(found.fault)
    return found


def _look(folder: Path) -> Listed:
    ref = ImageRef(folder.parent.name, folder.name)
    held, fault = None, ""
    try:
        held = manifest.read(folder, reference(folder))
        manifest.check_lengths(folder, held)
    except ImageError as error:
        fault = str(error)
    used = 0
    for path in folder.glob("*"):
        used += path.lstat().st_blocks * 512
    built_at = (
        datetime.fromtimestamp(folder.stat().st_mtime, UTC) if folder.exists() else datetime.fromtimestamp(0, UTC)
    )
    return Listed(ref, folder, built_at, used, held, fault)
