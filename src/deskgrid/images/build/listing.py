"""What images are in a folder, for people: also those that are not whole, with the reason."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import Manifest, reference
from deskgrid.model.image import ImageRef
from deskgrid.model.values.text import counted


class ListedImage(msgspec.Struct, frozen=True):
    """One image in a folder. used_bytes: what it takes on this disk. fault: why it can't be used; "" when it can."""

    ref: ImageRef
    folder: Path
    built_at: datetime
    used_bytes: int
    manifest: Manifest | None
    fault: str = ""


def listed(images: Path) -> Sequence[ListedImage]:
    """Return the images below a folder, by name, the newest first; sums are not taken."""
    found = [_look(path.parent) for path in images.glob(f"[!.]*/*/{manifest.FILE}")]
    return sorted(found, key=lambda one: (one.ref.name, -one.built_at.timestamp()))


def inspect(folder: Path) -> ListedImage:
    """Return all that is known of the image in one folder. Raises: ImageError when it can't be used."""
    found = _look(folder.resolve())
    if found.fault:
        raise ImageError(found.fault)
    return found


def find_image(text: str, images: Path) -> ListedImage:
    """Return the image that people mean by a folder, or by `name` or `name@digest` of one in `images`.

    A name alone is the newest; a digest may be cut short. Raises: ImageError when there is none, or it can't be used.
    """
    if "/" in text or (Path(text) / manifest.FILE).exists():
        return inspect(Path(text))
    name, _, prefix = text.partition("@")
    found = [one for one in listed(images) if one.ref.name == name and one.ref.digest.startswith(prefix)]
    if not found:
        raise ImageError(f"image {text}: there is none in {images}; see `deskgrid image list`, or give its folder")
    if prefix and len(found) > 1:
        raise ImageError(f"image {text}: {counted(len(found), 'image')} begin like this; give more of the digest")
    if found[0].fault:
        raise ImageError(found[0].fault)
    return found[0]


def _look(folder: Path) -> ListedImage:
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
    return ListedImage(ref, folder, built_at, used, held, fault)
