"""What an image says of itself: `image.json`, whose SHA-256 is the image's digest.

    <images>/<name>/<digest>/image.json    this, in one canonical form
                             disk.raw      the whole disk, bootable by BIOS (sparse)
                             kernel initrd the same kernel unpacked, and its RAM disk, for direct boot
                             sbom.json     the packages with the sums of what they came from (sbom.py)
                             files.mtree   every file of the disk with its sum (contents.py)

An imported image has only the first two and `seed.iso` (nocloud.py): it boots by BIOS, and what is in its disk is not
known.

Rules:
- The manifest names size and SHA-256 of every other file, so the digest covers them all.
- Nothing in it tells when or where it was built: the same content has the same digest.
"""

import hashlib
import os
import stat
from pathlib import Path
from typing import IO

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.format.recipe import Recipe
from deskgrid.model.image import ImageRef
from deskgrid.model.values.names import BadName, Digest, Name, name
from deskgrid.model.values.outside import JsonReader

FORMAT = 1
FILE = "image.json"
DISK, KERNEL, INITRD = "disk.raw", "kernel", "initrd"
SBOM, CONTENTS = "sbom.json", "files.mtree"
SEED = "seed.iso"
_MANIFEST_BYTES = 16 << 20
_PART_BYTES = 4 << 20


class FileFacts(msgspec.Struct, frozen=True):
    """Length and SHA-256 of one file."""

    size_bytes: int
    sha256: Digest


class Package(msgspec.Struct, frozen=True, order=True):
    """A Debian package in the image."""

    name: str
    version: str


class Imported(msgspec.Struct, frozen=True):
    """Where an image came from that was not built from a recipe.

    form: of the disk that was imported, such as "qcow2"; source: length and sum of that file. packages: installed by
    cloud-init at each start, for a disk that lacks them.
    """

    form: str
    source: FileFacts
    packages: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """All that is known of an image.

    inputs: SHA-256 of what it was made from (recipe, its files, the guest's programs), to know it again.
    recipe: what it was built from; none for an imported image, which has `imported` instead and gets its first data
    from cloud-init. kernel, initrd: for direct boot; none: it boots from its disk.
    """

    name: Name
    memory_bytes: int
    disk_bytes: int
    cmdline: str
    disk: FileFacts
    kernel: FileFacts | None
    initrd: FileFacts | None
    packages: tuple[Package, ...]
    recipe: Recipe | None
    inputs: Digest
    format: int = FORMAT
    sbom: FileFacts | None = None
    contents: FileFacts | None = None
    imported: Imported | None = None
    seed: FileFacts | None = None

    def files(self) -> dict[str, FileFacts]:
        """Return the facts of every file by its name."""
        known = {DISK: self.disk, KERNEL: self.kernel, INITRD: self.initrd, SBOM: self.sbom, CONTENTS: self.contents}
        known[SEED] = self.seed
        return {name: facts for name, facts in known.items() if facts is not None}


_DECODER = JsonReader(Manifest)


def encode(manifest: Manifest) -> bytes:
    """Return the canonical form."""
    return msgspec.json.encode(manifest, order="deterministic")


def reference(folder: Path) -> ImageRef:
    """Return the reference that an image's folder stands for. Raises: ImageError."""
    try:
        wanted = ImageRef(name("image name", folder.parent.name), folder.name)
    except BadName as error:
        raise ImageError(str(error)) from None
    if len(wanted.digest) != hashlib.sha256().digest_size * 2 or set(wanted.digest) - set("0123456789abcdef"):
        raise ImageError(f"image digest: got {wanted.digest!r}, expected 64 hexadecimal digits; give an image's folder")
    return wanted


def digest(content: bytes) -> str:
    """Return the digest of an image whose manifest has this content."""
    return hashlib.sha256(content).hexdigest()


def read(folder: Path, ref: ImageRef) -> Manifest:
    """Read the manifest of the image in `folder` and check that it belongs to `ref`.

    Raises:
        ImageError: when it is missing, damaged, of another image or of an unknown format.
    """
    where = folder / FILE
    try:
        with where.open("rb") as file:
            content = file.read(_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ImageError(f"image {ref.name}: {where} can't be read: {error.strerror}; build or copy it again") from None
    found = digest(content)
    if found != ref.digest:
        raise ImageError(
            f"image {ref.name}: {where}: got digest {found[:12]}…, expected {ref.digest[:12]}…; "
            f"it was changed: delete {folder} and build or copy it again"
        )
    try:
        manifest = _DECODER.decode(content)
    except msgspec.MsgspecError as error:
        raise ImageError(f"image {ref.name}: {where}: {error}; build it again with this version") from None
    if manifest.format != FORMAT or manifest.name != ref.name:
        raise ImageError(
            f"image {ref.name}: {where}: got format {manifest.format} of {manifest.name!r}, expected {FORMAT} of "
            f"{ref.name!r}; build it again with this version"
        )
    return manifest


def check_lengths(folder: Path, held: Manifest) -> None:
    """Look at the files of an image without reading them.

    Raises:
        ImageError: when one is missing, no plain file or of another length.
    """
    for file, facts in held.files().items():
        try:
            found = (folder / file).lstat()
        except OSError as error:
            raise ImageError(f"image {held.name}: {folder / file}: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode) or found.st_size != facts.size_bytes:
            raise ImageError(
                f"image {held.name}: {folder / file}: got {stat.filemode(found.st_mode)} of {found.st_size} bytes, "
                f"expected a plain file of {facts.size_bytes}; delete {folder} and build or copy it again"
            )


def measure(path: Path) -> FileFacts:
    """Return length and SHA-256 of a file, and leave nothing in the page cache: that is the owner's.

    Raises: OSError.
    """
    with path.open("rb", buffering=0) as file:
        return measure_open(file)


def measure_open(file: IO[bytes]) -> FileFacts:
    """The same of a file that is open, from its beginning."""
    total, length = hashlib.sha256(), 0
    file.seek(0)
    while part := file.read(_PART_BYTES):
        total.update(part)
        length += len(part)
        _forget(file.fileno(), length)
    _forget(file.fileno(), 0)
    return FileFacts(length, total.hexdigest())


def _forget(handle: int, until: int) -> None:
    """Tell the system that a file is not needed up to there (0: to its end), where it can be told (posix_fadvise(2)).

    From the start each time: pages are kept in groups, and a group that is needed in part is kept as a whole.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(handle, 0, until, os.POSIX_FADV_DONTNEED)
