"""`deskgrid trust approve --look`: the image unpacked, compared with one's own build, booted once."""

from pathlib import Path
from typing import TYPE_CHECKING

from deskgrid.cli.output import progress, tell
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.errors import Fault, TrustError

if TYPE_CHECKING:
    from deskgrid.images.chunks.publish import Source


def look_into(
    content: bytes, repository: Path, folder: Path, project_key: Path | None, built: Path | None, quiet: bool
) -> None:
    """Unpack the image of this manifest, and say what is found. Raises: TrustError, ImageError."""
    from deskgrid.images.chunks.keys import ProjectKey, read_key
    from deskgrid.images.chunks.unpack import same_as_built, unpack

    if project_key is None:
        raise TrustError(
            Fault.REQUEST, "no-project-key", "look: expected --project-key, since the image is encrypted with it"
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
            raise TrustError(Fault.SIGNERS, "not-as-built", f"image in {folder}: {'; '.join(faults)}: don't approve it")
    if quiet:
        return
    tell(f"  unpacked into {folder}: look into it, such as with `losetup --read-only --partscan`")
    if built is not None:
        tell(f"  every byte is the same as in your build {built}")
    _boot(found)


def _boot(found: "Source") -> None:
    from deskgrid.images.chunks import trial_boot

    if not trial_boot.possible():
        tell(f"  not booted: there is no {trial_boot.QEMU} here")
        return
    tell("  booting it once, in a machine that is thrown away")
    try:
        trial_boot.first_reads(found, lambda sentence: tell(f"  {sentence}"))
    except ImageError as error:
        tell(f"  it did not boot: {error}")
