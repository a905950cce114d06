"""`deskgrid trust approve --look`: the image unpacked, compared with one's own build, booted once."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from deskgrid.cli.output import progress, size, tell
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.errors import Duty, TrustError

if TYPE_CHECKING:
    from deskgrid.core.fleet.promise import Promise
    from deskgrid.images.publish.publish import Publication


def look_into(
    content: bytes, repository: Path, folder: Path, project_key: Path | None, built: Path | None, quiet: bool
) -> None:
    """Unpack the image of this manifest, and say what is found. Raises: TrustError, ImageError."""
    from deskgrid.images.format.keys import ProjectKey, read_key
    from deskgrid.images.publish.unpack import same_as_built, unpack

    if project_key is None:
        raise TrustError(
            Duty.REQUEST, "no-project-key", "look: expected --project-key, since the image is encrypted with it"
        )
    with progress() as bar:
        task = bar.add_task(f"unpacking into {folder}", total=1.0, visible=not quiet)
        found = unpack(
            content,
            repository,
            ProjectKey(read_key(project_key)),
            folder,
            lambda part: bar.update(task, completed=part),
        )
    if built is not None:
        faults = same_as_built(found, built)
        if faults:
            raise TrustError(Duty.SIGNERS, "not-as-built", f"image in {folder}: {'; '.join(faults)}: don't approve it")
    if quiet:
        return
    tell(f"  unpacked into {folder}: look into it, such as with `guestfish --ro -a` (don't mount it)")
    if built is not None:
        tell(f"  every byte is the same as in your build {built}")
    _boot(found, content)


def _boot(found: "Publication", content: bytes) -> None:
    from deskgrid.images.publish import trial_boot

    if not trial_boot.possible():
        tell(f"  not booted: there is no {trial_boot.QEMU} here")
        return
    tell("  booting it once, in a machine that is thrown away")
    try:
        tried = trial_boot.try_out(found, lambda sentence: tell(f"  {sentence}"))
    except ImageError as error:
        tell(f"  it did not boot: {error}")
        return
    for sentence in _promised(content, tried.promise):
        tell(f"  {sentence}")


def _promised(content: bytes, promise: "Promise | None") -> Iterator[str]:
    """Whether a machine says of itself what the manifest lets jobs expect."""
    from deskgrid.images.format.published import decode

    manifest, _ = decode(content)
    if promise is None:
        yield "its machine did not say what it is: what the manifest says of it was not compared"
        return
    said, written = set(promise.says), set(manifest.says)
    yield from (f"the manifest says {one.name} = {one.text}, its machine does not" for one in sorted(written - said))
    yield from (f"its machine says {one.name} = {one.text}, the manifest does not" for one in sorted(said - written))
    if manifest.free_bytes > promise.free_bytes:
        written_free, free = size(manifest.free_bytes), size(promise.free_bytes)
        yield f"the manifest promises {written_free} of free disk, its machine has {free}"
    if said == written and manifest.free_bytes <= promise.free_bytes:
        yield "its machine says of itself what the manifest says of it"
