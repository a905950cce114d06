"""The publishing side as values: metadata in, metadata out, the time passed in. Nothing here reads or writes a file.

Rules:
- An edit gives the next version of one role's metadata, without signatures: who signed before must sign again.
- `check_successor` is what may follow what. Publishing asks it before anything is shown to desktops:
  a name and version keep their content and number for ever; what is revoked stays revoked; a role speaks only of its
  own project; versions of metadata count up.
- Keys are compared as keys (see roles.py): an edit that makes one key count twice is refused.
- Snapshot and timestamp name length and hash of what they list: nothing can be mixed, nothing is endless.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.pointer import next_pointer
from deskgrid.images.trust.roles import (
    OFFLINE,
    ONLINE,
    PROJECT_LIFE,
    ROOT,
    ROOT_LIFE,
    SNAPSHOT,
    SNAPSHOT_LIFE,
    SPEC_VERSION,
    TARGETS,
    TARGETS_LIFE,
    TIMESTAMP,
    TIMESTAMP_LIFE,
    check_project_keys,
    check_root_keys,
    entry_of,
    owner,
    parse_path,
    pattern,
    project_of,
    projects,
    target_file,
)
from deskgrid.images.trust.tufapi import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from deskgrid.images.trust.values import LATEST, MANIFEST_BYTES, ListedVersion, Pointer, Version, readable
from deskgrid.model.values.text import counted

S = TypeVar("S", Root, Snapshot, Targets, Timestamp)
ADMINISTRATORS, ONLINE_KEY = "administrators", "online"
GROUPS: Mapping[str, Sequence[str]] = {ADMINISTRATORS: OFFLINE, ONLINE_KEY: ONLINE, ROOT: (ROOT,), TARGETS: (TARGETS,)}
"""What may be named when root's keys change, and the roles that are meant."""
_LIVES = {ROOT: ROOT_LIFE, TARGETS: TARGETS_LIFE, SNAPSHOT: SNAPSHOT_LIFE, TIMESTAMP: TIMESTAMP_LIFE}


def life(role: str) -> timedelta:
    """How long a role's metadata are valid from when they are made."""
    return _LIVES.get(role, PROJECT_LIFE)


# -- administrators -------------------------------------------------------------------------------------------


def first_root(administrators: Sequence[Key], threshold: int, online: Key, now: datetime) -> Metadata[Root]:
    """Version 1 of root, unsigned. threshold: how many administrators must sign. Raises: TrustError."""
    root = Root(1, SPEC_VERSION, _until(now, ROOT_LIFE))
    for role, keys in ((ROOT, administrators), (TARGETS, administrators), (SNAPSHOT, [online]), (TIMESTAMP, [online])):
        for key in keys:
            root.add_key(key, role)
        root.roles[role].threshold = threshold if role in OFFLINE else 1
    _check_root(root)
    return Metadata(root)


def first_targets(now: datetime) -> Metadata[Targets]:
    """Version 1 of targets: no projects yet, unsigned."""
    return Metadata(Targets(1, SPEC_VERSION, _until(now, TARGETS_LIFE), delegations=Delegations({}, {})))


def again(base: Metadata[S], version: int, now: datetime) -> Metadata[S]:
    """A copy with this version and a new life, unsigned."""
    copy: Metadata[S] = Metadata.from_bytes(base.to_bytes())
    role = copy.signed.type if not _is_project(copy.signed) else ""
    copy.signed.version, copy.signed.expires = version, _until(now, life(role))
    copy.signatures.clear()
    return copy


def edit_root(
    root: Metadata[Root], group: str, add: Sequence[Key] = (), remove: Sequence[str] = (), threshold: int | None = None
) -> None:
    """Change the keys of a group of roles in a draft of root. remove: key ids. Raises: TrustError."""
    if group not in GROUPS:
        raise TrustError(
            Duty.REQUEST, "no-role", f"role {group!r}: got it, expected {', '.join(GROUPS)}, or a project's role"
        )
    for role in GROUPS[group]:
        for keyid in remove:
            if keyid in root.signed.roles[role].keyids:
                root.signed.revoke_key(keyid, role)
        for key in add:
            root.signed.add_key(key, role)
        root.signed.roles[role].threshold = threshold or root.signed.roles[role].threshold
    _check_root(root.signed)


