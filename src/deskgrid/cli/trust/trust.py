"""`deskgrid trust`: who may say what a virtual machine boots. docs/trust.md explains it from the beginning.

Here: keys, roles and signatures. What concerns one image is in `trust_image`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deskgrid.cli.connect import Json
from deskgrid.cli.output import CommandFailed, Exit, show, show_json, tell
from deskgrid.cli.trust import image
from deskgrid.cli.trust.first_look import first_look
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
    editing,
    named,
    own_shelf,
    settle,
    show_approval,
    show_waiting,
    there,
    told,
    told_problems,
    waits,
)
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.model.values.text import plain

if TYPE_CHECKING:
    from deskgrid.images.trust.tufapi import Key

app = typer.Typer(help="Who may say what a virtual machine boots: keys and signatures.", no_args_is_help=True)


class KeyKind(StrEnum):
    """Kinds of keys that can be made."""

    ED25519 = "ed25519"
    ECDSA = "ecdsa"


Role = Annotated[
    str,
    typer.Argument(help="administrators, online, root, targets, PROJECT-researcher or PROJECT-approver."),
]
Threshold = Annotated[int | None, typer.Option("--threshold", help="How many of the role's keys must sign.")]


@app.command("new-key")
def new_key(
    file: Annotated[Path, typer.Argument(help="Where the key goes; the public half goes beside it, as FILE.pub.")],
    owner: Annotated[str, typer.Option("--owner", help="Whose key it is: a name that others know.")],
    kind: Annotated[KeyKind, typer.Option("--kind", help="Kind of key.")] = KeyKind.ED25519,
    password_file: PasswordFile = None,
    library: Annotated[str, typer.Option("--token", help="The PKCS#11 library of a token that has the key.")] = "",
    number: Annotated[int, typer.Option("--token-key", help="Number of the key on the token.")] = 2,
    label: Annotated[str | None, typer.Option("--token-label", help="Label of the token.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key of your own, or name one that is on a token."""
    from deskgrid.images.trust.keys import make_key, take_token_key
    from deskgrid.images.trust.roles import owner as whose
    from deskgrid.images.trust.signing.covered import words_of

    with told():
        if library:
            key = take_token_key(file, owner, library, number, label, asks(password_file))
        else:
            password = asks(password_file, confirm=True)(f"password for {file}")
            key = make_key(file, owner, password, kind.value)
    public = f"{file}.pub"
    if as_json:
        show_json(
            {"keyid": key.keyid, "words": words_of(key.keyid), "owner": owner, "file": str(file), "public": public}
        )
        return
    tell(f"key of {whose(key)}: {file} is yours alone; keep it and its password apart from each other")
    tell(f"give {public} to the administrators; its words, to be read to them by telephone:")
    tell(f"  {words_of(key.keyid)}", style="bold")


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
    from deskgrid.images.trust.signing.editor import RepositoryEditor
    from deskgrid.images.trust.signing.repository import first_root, first_targets

    with told():
        shelf, now = RepositoryEditor(repository), datetime.now(UTC)
        keys = [read_public(path) for path in admins]
        root = first_root(keys, threshold, read_public(online), now)
        with shelf.editing(new=True):
            if shelf.newest("root") is not None:
                raise TrustError(Duty.REQUEST, "there", f"repository {repository}: there is one; nothing was changed")
            shelf.keep("root", root)
            shelf.keep("targets", first_targets(now))
        waits(shelf, as_json)


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
    from deskgrid.images.trust.signing.editor import keys_of
    from deskgrid.images.trust.signing.repository import GROUPS, key_named

    with told(), editing(repository) as shelf:
        now = datetime.now(UTC)
        if not add and not remove and threshold is None:
            for each in GROUPS.get(role, (role,)):
                if each in shelf.roles():
                    shelf.keep(each, shelf.draft(each, now))
        else:
            known: dict[str, Key] = {}
            for each in GROUPS.get(role, (role,)):
                known.update(keys_of(shelf, each, waiting=True) if remove else {})
            gone = [key_named(known, text).keyid for text in remove]
            shelf.rotate(role, now, [read_public(path) for path in add], gone, threshold)
        waits(shelf, as_json)


