"""Roles, paths and bounds: what publishing side and desktop must agree on.

Rules:
- Root and targets are the administrators', offline. Snapshot and timestamp share one key online.
- A project has two delegated roles, `<project>-researcher` and `<project>-approver`, for the same paths. TUF's
  thresholds count keys and not groups, so the two roles are asked one after the other, and must say the same.
- A path is `images/<project>/<image>/<version>.json`, or `…/latest.json` for the pointer. TUF's patterns stop at
  each `/`, so the delegated pattern is `images/<project>/*/*.json`.
- A key's id is the hash of the key, and a key is written in one way only. That is checked wherever an id is read: an id
  that somebody made up would let one key stand for another in all that is shown, compared and signed.
- No key counts twice: neither in one role, nor in both roles of a project, nor online and offline.
- What a version is never changes: its entry stays in the list for ever, also when it is revoked.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.tufapi import DelegatedRole, Key, Root, SSlibKey, TargetFile, Targets
from deskgrid.images.trust.values import MANIFEST_BYTES, ListedVersion, Version, readable
from deskgrid.model.values.names import BadName, name
from deskgrid.model.values.text import printable

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
OFFLINE, ONLINE = (ROOT, TARGETS), (SNAPSHOT, TIMESTAMP)
RESEARCHER, APPROVER = "researcher", "approver"

ROOT_LIFE = timedelta(days=730)
TARGETS_LIFE = timedelta(days=400)
PROJECT_LIFE = timedelta(days=400)
SNAPSHOT_LIFE = timedelta(days=7)
TIMESTAMP_LIFE = timedelta(days=1)
LONGEST_TIMESTAMP = timedelta(days=7)
"""A timestamp that lives longer from now on was signed for too long, or the clock is behind."""

SPEC_VERSION = "1.0.31"
"""Version of TUF's specification, which all metadata name; another needs a release that knows it first."""

METADATA_BYTES = 4 << 20
TIMESTAMP_BYTES = 16 << 10
ROOT_BYTES = 512 << 10
ROOT_ROTATIONS = 256
"""How many new versions of root a client walks at once."""

OWNER = "x-deskgrid-owner"
"""Field of a public key that says whose it is; signed with the key."""


def project_roles(project: str) -> tuple[str, str]:
    """The names of a project's two roles. Raises: TrustError."""
    try:
        name("project", project)
    except BadName as error:
        raise TrustError(Duty.REQUEST, "bad-name", str(error)) from None
    return f"{project}-{RESEARCHER}", f"{project}-{APPROVER}"


def project_of(role: str) -> tuple[str, str] | None:
    """Project and side of a delegated role's name; None when it is no such name."""
    project, dash, side = role.rpartition("-")
    return (project, side) if dash and project and side in (RESEARCHER, APPROVER) else None


def project_named(role: str) -> bool:
    """Whether it is the name of a project's role that may meet a path."""
    of = project_of(role)
    return of is not None and parse_path(f"images/{of[0]}/x/x.json") is not None


def pattern(project: str) -> str:
    """What a project's roles may speak of."""
    return f"images/{project}/*/*.json"


def parse_path(path: str) -> Version | None:
    """The version of a target path; also `latest` counts as one. None when the path is none of ours."""
    parts = path.split("/")
    if len(parts) != 4 or parts[0] != "images" or not parts[3].endswith(".json"):
        return None
    try:
        project, image, stem = (name("part", part) for part in (parts[1], parts[2], parts[3].removesuffix(".json")))
    except BadName:
        return None
    return Version(project, image, stem)


def entry_of(targets: Targets, path: str) -> ListedVersion | None:
    """What a role says of a path; None: nothing. Raises: TrustError when what it says is no sense."""
    found = targets.targets.get(path)
    if found is None:
        return None
    custom = found.custom if isinstance(found.custom, dict) else {}
    said = {**custom, "size_bytes": found.length, "sha256": found.hashes.get("sha256")}
    if isinstance(said.get("revoked"), str):
        said["revoked"] = readable(str(said["revoked"]))
    try:
        entry = msgspec.convert(said, ListedVersion)
    except msgspec.ValidationError as error:
        raise TrustError(
            Duty.SIGNERS, "bad-entry", f"entry of {path}: {error}; it was not made by deskgrid: sign it anew"
        ) from None
    if entry.size_bytes > MANIFEST_BYTES:
        raise TrustError(
            Duty.SIGNERS,
            "too-long",
            f"manifest of {path}: got {entry.size_bytes} bytes, expected at most {MANIFEST_BYTES}; publish it smaller",
        )
    return entry


