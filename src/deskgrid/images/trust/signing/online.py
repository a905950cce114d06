"""The coordinator's part: list what is signed, and say that it is current.

Rules:
- The online key can say what is current and nothing else: what an image is, others sign.
- What is settled is checked again before it is listed. What fails is not listed, and is reported; the rest goes on.
- Called as often as one likes: it writes only when something is new, or a part of the life has gone.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec

from deskgrid.host.system.files import write_atomic
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import (
    ROOT,
    SNAPSHOT,
    SNAPSHOT_LIFE,
    TARGETS,
    TIMESTAMP,
    TIMESTAMP_LIFE,
    delegated,
    owner,
)
from deskgrid.images.trust.signing import repository
from deskgrid.images.trust.signing.editor import RepositoryEditor, add_signature
from deskgrid.images.trust.signing.served import Any_, content_of
from deskgrid.images.trust.tufapi import Metadata, MetaFile, Signer, Snapshot, Timestamp


class Renewed(msgspec.Struct, frozen=True):
    """What `renew` did. problems: what was settled but is not listed, a sentence each."""

    snapshot: int
    timestamp: int
    expires_at: datetime
    problems: tuple[str, ...] = ()


def renew(folder: Path, signer: Signer, now: datetime) -> Renewed:
    """What the coordinator calls every few minutes: settle, list, say that it is current. Raises: TrustError."""
    shelf = RepositoryEditor(folder)
    with shelf.editing(wait_seconds=0):
        problems: list[str] = []
        shelf.settle(problems)
        done = _list(shelf, signer, now)
        return msgspec.structs.replace(done, problems=(*problems, *done.problems))


def _list(shelf: RepositoryEditor, signer: Signer, now: datetime) -> Renewed:
    """List what is settled, and say that it is current. Called as often as one likes; writes only when it is due.

    Raises: TrustError when there is nothing to list, or `signer` is not root's online key.
    """
    root = shelf.settled(ROOT)
    if root is None or shelf.settled(TARGETS) is None:
        raise TrustError(
            Duty.SIGNERS,
            "unsigned",
            f"repository {shelf.folder}: root and targets wait for signatures; see `deskgrid trust status`",
        )
    if signer.public_key.keyid not in root.signed.roles[TIMESTAMP].keyids:
        raise TrustError(
            Duty.REQUEST, "wrong-key", f"key {owner(signer.public_key)}: root does not name it as the online key"
        )
    problems: list[str] = []
    snapshot = _snapshot(shelf, signer, now, problems)
    timestamp = _timestamp(shelf, signer, now, snapshot)
    return Renewed(snapshot.signed.version, timestamp.signed.version, timestamp.signed.expires, tuple(problems))


def _snapshot(shelf: RepositoryEditor, signer: Signer, now: datetime, problems: list[str]) -> Metadata[Snapshot]:
    before = shelf.settled(SNAPSHOT)
    meta = _meta(shelf, before.signed.meta if before else {}, problems)
    if before is not None and before.signed.meta == meta and before.signed.expires - now > SNAPSHOT_LIFE / 2:
        return before
    last = max(shelf.versions(SNAPSHOT), default=0)  # what lies there is never written over
    snapshot = repository.next_snapshot(before.signed if before else None, meta, now, last)
    add_signature(SNAPSHOT, snapshot, signer)
    write_atomic(shelf.metadata / f"{snapshot.signed.version}.snapshot.json", snapshot.to_bytes())
    return snapshot


def _timestamp(
    shelf: RepositoryEditor, signer: Signer, now: datetime, snapshot: Metadata[Snapshot]
) -> Metadata[Timestamp]:
    before = shelf.settled(TIMESTAMP)
    lists = repository.listed(_served(shelf, SNAPSHOT, snapshot), snapshot.signed.version)
    if before is not None and before.signed.snapshot_meta == lists:
        left = before.signed.expires - now
        if TIMESTAMP_LIFE * 0.75 < left <= TIMESTAMP_LIFE:
            return before
    timestamp = repository.next_timestamp(before.signed if before else None, lists, now)
    add_signature(TIMESTAMP, timestamp, signer)
    write_atomic(shelf.metadata / "timestamp.json", timestamp.to_bytes())
    return timestamp


def _meta(shelf: RepositoryEditor, before: Mapping[str, MetaFile], problems: list[str]) -> Mapping[str, MetaFile]:
    """What is current of each role: the newest that is settled, if it may follow what was listed before."""
    meta = dict(before)
    targets = cast(Any_, shelf.settled(TARGETS))
    for role in (TARGETS, *delegated(targets.signed)):
        name = f"{role}.json"
        listed = before[name].version if name in before else 0
        newest = shelf.settled(role)
        try:
            if newest is not None and newest.signed.version > listed:
                shelf.check(role, _as_listed(shelf, role, listed), newest)
                listed = newest.signed.version
                meta[name] = repository.listed(_served(shelf, role, newest), listed)
        except TrustError as error:
            problems.append(str(error))
        if listed and (newest is None or newest.signed.version < listed):
            problems.append(f"role {role}: version {listed} is not signed by enough of its keys of today: sign again")
        unsigned = [version for version in shelf.versions(role) if version > listed]
        if unsigned:
            problems.append(
                f"role {role}: version {unsigned[-1]} lies there, but is not signed by enough of its keys: sign again, "
                "or delete it"
            )
    return meta


def _as_listed(shelf: RepositoryEditor, role: str, version: int) -> Any_ | None:
    """What desktops were shown last of a role; None: nothing. Raises: TrustError when it is not there any more."""
    found = shelf.former(role, version) if version else None
    if version and found is None:
        raise TrustError(
            Duty.REPOSITORY,
            "missing",
            f"role {role}: version {version}, which desktops were shown, is not there as it was signed: copy it back",
        )
    return found


def _served(shelf: RepositoryEditor, role: str, metadata: Any_) -> bytes:
    """The file of metadata that were checked, as it is listed; written anew if it is not to the byte what was read."""
    place, content = shelf.metadata / f"{metadata.signed.version}.{role}.json", metadata.to_bytes()
    with suppress(OSError, TrustError):
        if content_of(place) == content:
            return content
    write_atomic(place, content)
    return content