@app.command("status")
def status(
    repository: Repository = HERE,
    key: Annotated[
        Path | None, typer.Option("--key", help="Your key file: what is said follows from the root that you hold.")
    ] = None,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Say who has to sign what, what changed since the last version, and until when all is good."""
    from deskgrid.images.trust.signing.held import SignersMemory
    from deskgrid.images.trust.signing.status import status as state

    with told(), ExitStack() as stack:
        if key is not None:
            shelf, _, _ = stack.enter_context(own_shelf(repository, key, root))
        else:
            shelf = there(repository, SignersMemory.of(content_of(root)) if root is not None else None)
        found = state(shelf, differences)
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
        show_approval(approval)
    for which, why in found.revoked:
        tell(f"\n{which} is revoked: {why}")
    told_problems(found.problems)
    if not found.waiting and not found.approvals:
        tell("\nnothing waits for anybody")
    if shelf.held is None:
        tell("\nthis is what the folder says of itself: give --key or --root to see what follows from your own root")


@app.command("words")
def words(
    files: Annotated[list[Path], typer.Argument(help="Public keys, roots, manifests.")], as_json: Json = False
) -> None:
    """Say what two people read to each other, to know that they have the same key, root or manifest."""
    from deskgrid.images.trust.signing.covered import words_of

    with told():
        found = [(file, *named(file)) for file in files]
    if as_json:
        show_json(
            [{"file": plain(str(file)), "what": what, "words": words_of(it), "sha256": it} for file, what, it in found]
        )
    for file, what, it in () if as_json else found:
        tell(f"{file}: {what}, {it}, in words:")
        tell(f"  {words_of(it)}", style="bold")


@app.command("sign")
def sign(
    key: KeyFile,
    only: Annotated[
        list[str] | None, typer.Option("--role", help="Only this role; all that wait if not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    password_file: PasswordFile = None,
    repository: Repository = HERE,
    root: Root = None,
    as_json: Json = False,
) -> None:
    """Sign what waits and your key may sign. What has enough signatures is published."""
    from deskgrid.images.trust.keys import open_signer
    from deskgrid.images.trust.signing.status import waits_in

    with told(), own_shelf(repository, key, root, first=True) as (shelf, held, holding):
        signer = open_signer(key, asks(password_file))
        problems: list[str] = []
        mine = shelf.signable(signer)
        waits_ = waits_in(shelf, [role for role in shelf.roles() if not only or role in only], problems)
        shown = {wait.role: wait.payload for wait in waits_ if wait.role in mine}
        if not shown:
            also = "".join(f"; {problem}" for problem in problems)
            raise TrustError(
                Duty.REQUEST,
                "nothing",
                f"key {key}: nothing waits that it may sign; see `deskgrid trust status`{also}",
            )
        if "root" not in shown and not held.roots and holding.read() is None:
            raise TrustError(
                Duty.REQUEST,
                "no-root",
                "root: you hold none yet, so sign the first one before, or with, anything else",
            )
        for wait in waits_ if not as_json else ():
            if wait.role in shown:
                show_waiting(wait)
        agree("sign this?", yes, as_json)
        with shelf.editing():
            signed = shelf.sign(signer, tuple(shown), shown)
            holding.keep(held)
            settle(shelf, signed, as_json, problems)


@app.command("merge")
def merge(
    copy: Annotated[Path, typer.Argument(help="A copy of the repository that others signed in.")],
    repository: Repository = HERE,
    as_json: Json = False,
) -> None:
    """Take over the signatures of a copy, such as one that was signed on a computer without a network."""
    from deskgrid.images.trust.signing.editor import RepositoryEditor

    with told(), editing(repository) as shelf:
        gained = shelf.merge(RepositoryEditor(copy))
        if not gained:
            raise TrustError(
                Duty.REQUEST, "nothing", f"copy {copy}: it has no signature that lacks here for the same content"
            )
        settle(shelf, gained, as_json)


@app.command("renew")
def renew(
    key: KeyFile, password_file: PasswordFile = None, repository: Repository = HERE, as_json: Json = False
) -> None:
    """As the coordinator's host: show desktops what is signed, and say that it is current."""
    from deskgrid.images.trust.keys import open_signer
    from deskgrid.images.trust.signing.online import renew as renew_now

    with told():
        done = renew_now(repository, open_signer(key, asks(password_file)), datetime.now(UTC))
    if as_json:
        show_json(done)
    else:
        tell(f"snapshot {done.snapshot}, timestamp {done.timestamp}, good until {done.expires_at:%Y-%m-%d %H:%M} UTC")
        for problem in done.problems:
            tell(f"not shown to desktops: {problem}")
    if done.problems:
        raise CommandFailed(Exit.NO, f"{len(done.problems)} of the signed roles can't be shown to desktops")


app.command("propose")(image.propose)
app.command("approve")(image.approve)
app.command("point")(image.point)
app.command("revoke")(image.revoke)
app.command("verify")(image.verify)
app.command("first-look")(first_look)
