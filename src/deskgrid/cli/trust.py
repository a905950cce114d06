"""`deskgrid trust`: who may say what a virtual machine boots. docs/trust.md explains it from the beginning.

What python-tuf brings is imported by the commands that need it: every other command, the agent's too, goes without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deskgrid.cli.office import Json
from deskgrid.cli.output import Exit, Failed, show, show_json, tell
from deskgrid.images.trust.errors import Fault, TrustError
from deskgrid.images.trust.words import Version, version

if TYPE_CHECKING:
    from deskgrid.images.trust.keys import Ask
    from deskgrid.images.trust.shelf import Shelf
    from deskgrid.images.trust.status import Approval
    from deskgrid.images.trust.tufapi import Key, Signer

app = typer.Typer(help="Who may say what a virtual machine boots: keys and signatures.", no_args_is_help=True)


class Kind(StrEnum):
    """Kinds of keys that can be made."""

    ED25519 = "ed25519"
    ECDSA = "ecdsa"


Repository = Annotated[
    Path, typer.Option("--repository", envvar="DESKGRID_TRUST", help="Folder of the repository; here if not given.")
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the key's password or PIN; asked for if not given.")
]
Image = Annotated[str, typer.Argument(help="PROJECT/IMAGE/VERSION.")]
KeyFile = Annotated[Path, typer.Argument(help="Your key file.")]
Role = Annotated[
    str,
    typer.Argument(help="administrators, online, root, targets, PROJECT-researcher or PROJECT-approver."),
]
Threshold = Annotated[int | None, typer.Option("--threshold", help="How many of the role's keys must sign.")]
HERE = Path()
_CODES = {
    Fault.REQUEST: Exit.WRONG,
    Fault.SIGNERS: Exit.REFUSED,
    Fault.REPOSITORY: Exit.NO,
    Fault.NETWORK: Exit.UNREACHABLE,
    Fault.DESKTOP: Exit.NO,
}
_ABSENT = ("no-image", "no-project", "no-version", "no-repository", "no-key", "no-role")


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where the key goes; the public half goes beside it, as FILE.pub.")],
    owner: Annotated[str, typer.Option("--owner", help="Whose key it is: a name that others know.")],
    kind: Annotated[Kind, typer.Option("--kind", help="Kind of key.")] = Kind.ED25519,
    password_file: PasswordFile = None,
    library: Annotated[str, typer.Option("--token", help="The PKCS#11 library of a token that has the key.")] = "",
    number: Annotated[int, typer.Option("--token-key", help="Number of the key on the token.")] = 2,
    label: Annotated[str | None, typer.Option("--token-label", help="Label of the token.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key of your own, or name one that is on a token."""
    from deskgrid.images.trust.keys import make_key, take_token_key
    from deskgrid.images.trust.roles import owner as whose

    with _told():
        if library:
            key = take_token_key(file, owner, library, number, label, _asks(password_file))
        else:
            password = _asks(password_file, confirm=True)(f"password for {file}")
            key = make_key(file, owner, password, kind.value)
    public = f"{file}.pub"
    if as_json:
        show_json({"keyid": key.keyid, "owner": owner, "file": str(file), "public": public})
        return
    tell(f"key of {whose(key)}: {file} is yours alone; keep it and its password apart from each other")
    tell(f"give {public} to the administrators; read its id {key.keyid[:8]} to them by telephone")