def edit_project(
    root: Root,
    targets: Metadata[Targets],
    role: str,
    add: Sequence[Key] = (),
    remove: Sequence[str] = (),
    threshold: int | None = None,
) -> None:
    """Change the keys of a project's role in a draft of targets; makes the role if it is new. Raises: TrustError."""
    project, _ = _project(role)
    for other in projects(targets.signed):
        if other != project and other.lower() == project.lower():
            raise TrustError(
                Duty.REQUEST, "bad-name", f"project {project}: got a name that differs from {other} in case only"
            )
    delegations = targets.signed.delegations = targets.signed.delegations or Delegations({}, {})
    assert delegations.roles is not None
    if role not in delegations.roles:
        delegations.roles[role] = DelegatedRole(role, [], 1, False, [pattern(project)])
    for keyid in remove:
        if keyid in delegations.roles[role].keyids:
            targets.signed.revoke_key(keyid, role)
    for key in add:
        targets.signed.add_key(key, role)
    delegations.roles[role].threshold = threshold or delegations.roles[role].threshold
    _check_threshold(role, delegations.roles[role].threshold, len(delegations.roles[role].keyids))
    check_project_keys(root, targets.signed, project)


def _check_root(root: Root) -> None:
    for role, held in root.roles.items():
        _check_threshold(role, held.threshold, len(held.keyids))
    check_root_keys(root)


def _check_threshold(role: str, threshold: int, keys: int) -> None:
    if not 1 <= threshold <= keys:
        raise TrustError(
            Duty.REQUEST,
            "threshold",
            f"role {role}: got {counted(threshold, 'signature')} of {counted(keys, 'key')}, "
            "expected at least 1 and at most as many as keys",
        )


# -- researcher and approver ----------------------------------------------------------------------------------


def first_project(now: datetime) -> Metadata[Targets]:
    """Version 1 of a project's role: nothing published yet, unsigned."""
    return Metadata(Targets(1, SPEC_VERSION, _until(now, PROJECT_LIFE)))


def propose(draft: Metadata[Targets], version: Version, manifest: bytes) -> ListedVersion:
    """List a version in a draft of the researcher's role. Raises: TrustError when it is published otherwise."""
    if not 0 < len(manifest) <= MANIFEST_BYTES:
        raise TrustError(
            Duty.REQUEST,
            "too-long",
            f"manifest of {version}: got {len(manifest)} bytes, expected 1 to {MANIFEST_BYTES}",
        )
    digest = hashlib.sha256(manifest).hexdigest()
    there = entry_of(draft.signed, version.path)
    if there is not None:
        if (there.size_bytes, there.sha256) != (len(manifest), digest) or there.revoked is not None:
            raise TrustError(
                Duty.REQUEST,
                "published",
                f"version {version}: it is {'published with other content' if there.revoked is None else 'revoked'}, "
                "and a name and version never change; choose another version",
            )
        return there
    entry = ListedVersion(len(manifest), digest, 1 + max(_numbers(draft.signed, version), default=0))
    draft.signed.targets[version.path] = target_file(version.path, entry)
    return entry


def point(
    draft: Metadata[Targets],
    version: Version,
    before: Pointer | None,
    back: bool = False,
    approved: ListedVersion | None = None,
    was: ListedVersion | None = None,
) -> bytes:
    """Make a listed version the latest in a draft of the researcher's role; return the pointer's content.

    Args:
        before: the pointer that was published last. approved, was: what the approver's and the researcher's settled
            roles list of the pointer. What both said stays good until the approver signs the new one.

    Raises: TrustError when the version is not listed, is revoked, or is older than the latest and `back` is not said.
    """
    entry = entry_of(draft.signed, version.path)
    if entry is None or entry.revoked is not None:
        state = "it is not published" if entry is None else "it is revoked"
        raise TrustError(Duty.REQUEST, "no-version", f"version {version}: {state}; it can't be the latest")
    if before is not None and (before.version, before.number) == (version.version, entry.number):
        content = msgspec.json.encode(before)
    else:
        content = msgspec.json.encode(next_pointer(before, version.version, entry.number, back))
    digest = hashlib.sha256(content).hexdigest()
    known = {was.sha256, was.earlier} if was else set()
    earlier = approved.sha256 if approved is not None and approved.sha256 in known - {digest} else None
    draft.signed.targets[version.latest] = target_file(
        version.latest, ListedVersion(len(content), digest, earlier=earlier)
    )
    return content


def approve(draft: Metadata[Targets], researcher: Targets, path: str) -> ListedVersion:
    """List in a draft of the approver's role what the researcher lists. Raises: TrustError."""
    theirs, mine = entry_of(researcher, path), entry_of(draft.signed, path)
    if theirs is None or theirs.revoked is not None:
        state = "the researcher has not signed it" if theirs is None else f"it is revoked: {theirs.revoked}"
        raise TrustError(Duty.REQUEST, "not-proposed", f"{path}: can't be approved: {state}")
    if mine is not None and mine != theirs and not path.endswith(f"/{LATEST}.json"):
        raise TrustError(
            Duty.SIGNERS,
            "published",
            f"{path}: got other content from the researcher than was approved before, and a name and version never "
            "change; publish it under another version",
        )
    draft.signed.targets[path] = target_file(path, theirs.plain)
    return theirs


