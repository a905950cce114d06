"""What all commands of `deskgrid trust` share: options, how keys are opened, what is shown of what waits.

What python-tuf brings is imported by what needs it: every other command, the agent's too, goes without.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deskgrid.cli.output import CommandFailed, Exit, show_json, tell
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.values import Version, version

if TYPE_CHECKING:
    from deskgrid.images.trust.keys import Ask
    from deskgrid.images.trust.signing.editor import RepositoryEditor
    from deskgrid.images.trust.signing.held import MemoryFile, SignersMemory
    from deskgrid.images.trust.signing.status import Approval, WaitingRole
    from deskgrid.images.trust.tufapi import Signer

Repository = Annotated[
    Path, typer.Option("--repository", envvar="DESKGRID_TRUST", help="Folder of the repository; here if not given.")
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File with the key's password or PIN; asked for if not given.")
]
KeyFile = Annotated[Path, typer.Argument(help="Your key file.")]
Root = Annotated[
    Path | None,
    typer.Option("--root", help="The root that your administrators gave you; needed once: it is kept beside your key."),
]
HERE = Path()
_CODES = {
    Duty.REQUEST: Exit.WRONG,
    Duty.SIGNERS: Exit.REFUSED,
    Duty.REPOSITORY: Exit.NO,
    Duty.NETWORK: Exit.UNREACHABLE,
    Duty.DESKTOP: Exit.NO,
}
_ABSENT = ("no-image", "no-project", "no-version", "no-repository", "no-key", "no-role")


def parts(image: str) -> tuple[str, str, str]:
    parts = image.split("/")
    if len(parts) != 3:
        raise TrustError(Duty.REQUEST, "bad-name", f"image: got {image!r}, expected PROJECT/IMAGE/VERSION")
    return parts[0], parts[1], parts[2]


def image_of(image: str) -> Version:
    return version(*parts(image))


@contextmanager
def told() -> Iterator[None]:
    """What is not trusted becomes a sentence and an exit code."""
    try:
        yield
    except TrustError as error:
        raise CommandFailed(Exit.ABSENT if error.code in _ABSENT else _CODES[error.fault], str(error)) from None


def there(folder: Path, held: "SignersMemory | None" = None) -> "RepositoryEditor":
    from deskgrid.images.trust.signing.editor import RepositoryEditor

    shelf = RepositoryEditor(folder, held)
    shelf.must_be_there()
    return shelf


@contextmanager
def own_shelf(
    folder: Path, key: Path, root: Path | None, first: bool = False
) -> "Iterator[tuple[RepositoryEditor, SignersMemory, MemoryFile]]":
    """The repository as the owner of this key sees it: what follows from the root that he holds beside his key.

    What he saw there is kept, also when he then says no. first: he may hold no root yet, if the very first one waits.
    """
    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.signing.held import MemoryFile

    read_public(key)
    holding = MemoryFile(key)
    held = holding.begin(root) if root is not None else holding.read()
    shelf = there(folder, held)
    if first:
        shelf.begin()
    if shelf.held is None:
        raise TrustError(
            Duty.REQUEST,
            "no-root",
            f"key {key}: you hold no root yet that this repository follows from, and what lies in its folder is no "
            "witness for itself: get the file 1.root.json from your administrators, compare its words with theirs by "
            "telephone (`deskgrid trust words 1.root.json`), and say `--root 1.root.json` once",
        )
    try:
        yield shelf, shelf.held, holding
    finally:
        if shelf.held.seen:
            holding.keep(shelf.held)


@contextmanager
def signing(
    folder: Path, key: Path, password_file: Path | None, root: Path | None = None
) -> "Iterator[tuple[RepositoryEditor, Signer]]":
    """Open the key before the repository is locked: while a person looks for a password, the coordinator goes on."""
    from deskgrid.images.trust.keys import open_signer

    with own_shelf(folder, key, root) as (shelf, _, _):
        signer = open_signer(key, asks(password_file))
        with shelf.editing():
            yield shelf, signer


@contextmanager
def editing(folder: Path) -> "Iterator[RepositoryEditor]":
    from deskgrid.images.trust.signing.editor import RepositoryEditor

    shelf = RepositoryEditor(folder)
    with shelf.editing():
        yield shelf


def asks(file: Path | None, confirm: bool = False) -> "Ask":
    def ask(what: str) -> str:
        if file is None:
            return str(typer.prompt(what, hide_input=True, confirmation_prompt=confirm, err=True))
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            raise TrustError(Duty.REQUEST, "no-password", f"password file {file}: can't be read: {reason}") from None

    return ask


def sign_project(shelf: "RepositoryEditor", wanted: Version, signer: "Signer", side: str, as_json: bool) -> None:
    """Show what was drafted in this process, and sign just that: the folder is not asked again what it is."""
    from deskgrid.images.trust.roles import owner
    from deskgrid.images.trust.signing.editor import changed
    from deskgrid.images.trust.signing.status import waiting

    role = f"{wanted.project}-{side}"
    wait, drafted = waiting(shelf, role), shelf.drafted[role]
    if wait is None or wait.payload != drafted.payload:
        raise changed(f"role {role}: what waits")
    others = [change for path, change in zip(wait.paths, wait.changes, strict=False) if path not in drafted.paths]
    if others:
        raise TrustError(
            Duty.REQUEST,
            "more-waits",
            f"role {role}: more waits there than {wanted}: {'; '.join(others)}; see `deskgrid trust status`, "
            "and sign all of it with `deskgrid trust sign` or delete it from the folder `pending`",
        )
    if not as_json:
        show_waiting(wait)
    signed = shelf.sign(signer, (role,), {role: drafted.payload})
    if not signed:
        raise TrustError(
            Duty.REQUEST,
            "wrong-key",
            f"key {owner(signer.public_key)}: it may not sign for {role}; what was prepared waits for a key that may",
        )
    settle(shelf, signed, as_json)


def settle(shelf: "RepositoryEditor", signed: Sequence[str], as_json: bool, problems: Sequence[str] = ()) -> None:
    """Move what is complete, and say what was done. problems: of what waits elsewhere, found before."""
    found = [*problems]
    published = shelf.settle(found)
    found = list(dict.fromkeys(found))
    if as_json:
        show_json({"signed": signed, "published": published, "problems": found})
        return
    told_problems(found)
    for role in signed:
        tell(f"signed: {role}")
    for role in published:
        tell(f"complete: {role}; desktops see it when the coordinator renews next")
    waits(shelf, False)


def show_approval(approval: "Approval") -> None:
    from deskgrid.images.trust.signing.covered import words_of

    before = f", beside {approval.before}" if approval.before else ""
    is_latest = "; it is to be the latest" if approval.latest else ""
    tell(f"{approval.version} waits for its approver{before}{is_latest}:", style="bold")
    if approval.entry is not None:
        tell(f"  SHA-256 of its manifest: {approval.entry.sha256} ({approval.entry.size_bytes} bytes)")
        tell(f"  in words, as its researcher reads them to you: {words_of(approval.entry.sha256)}")
    tell("\n".join(f"  {change}" for change in (approval.becomes, *approval.changes) if change))


def agree(question: str, yes: bool, as_json: bool) -> None:
    """Ask before something is signed. Raises: CommandFailed, TrustError when nobody could have seen what."""
    if yes:
        return
    if as_json:
        raise TrustError(
            Duty.REQUEST,
            "not-shown",
            "--json: it shows nobody what would be signed, so nobody can be asked; look at `deskgrid trust status`, "
            "then say `--yes` too, or leave `--json` out",
        )
    if not typer.confirm(question, err=True):
        raise CommandFailed(Exit.NO, "not signed")


def told_problems(problems: Sequence[str]) -> None:
    for problem in problems:
        tell(f"not to be signed: {problem}")


def show_waiting(wait: "WaitingRole") -> None:
    tell(f"{wait.role} version {wait.version}, good until {wait.expires_at:%Y-%m-%d}:", style="bold")
    tell("\n".join(f"  {change}" for change in wait.changes))


def waits(shelf: "RepositoryEditor", as_json: bool) -> None:
    from deskgrid.images.trust.signing.status import waits_in

    problems: list[str] = []
    found = waits_in(shelf, shelf.roles(), problems)
    if as_json:
        show_json({"waiting": found, "problems": problems})
        return
    for each in found:
        tell(f"{each.role} version {each.version}: {each.sentence}")


def content_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise TrustError(Duty.REQUEST, "no-file", f"file {file}: can't be read: {error.strerror}") from None


def named(file: Path) -> tuple[str, str]:
    """What a file is, and the digest that people compare: of a key its id, of a root what its signatures are over."""
    import hashlib

    from deskgrid.images.trust.keys import read_public
    from deskgrid.images.trust.roles import owner
    from deskgrid.images.trust.signing.held import digest_of, root_of

    content = content_of(file)
    try:
        key = read_public(file)
        return f"key of {owner(key).split(' ')[0]}", key.keyid
    except TrustError as error:
        if error.code != "bad-key":
            raise
    with suppress(TrustError):
        root = root_of(content)
        return f"root version {root.signed.version}", digest_of(root)
    return "file", hashlib.sha256(content).hexdigest()


def differences(before: bytes | None, after: bytes) -> Sequence[str]:
    from deskgrid.images.publish.review import differences

    return differences(before, after)
