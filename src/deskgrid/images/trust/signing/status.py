"""Who has to sign what, until when what is signed is good, and what changed for whom is asked to approve.

Rules:
- Nothing here changes anything: a repository and a time in, sentences and values out.
- What is compared with is what follows by valid signatures from the root that is held (folder.py), and everything that
  a signature would cover is shown, or refused (form.py): keys whole and in words, entries with their digests.
- What may not follow what is settled is not told as something to sign, but as a problem, which stops no other role.
- What waits is shown with the names of those who have signed, and of those who may; "waiting for 1 of alice, bob".
- The differences between two manifests are found by a callable, so that nothing here need know what a manifest is.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from deskgrid.images.contract import ImageError
from deskgrid.images.trust.errors import TrustError
from deskgrid.images.trust.pointer import decode
from deskgrid.images.trust.roles import (
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    delegated,
    entry_of,
    owner,
    parse_path,
    project_roles,
    projects,
)
from deskgrid.images.trust.signing.covered import changes_of, pointer_change
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.tufapi import Targets
from deskgrid.images.trust.values import LATEST, ListedVersion, Version

Differences = Callable[[bytes | None, bytes], Sequence[str]]
"""What a person should know of a new manifest beside the one before; None: there was none."""

SOON = timedelta(days=30)


class WaitingRole(msgspec.Struct, frozen=True):
    """A role whose next version waits for signatures.

    missing: how many signatures still lack. signed, may_sign: whose keys. changes: what it would change. paths: of a
    project's role, what it would say differently. payload: what a signature is made over.
    """

    role: str
    version: int
    expires_at: datetime
    missing: int
    signed: tuple[str, ...]
    may_sign: tuple[str, ...]
    changes: tuple[str, ...]
    paths: tuple[str, ...] = ()
    payload: bytes = b""

    @property
    def sentence(self) -> str:
        """For people."""
        return f"waiting for {self.missing} of {', '.join(self.may_sign) or 'nobody'}" if self.missing else "complete"


class Approval(msgspec.Struct, frozen=True):
    """What its researcher has signed and its approver has not: a version, or that `latest` becomes it.

    latest: it is to be the latest. entry, pointer: what the researcher signed for it, and for `latest`. becomes: what
    `latest` would say.
    """

    version: Version
    before: str | None
    latest: bool
    changes: tuple[str, ...]
    entry: ListedVersion | None = None
    pointer: ListedVersion | None = None
    becomes: str = ""


class PublishedRole(msgspec.Struct, frozen=True):
    """A role as it is published. good: enough of its keys of today have signed it."""

    role: str
    version: int
    expires_at: datetime
    good: bool
    keys: tuple[str, ...]
    threshold: int

    def state(self, now: datetime) -> str:
        """For people."""
        if not self.good:
            return "not signed by enough of its keys: sign again"
        if self.expires_at <= now:
            return "expired: sign again"
        return "expires soon: sign again" if self.expires_at - now < SOON and self.role not in _ONLINE else "good"


_ONLINE = (SNAPSHOT, TIMESTAMP)


class SigningStatus(msgspec.Struct, frozen=True):
    """The whole status. problems: what lies there and can't be shown, signed or approved, a sentence each."""

    waiting: tuple[WaitingRole, ...]
    approvals: tuple[Approval, ...]
    held: tuple[PublishedRole, ...]
    revoked: tuple[tuple[Version, str], ...]
    problems: tuple[str, ...] = ()


def status(shelf: RepositoryEditor, differences: Differences) -> SigningStatus:
    """Say how a repository stands. Raises: TrustError when it can't be read."""
    problems: list[str] = []
    return SigningStatus(
        waits_in(shelf, shelf.roles(), problems),
        tuple(one for project in _projects(shelf) for one in _approvals(shelf, project, differences, problems)),
        tuple(found for role in (*shelf.roles(), SNAPSHOT, TIMESTAMP) if (found := _held(shelf, role))),
        tuple(revocations(shelf)),
        tuple(problems),
    )


def waits_in(shelf: RepositoryEditor, roles: Sequence[str], problems: list[str]) -> tuple[WaitingRole, ...]:
    """What waits in these roles.

    Args:
        problems: takes a sentence for each role in which something lies that can't be signed.

    Raises: TrustError when the folder lacks what was seen in one of the roles.
    """
    found = []
    for role in roles:
        shelf.settled(role)
        try:
            one = waiting(shelf, role)
        except TrustError as error:
            problems.append(str(error))
            continue
        if one is not None:
            found.append(one)
    return tuple(found)


def waiting(shelf: RepositoryEditor, role: str) -> WaitingRole | None:
    """What waits in a role; None: nothing. Raises: TrustError when it can't be told, or may not follow what is."""
    pending = shelf.pending(role)
    if pending is None:
        return None
    shelf.check_next(role, pending)
    results = shelf.verification(role, pending)
    signed = {keyid: key for result in results for keyid, key in result.signed.items()}
    lacks = {
        k: key for result in results if not result.verified for k, key in result.unsigned.items() if k not in signed
    }
    settled, former = shelf.settled(role), shelf.former(role)
    return WaitingRole(
        role,
        pending.signed.version,
        pending.signed.expires,
        max((result.missing for result in results), default=1),
        tuple(sorted(map(owner, signed.values()))),
        tuple(sorted(map(owner, lacks.values()))),
        *changes_of(shelf, settled and settled.signed, pending.signed, former and former.signed),
        pending.signed_bytes,
    )


