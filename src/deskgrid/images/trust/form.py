"""Nothing in metadata but what deskgrid writes: what a signature covers is what people were shown, to the last byte.

Rules:
- Metadata are made again from what is shown of them: entries, keys, roles, version, expiry. If that gives other bytes,
  there is something in them that nobody would see, and they are refused.
- So a project's role has no delegations, an entry no field of its own, targets no entries, a key no name that misleads.
- An entry has its kind's fields only: a pointer no number and no revocation; `earlier` only the researcher's pointer.
- Whoever signs asks this, whoever lists for desktops, and desktops.
"""

from typing import Any

import msgspec

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import (
    ONLINE,
    OWNER,
    RESEARCHER,
    ROOT,
    SPEC_VERSION,
    TARGETS,
    delegated,
    entry_of,
    key_bytes,
    parse_path,
    pattern,
    project_of,
    target_file,
)
from deskgrid.images.trust.tufapi import DelegatedRole, Delegations, Key, Metadata, Role, Root, SSlibKey, Targets
from deskgrid.images.trust.values import LATEST, ListedVersion
from deskgrid.model.values.names import BadName, name

MOST_VERSION = 1 << 31


def check_form(role: str, metadata: Metadata[Any]) -> None:
    """Raises: TrustError when the metadata of root, targets or a project's role have anything that is not shown."""
    if role in ONLINE:
        return
    signed = metadata.signed
    expected = Root if role == ROOT else Targets
    if not isinstance(signed, expected) or not 0 < signed.version < MOST_VERSION:
        raise _strange(role, f"got {type(signed).__name__} of version {signed.version}")
    plain = _root(signed) if isinstance(signed, Root) else _targets(role, signed)
    if plain.to_dict() != signed.to_dict():
        raise _strange(role, "got something that is no entry, key or role of ours")


def _root(signed: Root) -> Root:
    used = {keyid for role in signed.roles.values() for keyid in role.keyids}
    roles = {role: Role(list(held.keyids), held.threshold) for role, held in signed.roles.items()}
    keys = _keys(ROOT, signed.keys, used)
    return Root(signed.version, SPEC_VERSION, signed.expires, keys, roles, True)


def _targets(role: str, signed: Targets) -> Targets:
    delegations = None
    entries = {}
    if role == TARGETS:
        roles = {name: _delegated(name, held) for name, held in delegated(signed).items()}
        used = {keyid for held in roles.values() for keyid in held.keyids}
        keys = signed.delegations.keys if signed.delegations else {}
        delegations = Delegations(_keys(role, keys, used), roles)
    else:
        of = project_of(role)
        for path in signed.targets:
            version, entry = parse_path(path), entry_of(signed, path)
            if of is None or version is None or version.project != of[0]:
                raise TrustError(
                    Duty.SIGNERS, "foreign-path", f"role {role}: got the path {path!r}, expected one of its project's"
                )
            if entry is not None:
                entries[path] = target_file(path, _told(entry, version.version == LATEST, of[1]))
    return Targets(signed.version, SPEC_VERSION, signed.expires, entries, delegations)


def _told(entry: ListedVersion, pointer: bool, side: str) -> ListedVersion:
    """What is shown of an entry."""
    earlier = entry.earlier if pointer and side == RESEARCHER else None
    shown = msgspec.structs.replace(entry, earlier=earlier)
    return msgspec.structs.replace(shown, number=0, revoked=None) if pointer else shown


def _delegated(role: str, held: DelegatedRole) -> DelegatedRole:
    of = project_of(role)
    try:
        name("project", of[0] if of else "")
    except BadName:
        raise _strange(TARGETS, f"got a role {role!r}, which is no project's") from None
    assert of is not None
    return DelegatedRole(role, list(held.keyids), held.threshold, False, [pattern(of[0])])


def _keys(role: str, keys: dict[str, Key], used: set[str]) -> dict[str, Key]:
    if keys.keys() != used:
        raise _strange(role, "got a key that is in no role, or a role with a key that is not there")
    plain: dict[str, Key] = {}
    for keyid, key in keys.items():
        key_bytes(key)
        owner = key.unrecognized_fields.get(OWNER)
        try:
            named = {} if owner is None else {OWNER: name("owner", owner if isinstance(owner, str) else "")}
        except BadName:
            raise _strange(role, f"got a key of {owner!r}, which is no name") from None
        plain[keyid] = SSlibKey(key.keyid, key.keytype, key.scheme, {"public": key.keyval["public"]}, named)
        if keyid != key.keyid:
            raise _strange(role, f"got a key under the id {keyid!r}, which is another's")
    return plain


def _strange(role: str, what: str) -> TrustError:
    return TrustError(
        Duty.SIGNERS,
        "strange",
        f"role {role}: {what}, expected nothing but what deskgrid writes, since nothing else would be shown: don't "
        "sign it; delete it from the folder `pending` if it waits there, or update deskgrid if a newer one made it",
    )