def revoke(draft: Metadata[Targets], version: Version, why: str) -> None:
    """Mark a version as revoked in a draft of either role; for ever. Raises: TrustError when it is not listed."""
    entry = entry_of(draft.signed, version.path)
    if entry is None:
        raise TrustError(Duty.REQUEST, "no-version", f"version {version}: this role does not list it")
    if entry.revoked is None:
        draft.signed.targets[version.path] = target_file(
            version.path, msgspec.structs.replace(entry, revoked=readable(why))
        )


# -- what may follow ------------------------------------------------------------------------------------------


def check_successor(role: str, before: Targets | None, after: Targets) -> None:
    """Raises: TrustError when `after` may not follow `before` as a project's role."""
    project, _ = _project(role)
    for path in after.targets:
        found = parse_path(path)
        if found is None or found.project != project:
            raise TrustError(
                Duty.SIGNERS, "foreign-path", f"role {role}: got the path {path!r}, expected {pattern(project)}"
            )
        entry_of(after, path)
    if before is None:
        return
    if after.version <= before.version:
        raise TrustError(
            Duty.SIGNERS,
            "bad-version",
            f"role {role}: got version {after.version}, expected one after {before.version}",
        )
    for path in before.targets:
        was, is_ = entry_of(before, path), entry_of(after, path)
        assert was is not None
        if path.endswith(f"/{LATEST}.json") and is_ is not None:
            continue
        if is_ is None or msgspec.structs.replace(is_, revoked=None) != msgspec.structs.replace(was, revoked=None):
            raise TrustError(
                Duty.SIGNERS,
                "changed",
                f"role {role}: got {'nothing' if is_ is None else 'other content'} for {path}, expected what was "
                "published before: a name and version never change, and old ones stay listed; revoke instead",
            )
        if was.revoked is not None and is_.revoked is None:
            raise TrustError(
                Duty.SIGNERS, "unrevoked", f"role {role}: got {path} as good, expected it revoked: that stays so"
            )


# -- online ---------------------------------------------------------------------------------------------------


def listed(content: bytes, version: int) -> MetaFile:
    """How snapshot and timestamp name a file: version, length, hash."""
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})


def next_snapshot(
    before: Snapshot | None, meta: Mapping[str, MetaFile], now: datetime, last: int = 0
) -> Metadata[Snapshot]:
    """The snapshot that lists these files, unsigned. last: a number that was used, by whomever."""
    version = max(before.version if before else 0, last) + 1
    return Metadata(Snapshot(version, expires=_until(now, SNAPSHOT_LIFE), meta=dict(meta)))


def next_timestamp(before: Timestamp | None, snapshot: MetaFile, now: datetime) -> Metadata[Timestamp]:
    """The timestamp for this snapshot, unsigned."""
    version = before.version + 1 if before else 1
    return Metadata(Timestamp(version, expires=_until(now, TIMESTAMP_LIFE), snapshot_meta=snapshot))


# -- ----------------------------------------------------------------------------------------------------------


def key_named(keys: Mapping[str, Key], text: str) -> Key:
    """The one key with this owner, or whose id starts so. Raises: TrustError."""
    found = [
        key
        for key in keys.values()
        if owner(key).split(" ")[0] == text or (len(text) > 3 and key.keyid.startswith(text))
    ]
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(owner(key) for key in keys.values())) or "none"
    raise TrustError(Duty.REQUEST, "no-key", f"key {text!r}: got {len(found)} of that name, expected one of: {known}")


def _project(role: str) -> tuple[str, str]:
    found = project_of(role)
    if found is None:
        raise TrustError(
            Duty.REQUEST,
            "no-role",
            f"role {role!r}: got it, expected <project>-researcher, <project>-approver, or one of {', '.join(GROUPS)}",
        )
    parse = parse_path(f"images/{found[0]}/x/x.json")
    if parse is None:
        raise TrustError(
            Duty.REQUEST, "bad-name", f"project: got {found[0]!r}, expected letters, digits, '.', '_', '-'"
        )
    return found


def _is_project(signed: Root | Snapshot | Targets | Timestamp) -> bool:
    return isinstance(signed, Targets) and signed.delegations is None


def _numbers(targets: Targets, version: Version) -> Sequence[int]:
    prefix = version.latest.removesuffix(f"{LATEST}.json")
    return [entry.number for path in targets.targets if path.startswith(prefix) and (entry := entry_of(targets, path))]


def _until(now: datetime, span: timedelta) -> datetime:
    return (now + span).replace(microsecond=0)