def approvals_of(shelf: RepositoryEditor, project: str, differences: Differences) -> Sequence[Approval]:
    """What the researcher of one project has signed and its approver has not. Raises: ImageError."""
    researcher, approver = (shelf.settled(role) for role in project_roles(project))
    if researcher is None:
        return ()
    return _unapproved(shelf, researcher.signed, approver.signed if approver else None, differences)


def _approvals(
    shelf: RepositoryEditor, project: str, differences: Differences, problems: list[str]
) -> Sequence[Approval]:
    try:
        return approvals_of(shelf, project, differences)
    except ImageError as error:
        problems.append(f"project {project}: what waits for its approver can't be told: {error}")
        return ()


def _projects(shelf: RepositoryEditor) -> Sequence[str]:
    targets = shelf.settled(TARGETS)
    return projects(targets.signed) if targets else ()


def revocations(shelf: RepositoryEditor) -> Sequence[tuple[Version, str]]:
    """What is revoked by either role of its project, with the reason: what the coordinator ends. Raises: TrustError."""
    targets = shelf.settled("targets")
    found: dict[Version, str] = {}
    for role in delegated(targets.signed) if targets else ():
        held = shelf.settled(role)
        for path in held.signed.targets if held else ():
            entry, version = entry_of(held.signed, path) if held else None, parse_path(path)
            if entry is not None and version is not None and entry.revoked is not None:
                found[version] = entry.revoked
    return sorted(found.items())


def _unapproved(
    shelf: RepositoryEditor, theirs: Targets, mine: Targets | None, differences: Differences
) -> list[Approval]:
    found = []
    for path in sorted(theirs.targets):
        version, entry = parse_path(path), entry_of(theirs, path)
        if version is None or entry is None or entry.revoked is not None:
            continue
        approved = entry_of(mine, path) if mine else None
        if version.version == LATEST or (
            approved is not None and (approved.revoked is not None or approved == entry.plain)
        ):
            continue
        before = _before(mine, version, entry) if mine else None
        content = shelf.manifest(before[0].path, before[1]) if before else None
        changes = tuple(differences(content, shelf.manifest(path, entry)))
        pointer = entry_of(theirs, version.latest) if _is_latest(shelf, theirs, version) else None
        found.append(
            Approval(
                version,
                before[0].version if before else None,
                pointer is not None,
                changes,
                entry.plain,
                pointer and pointer.plain,
                pointer_change(shelf, version, mine, pointer.plain) if pointer else "",
            )
        )
    return found + _moved(shelf, theirs, mine, {each.version for each in found})


def _moved(shelf: RepositoryEditor, theirs: Targets, mine: Targets | None, told: set[Version]) -> list[Approval]:
    """Pointers that the researcher moved to a version that was approved before."""
    found = []
    for path in sorted(theirs.targets):
        entry, image = entry_of(theirs, path), parse_path(path)
        if image is None or entry is None or image.version != LATEST or (mine and entry_of(mine, path) == entry.plain):
            continue
        pointer = decode(path, shelf.manifest(path, entry))
        version = Version(image.project, image.image, pointer.version)
        if version not in told:
            becomes = pointer_change(shelf, image, mine, entry.plain)
            known = entry_of(theirs, version.path)
            found.append(
                Approval(version, None, True, ("no new content",), known and known.plain, entry.plain, becomes)
            )
    return found


def _is_latest(shelf: RepositoryEditor, theirs: Targets, version: Version) -> bool:
    try:
        pointer = shelf.pointer(theirs, version)
    except TrustError:
        return False
    return pointer is not None and pointer.version == version.version


def _before(mine: Targets, version: Version, entry: ListedVersion) -> tuple[Version, ListedVersion] | None:
    """The approved version of the same image that comes before."""
    older = [
        (other.number, parsed, other)
        for path in mine.targets
        if (parsed := parse_path(path)) is not None
        and (parsed.project, parsed.image) == (version.project, version.image)
        and parsed.version != LATEST
        and (other := entry_of(mine, path)) is not None
        and other.number < entry.number
    ]
    return max(older)[1:] if older else None


def _held(shelf: RepositoryEditor, role: str) -> PublishedRole | None:
    settled = shelf.settled(role)
    if settled is None:
        return None
    results = shelf.verification(role, settled)
    last = results[-1] if results else None
    keys = {**last.signed, **last.unsigned} if last else {}
    return PublishedRole(
        role,
        settled.signed.version,
        settled.signed.expires,
        bool(results) and all(results),
        tuple(sorted(map(owner, keys.values()))),
        last.threshold if last else 0,
    )