def target_file(path: str, entry: ListedVersion) -> TargetFile:
    """An entry as TUF writes it."""
    custom = {"number": entry.number, "revoked": entry.revoked, "earlier": entry.earlier}
    custom = {key: value for key, value in custom.items() if value is not None}
    return TargetFile(entry.size_bytes, {"sha256": entry.sha256}, path, {"custom": custom})


def delegated(targets: Targets) -> Mapping[str, DelegatedRole]:
    """The roles that targets delegates to."""
    return (targets.delegations.roles if targets.delegations else None) or {}


def projects(targets: Targets) -> tuple[str, ...]:
    """The projects that have a role."""
    return tuple(sorted({of[0] for of in map(project_of, delegated(targets)) if of}))


def key_bytes(key: Key) -> bytes:
    """The key itself. Raises: TrustError for other kinds, and for an id that is not the hash of the key."""
    loaded = _loaded(key)
    true = SSlibKey.from_crypto(loaded)
    if (true.keyid, true.scheme, true.keyval) != (key.keyid, key.scheme, key.keyval):
        raise TrustError(
            Duty.SIGNERS,
            "bad-id",
            f"key {owner(key)}: got the id {readable(key.keyid)}, expected {true.keyid}, the hash of the key: it is "
            "somebody else's key under this name, or was not made by deskgrid; ask its owner for it again",
        )
    if isinstance(loaded, EllipticCurvePublicKey):
        return loaded.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return loaded.public_bytes_raw()


def _loaded(key: Key) -> Ed25519PublicKey | EllipticCurvePublicKey:
    public = str(key.keyval.get("public", ""))
    with contextlib.suppress(ValueError):
        if key.keytype == "ed25519" and key.scheme == "ed25519":
            return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        if key.keytype == "ecdsa" and key.scheme in ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"):
            loaded = load_pem_public_key(public.encode())
            if isinstance(loaded, EllipticCurvePublicKey):
                return loaded
    raise TrustError(
        Duty.SIGNERS,
        "bad-key",
        f"key {owner(key)}: got {readable(key.keytype)} ({readable(key.scheme)}), expected a key of ed25519 or ECDSA "
        "on P-256 or P-384",
    )


def owner(key: Key) -> str:
    """Whose key it is, with the start of its id, for people."""
    who = printable(str(key.unrecognized_fields.get(OWNER, "")), 64)
    start = readable(key.keyid[:8])
    return f"{who} ({start})" if who else start


def check_root_keys(root: Root) -> None:
    """Raises: TrustError when a key of root counts twice, or is online and offline."""
    held = {role: _distinct(role, (root.keys.get(key) for key in root.roles[role].keyids)) for role in root.roles}
    for offline in OFFLINE:
        for online in ONLINE:
            _disjoint(offline, held[offline], online, held[online])


def check_project_keys(root: Root, targets: Targets, project: str) -> None:
    """Raises: TrustError when a key of a project's roles counts twice, or is in both, or is the online one."""
    keys, roles = (targets.delegations.keys if targets.delegations else {}), delegated(targets)
    researcher, approver = project_roles(project)
    held = {
        role: _distinct(role, (keys.get(key) for key in roles[role].keyids))
        for role in (researcher, approver)
        if role in roles
    }
    if len(held) == 2:
        _disjoint(researcher, held[researcher], approver, held[approver])
    for role, mine in held.items():
        for online in ONLINE:
            _disjoint(role, mine, online, _distinct(online, (root.keys.get(key) for key in root.roles[online].keyids)))


def _distinct(role: str, keys: Iterable[Key | None]) -> dict[bytes, Key]:
    found: dict[bytes, Key] = {}
    for key in _known(keys):
        content = key_bytes(key)
        if content in found:
            raise TrustError(
                Duty.SIGNERS,
                "key-twice",
                f"role {role}: got the same key as {owner(found[content])} and as {owner(key)}, expected each once, "
                "or one person could sign for two; take one of them out",
            )
        found[content] = key
    return found


def _disjoint(first: str, keys: Mapping[bytes, Key], second: str, others: Mapping[bytes, Key]) -> None:
    for content in keys.keys() & others.keys():
        raise TrustError(
            Duty.SIGNERS,
            "key-in-both",
            f"key {owner(keys[content])}: got it in the roles {first} and {second}, expected it in one of them; "
            "the two must be held by different people: take it out of one",
        )


def _known(keys: Iterable[Key | None]) -> Iterator[Key]:
    return (key for key in keys if key is not None)
