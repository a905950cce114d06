"""The commands of a project's researcher and approver, and of who checks an image as a desktop does."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import show_json, tell
from deskgrid.cli.trust.look import look_into
from deskgrid.cli.trust.shared import (
    HERE,
    KeyFile,
    PasswordFile,
    Repository,
    Root,
    agree,
    asks,
    content_of,
    differences,
    image_of,
    own_shelf,
    parts,
    show_approval,
    sign_project,
    signing,
    told,
)
from deskgrid.host.system.files import read_plain
from deskgrid.images.contract import ImageError
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.values import Version

Image = Annotated[str, typer.Argument(help="PROJECT/IMAGE/VERSION.")]


def propose(
    image: Image,
    manifest: Annotated[Path, typer.Argument(help="The manifest that `deskgrid image publish` left on your side.")],
    key: KeyFile,
    latest: Annotated[bool, typer.Option(help="It becomes the latest.")] = True,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """As a project's researcher: sign a version of an image."""
    with told():
        wanted = image_of(image)
        content = _published(wanted, manifest, repository)
        with signing(repository, key, password_file, root) as (shelf, signer):
            shelf.propose(wanted, content, datetime.now(UTC), latest)
            sign_project(shelf, wanted, signer, "researcher", as_json)


def approve(
    image: Image,
    key: KeyFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    look: Annotated[
        Path | None, typer.Option("--look", help="Unpack the image into this new folder first, and boot it once.")
    ] = None,
    project_key: Annotated[
        Path | None, typer.Option("--project-key", help="For --look: file with the key that encrypts the project.")
    ] = None,
    built: Annotated[
        Path | None, typer.Option("--built", help="For --look: your own build of it; every byte is compared.")
    ] = None,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """As a project's approver: see what changed, look into the image, and sign what the researcher signed."""
    from deskgrid.images.trust.keys import open_signer
    from deskgrid.images.trust.signing.editor import changed
    from deskgrid.images.trust.signing.status import approvals_of

    with told(), own_shelf(repository, key, root) as (shelf, _, _):
        wanted = image_of(image)
        asked = [each for each in approvals_of(shelf, wanted.project, differences) if each.version == wanted]
        if not asked:
            raise TrustError(Duty.REQUEST, "nothing", f"image {wanted}: it does not wait for its approver")
        for each in asked if not as_json else ():
            show_approval(each)
        entry, pointer = asked[0].entry, asked[0].pointer
        if look is not None and entry is not None:
            look_into(shelf.manifest(wanted.path, entry), repository, look, project_key, built, as_json)
        agree(f"approve {wanted}?", yes, as_json)
        signer = open_signer(key, asks(password_file))
        with shelf.editing():
            if [each for each in approvals_of(shelf, wanted.project, differences) if each.version == wanted] != asked:
                raise changed(f"image {wanted}: it")
            shelf.approve(wanted, datetime.now(UTC), {wanted.path: entry, wanted.latest: pointer})
            sign_project(shelf, wanted, signer, "approver", as_json)


def _published(wanted: Version, manifest: Path, repository: Path) -> bytes:
    """The manifest to sign. Raises: TrustError when it is not from the researcher's own side, or not what is there."""
    from deskgrid.images.format.published import decode
    from deskgrid.images.publish.publish import manifest_path

    if manifest.resolve().is_relative_to(repository.resolve()):
        raise TrustError(
            Duty.REQUEST,
            "foreign-manifest",
            f"manifest {manifest}: it lies in the repository's folder, where others may write; give the one that "
            "`deskgrid image publish` left on your own side",
        )
    content = content_of(manifest)
    try:
        made, _ = decode(content)
        differences(None, content)
    except ImageError as error:
        raise TrustError(Duty.REQUEST, "no-manifest", f"manifest {manifest}: it is none: {error}") from None
    if (made.project, made.name, made.version) != (wanted.project, wanted.image, wanted.version):
        raise TrustError(
            Duty.REQUEST,
            "other-manifest",
            f"manifest {manifest}: got the one of {made.project}/{made.name}/{made.version}, expected {wanted}'s",
        )
    there = manifest_path(repository, wanted.project, wanted.image, wanted.version)
    if there.exists() and _at(there, len(content)) != content:
        raise TrustError(
            Duty.REPOSITORY,
            "mixed",
            f"manifest {manifest}: it is not what lies at {there}: somebody changed that, or you published another "
            "image under this version; find out which before you sign",
        )
    return content


def _at(path: Path, most_bytes: int) -> bytes:
    """What lies in the repository, where others may write; nothing, if it can't be read."""
    try:
        return read_plain(path, most_bytes)
    except OSError:
        return b""


def point(
    image: Image,
    key: KeyFile,
    back: Annotated[bool, typer.Option("--back", help="Also when it is older than what is the latest now.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """As a project's researcher: make a published version the latest; the approver must approve that too."""
    with told():
        wanted = image_of(image)
        with signing(repository, key, password_file, root) as (shelf, signer):
            shelf.point(wanted, datetime.now(UTC), back)
            sign_project(shelf, wanted, signer, "researcher", as_json)


def revoke(
    image: Image,
    key: KeyFile,
    reason: Annotated[str, typer.Option("--reason", help="Why; people at the desktops read it.")],
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """As researcher or approver: end the use of a version everywhere, for ever. One signature is enough."""
    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.roles import project_of, project_roles
    from deskgrid.images.trust.signing.editor import keys_of

    with told():
        wanted, public = image_of(image), read_public(key)
        with signing(repository, key, password_file, root) as (shelf, signer):
            held = [role for role in project_roles(wanted.project) if role in shelf.roles()]
            sides = [of[1] for role in held if public.keyid in keys_of(shelf, role) and (of := project_of(role))]
            if not sides:
                raise TrustError(Duty.REQUEST, "no-role", f"key {key}: it is in no role of project {wanted.project}")
            shelf.revoke(f"{wanted.project}-{sides[0]}", wanted, reason, datetime.now(UTC))
            sign_project(shelf, wanted, signer, sides[0], as_json)


def verify(
    image: Image,
    root: Annotated[Path, typer.Option("--root", help="The root that is shipped with the agents.")],
    source: Annotated[str, typer.Option("--from", help="URL or folder of the repository.")],
    memory: Annotated[
        Path | None, typer.Option("--memory", help="Folder to remember in; forgotten if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check an image as a desktop does. VERSION may be `latest`."""
    import tempfile

    from deskgrid.images.trust.desktop.client import opened
    from deskgrid.images.trust.values import TrustConfiguration

    now = datetime.now(UTC)
    with (
        told(),
        tempfile.TemporaryDirectory() as scratch,
        opened(
            TrustConfiguration(
                memory or Path(scratch), root, source if "://" in source else str(Path(source).absolute())
            )
        ) as trusted,
    ):
        freshness = trusted.refresh(now)
        project, name, number = parts(image)
        wanted = trusted.latest(project, name, now) if number == "latest" else image_of(image)
        size = len(trusted.manifest(wanted, now))
    if as_json:
        show_json({"version": wanted, "manifest_bytes": size, "freshness": freshness})
        return
    tell(f"{wanted} is trusted: signed by its researcher and its approver, manifest of {size} bytes")
    tell(f"until {freshness.expires_at:%Y-%m-%d %H:%M} UTC without news (root {freshness.root})")
    if freshness.offline:
        tell(f"from memory: {freshness.offline}")
