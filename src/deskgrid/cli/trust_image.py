"""The commands of a project's researcher and approver, and of who checks an image as a desktop does."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deskgrid.cli.office import Json
from deskgrid.cli.output import Exit, Failed, show_json, tell
from deskgrid.cli.trust_shared import (
    HERE,
    KeyFile,
    PasswordFile,
    Repository,
    image_of,
    parts,
    show_approval,
    sign_project,
    signing,
    there,
    told,
)
from deskgrid.images.trust.errors import Fault, TrustError

if TYPE_CHECKING:
    pass

Image = Annotated[str, typer.Argument(help="PROJECT/IMAGE/VERSION.")]


def propose(
    image: Image,
    manifest: Annotated[Path, typer.Argument(help="The manifest that `deskgrid image publish` wrote.")],
    key: KeyFile,
    latest: Annotated[bool, typer.Option(help="It becomes the latest.")] = True,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """As a project's researcher: sign a version of an image."""
    with told():
        wanted = image_of(image)
        try:
            content = manifest.read_bytes()
        except OSError as error:
            raise TrustError(
                Fault.REQUEST, "no-manifest", f"manifest {manifest}: can't be read: {error.strerror}"
            ) from None
        with signing(repository, key, password_file) as (shelf, signer):
            shelf.propose(wanted, content, datetime.now(UTC), latest)
            sign_project(shelf, wanted, signer, "researcher", as_json)


def approve(
    image: Image,
    key: KeyFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """As a project's approver: see what changed, and sign what the researcher signed."""
    from deskgrid.images.trust.status import approvals

    with told():
        wanted = image_of(image)
        asked = [each for each in approvals(there(repository)) if each.version == wanted]
        if not asked:
            raise TrustError(Fault.REQUEST, "nothing", f"image {wanted}: it does not wait for its approver")
        for each in asked if not as_json else ():
            show_approval(each)
        if not yes and not typer.confirm(f"approve {wanted}?", err=True):
            raise Failed(Exit.NO, "not approved")
        with signing(repository, key, password_file) as (shelf, signer):
            if [each for each in approvals(shelf) if each.version == wanted] != asked:
                raise TrustError(
                    Fault.REQUEST, "changed", f"image {wanted}: it was changed since it was shown; look again"
                )
            shelf.approve(wanted, datetime.now(UTC))
            sign_project(shelf, wanted, signer, "approver", as_json)


def point(
    image: Image,
    key: KeyFile,
    back: Annotated[bool, typer.Option("--back", help="Also when it is older than what is the latest now.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """As a project's researcher: make a published version the latest; the approver must approve that too."""
    with told():
        wanted = image_of(image)
        with signing(repository, key, password_file) as (shelf, signer):
            shelf.point(wanted, datetime.now(UTC), back)
            sign_project(shelf, wanted, signer, "researcher", as_json)


def revoke(
    image: Image,
    key: KeyFile,
    reason: Annotated[str, typer.Option("--reason", help="Why; people at the desktops read it.")],
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """As researcher or approver: end the use of a version everywhere, for ever. One signature is enough."""
    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.roles import project_of, project_roles
    from deskgrid.images.trust.shelf import keys_of

    with told():
        wanted, shelf, public = image_of(image), there(repository), read_public(key)
        held = [role for role in project_roles(wanted.project) if role in shelf.roles()]
        sides = [of[1] for role in held if public.keyid in keys_of(shelf, role) and (of := project_of(role))]
        if not sides:
            raise TrustError(Fault.REQUEST, "no-role", f"key {key}: it is in no role of project {wanted.project}")
        with signing(repository, key, password_file) as (shelf, signer):
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

    from deskgrid.images.trust.opened import opened
    from deskgrid.images.trust.place import Place

    now = datetime.now(UTC)
    with (
        told(),
        tempfile.TemporaryDirectory() as scratch,
        opened(
            Place(memory or Path(scratch), root, source if "://" in source else str(Path(source).absolute()))
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