@app.command("init")
def init(
    admins: Annotated[list[Path], typer.Option("--admin", help="Public key of an administrator; give several.")],
    online: Annotated[Path, typer.Option("--online", help="Public key of the coordinator.")],
    threshold: Annotated[int, typer.Option("--threshold", help="How many administrators must sign.")] = 2,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Begin a repository: its first root and targets wait for the administrators' signatures."""
    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.repository import first_root, first_targets
    from deskgrid.images.trust.shelf import Shelf

    with _told():
        shelf, now = Shelf(repository), datetime.now(UTC)
        keys = [read_public(path) for path in admins]
        root = first_root(keys, threshold, read_public(online), now)
        with shelf.editing(new=True):
            if shelf.newest("root") is not None:
                raise TrustError(Fault.REQUEST, "there", f"repository {repository}: there is one; nothing was changed")
            shelf.keep("root", root)
            shelf.keep("targets", first_targets(now))
        _waits(shelf, as_json)


@app.command("add-key")
def add_key(
    role: Role,
    keys: Annotated[list[Path], typer.Argument(help="Public keys.")],
    threshold: Threshold = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Let somebody sign for a role; a project's role is made with its first key."""
    rotate(role, add=keys, remove=[], threshold=threshold, repository=repository, as_json=as_json)


@app.command("rotate")
def rotate(
    role: Role,
    add: Annotated[list[Path], typer.Option("--add", help="Public key that comes.")] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option("--remove", help="Owner or id of a key that goes.")] = [],  # noqa: B006
    threshold: Threshold = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Change a role's keys; without changes: give what it signed a new life before it expires."""
    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.repository import GROUPS, key_named
    from deskgrid.images.trust.shelf import keys_of

    with _told(), _editing(repository) as shelf:
        now = datetime.now(UTC)
        if not add and not remove and threshold is None:
            for each in GROUPS.get(role, (role,)):
                if each in shelf.roles():
                    shelf.keep(each, shelf.draft(each, now))
        else:
            known: dict[str, Key] = {}
            for each in GROUPS.get(role, (role,)):
                known.update(keys_of(shelf, each) if remove else {})
            gone = [key_named(known, text).keyid for text in remove]
            shelf.rotate(role, now, [read_public(path) for path in add], gone, threshold)
        _waits(shelf, as_json)


@app.command("status")
def status(repository: Repository = HERE, as_json: Json = False) -> None:
    """Say who has to sign what, what changed since the last version, and until when all is good."""
    from deskgrid.images.trust.status import status as state

    with _told():
        found = state(_there(repository))
    if as_json:
        show_json(found)
        return
    now = datetime.now(UTC)
    rows: list[Sequence[object]] = [
        (each.role, each.version, each.expires_at, f"{each.threshold} of {', '.join(each.keys)}", each.state(now))
        for each in found.held
    ]
    show(found, False, ("role", "version", "good until", "signed by", "state"), rows)
    for wait in found.waiting:
        tell(f"\n{wait.role} version {wait.version}: {wait.sentence}", style="bold")
        tell("\n".join(f"  {change}" for change in wait.changes))
        tell(f"  signed by: {', '.join(wait.signed) or 'nobody'}")
    for approval in found.approvals:
        tell("")
        _show_approval(approval)
    for which, why in found.revoked:
        tell(f"\n{which} is revoked: {why}")
    if not found.waiting and not found.approvals:
        tell("\nnothing waits for anybody")


@app.command("sign")
def sign(
    key: KeyFile,
    only: Annotated[
        list[str] | None, typer.Option("--role", help="Only this role; all that wait if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Sign what waits and your key may sign. What has enough signatures is published."""
    from deskgrid.images.trust.keys import open_signer

    with _told():
        shelf, signer = _there(repository), open_signer(key, _asks(password_file))
        shown = {role: shelf.payload(role) for role in shelf.signable(signer) if not only or role in only}
        if not shown:
            raise TrustError(
                Fault.REQUEST, "nothing", f"key {key}: nothing waits that it may sign; see `deskgrid trust status`"
            )
        for role in shown:
            _show_waiting(shelf, role, as_json)
        if not yes and not typer.confirm("sign this?", err=True):
            raise Failed(Exit.NO, "not signed")
        with shelf.editing():
            for role, payload in shown.items():
                if shelf.payload(role) != payload:
                    raise TrustError(
                        Fault.REQUEST, "changed", f"role {role}: what waits was changed since it was shown; look again"
                    )
            _settle(shelf, shelf.sign(signer, tuple(shown)), as_json)


@app.command("merge")
def merge(
    copy: Annotated[Path, typer.Argument(help="A copy of the repository that others signed in.")],
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Take over the signatures of a copy, such as one that was signed on a computer without a network."""
    from deskgrid.images.trust.shelf import Shelf

    with _told(), _editing(repository) as shelf:
        gained = shelf.merge(Shelf(copy))
        if not gained:
            raise TrustError(
                Fault.REQUEST, "nothing", f"copy {copy}: it has no signature that lacks here for the same content"
            )
        _settle(shelf, gained, as_json)


@app.command("propose")
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
    with _told():
        wanted = _image(image)
        try:
            content = manifest.read_bytes()
        except OSError as error:
            raise TrustError(
                Fault.REQUEST, "no-manifest", f"manifest {manifest}: can't be read: {error.strerror}"
            ) from None
        with _signing(repository, key, password_file) as (shelf, signer):
            shelf.propose(wanted, content, datetime.now(UTC), latest)
            _sign_project(shelf, wanted, signer, "researcher", as_json)


@app.command("approve")
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

    with _told():
        wanted = _image(image)
        asked = [each for each in approvals(_there(repository)) if each.version == wanted]
        if not asked:
            raise TrustError(Fault.REQUEST, "nothing", f"image {wanted}: it does not wait for its approver")
        for each in asked if not as_json else ():
            _show_approval(each)
        if not yes and not typer.confirm(f"approve {wanted}?", err=True):
            raise Failed(Exit.NO, "not approved")
        with _signing(repository, key, password_file) as (shelf, signer):
            if [each for each in approvals(shelf) if each.version == wanted] != asked:
                raise TrustError(
                    Fault.REQUEST, "changed", f"image {wanted}: it was changed since it was shown; look again"
                )
            shelf.approve(wanted, datetime.now(UTC))
            _sign_project(shelf, wanted, signer, "approver", as_json)


@app.command("point")
def point(
    image: Image,
    key: KeyFile,
    back: Annotated[bool, typer.Option("--back", help="Also when it is older than what is the latest now.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """As a project's researcher: make a published version the latest; the approver must approve that too."""
    with _told():
        wanted = _image(image)
        with _signing(repository, key, password_file) as (shelf, signer):
            shelf.point(wanted, datetime.now(UTC), back)
            _sign_project(shelf, wanted, signer, "researcher", as_json)


@app.command("revoke")
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

    with _told():
        wanted, shelf, public = _image(image), _there(repository), read_public(key)
        held = [role for role in project_roles(wanted.project) if role in shelf.roles()]
        sides = [of[1] for role in held if public.keyid in keys_of(shelf, role) and (of := project_of(role))]
        if not sides:
            raise TrustError(Fault.REQUEST, "no-role", f"key {key}: it is in no role of project {wanted.project}")
        with _signing(repository, key, password_file) as (shelf, signer):
            shelf.revoke(f"{wanted.project}-{sides[0]}", wanted, reason, datetime.now(UTC))
            _sign_project(shelf, wanted, signer, sides[0], as_json)


@app.command("renew")
def renew(
    key: KeyFile, password_file: PasswordFile = None, repository: Repository = HERE, as_json: Json = False
) -> None:
    """As the coordinator's host: show desktops what is signed, and say that it is current."""
    from deskgrid.images.trust.keys import open_signer
    from deskgrid.images.trust.online import renew as renew_now

    with _told():
        done = renew_now(repository, open_signer(key, _asks(password_file)), datetime.now(UTC))
    if as_json:
        show_json(done)
    else:
        tell(f"snapshot {done.snapshot}, timestamp {done.timestamp}, good until {done.expires_at:%Y-%m-%d %H:%M} UTC")
        for problem in done.problems:
            tell(f"not shown to desktops: {problem}")
    if done.problems:
        raise Failed(Exit.NO, f"{len(done.problems)} of the signed roles can't be shown to desktops")


@app.command("verify")
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

    from deskgrid.images.trust.answer import opened
    from deskgrid.images.trust.ask import Place

    now = datetime.now(UTC)
    with (
        _told(),
        tempfile.TemporaryDirectory() as scratch,
        opened(
            Place(memory or Path(scratch), root, source if "://" in source else str(Path(source).absolute()))
        ) as trusted,
    ):
        freshness = trusted.refresh(now)
        project, name, number = _parts(image)
        wanted = trusted.latest(project, name, now) if number == "latest" else _image(image)
        size = len(trusted.manifest(wanted, now))
    if as_json:
        show_json({"version": wanted, "manifest_bytes": size, "freshness": freshness})
        return
    tell(f"{wanted} is trusted: signed by its researcher and its approver, manifest of {size} bytes")
    tell(f"until {freshness.expires_at:%Y-%m-%d %H:%M} UTC without news (root {freshness.root})")
    if freshness.offline:
        tell(f"from memory: {freshness.offline}")


# -------------------------------------------------------------------------------------------------------------


def _parts(image: str) -> tuple[str, str, str]:
    parts = image.split("/")
    if len(parts) != 3:
        raise TrustError(Fault.REQUEST, "bad-name", f"image: got {image!r}, expected PROJECT/IMAGE/VERSION")
    return parts[0], parts[1], parts[2]


def _image(image: str) -> Version:
    return version(*_parts(image))


@contextmanager
def _told() -> Iterator[None]:
    """What is not trusted becomes a sentence and an exit code."""
    try:
        yield
    except TrustError as error:
        raise Failed(Exit.ABSENT if error.code in _ABSENT else _CODES[error.fault], str(error)) from None


def _there(folder: Path) -> "Shelf":
    from deskgrid.images.trust.shelf import Shelf

    shelf = Shelf(folder)
    shelf.must_be_there()
    return shelf


@contextmanager
def _signing(folder: Path, key: Path, password_file: Path | None) -> "Iterator[tuple[Shelf, Signer]]":
    """Open the key before the repository is locked: while a person looks for a password, the coordinator goes on."""
    from deskgrid.images.trust.keys import open_signer

    shelf, signer = _there(folder), open_signer(key, _asks(password_file))
    with shelf.editing():
        yield shelf, signer


@contextmanager
def _editing(folder: Path) -> "Iterator[Shelf]":
    from deskgrid.images.trust.shelf import Shelf

    shelf = Shelf(folder)
    with shelf.editing():
        yield shelf


def _asks(file: Path | None, confirm: bool = False) -> "Ask":
    def ask(what: str) -> str:
        if file is None:
            return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise TrustError(Fault.REQUEST, "no-password", f"password file {file}: can't be read: {reason}") from None

    return ask


def _sign_project(shelf: "Shelf", wanted: Version, signer: "Signer", side: str, as_json: bool) -> None:
    from deskgrid.images.trust.roles import owner
    from deskgrid.images.trust.status import waiting

    role = f"{wanted.project}-{side}"
    waits = waiting(shelf, role)
    others = [each for each in waits.changes if not each.endswith((wanted.path, wanted.latest))] if waits else []
    if others:
        raise TrustError(
            Fault.REQUEST,
            "more-waits",
            f"role {role}: more waits there than {wanted}: {'; '.join(others)}; see `deskgrid trust status`, "
            "and sign all of it with `deskgrid trust sign` or delete it from the folder `pending`",
        )
    signed = shelf.sign(signer, (role,))
    if not signed:
        raise TrustError(
            Fault.REQUEST,
            "wrong-key",
            f"key {owner(signer.public_key)}: it may not sign for {role}; what was prepared waits for a key that may",
        )
    _settle(shelf, signed, as_json)


def _settle(shelf: "Shelf", signed: Sequence[str], as_json: bool) -> None:
    published = shelf.settle()
    if as_json:
        show_json({"signed": signed, "published": published})
        return
    for role in signed:
        tell(f"signed: {role}")
    for role in published:
        tell(f"complete: {role}; desktops see it when the coordinator renews next")
    _waits(shelf, False)


def _show_approval(approval: "Approval") -> None:
    before = f", beside {approval.before}" if approval.before else ""
    is_latest = "; it is to be the latest" if approval.latest else ""
    tell(f"{approval.version} waits for its approver{before}{is_latest}:", style="bold")
    tell("\n".join(f"  {change}" for change in approval.changes))


def _show_waiting(shelf: "Shelf", role: str, as_json: bool) -> None:
    from deskgrid.images.trust.status import waiting

    waits = waiting(shelf, role)
    if waits is None or as_json:
        return
    tell(f"{role} version {waits.version}, good until {waits.expires_at:%Y-%m-%d}:", style="bold")
    tell("\n".join(f"  {change}" for change in waits.changes))


def _waits(shelf: "Shelf", as_json: bool) -> None:
    from deskgrid.images.trust.status import waiting

    found = [each for role in shelf.roles() if (each := waiting(shelf, role))]
    if as_json:
        show_json({"waiting": found})
        return
    for each in found:
        tell(f"{each.role} version {each.version}: {each.sentence}")
