"""What a signature would cover, in sentences: everything, so that nobody signs what he was not told.

Rules:
- A change is measured from the role as it is settled; a revocation that is taken back, also from former keys.
- Entries are told with their digests, keys whole and in words; a step back is called one.
- A digest is read aloud as eight words of BIP-39's English list of 2,048: 88 bits, so that nobody finds another key or
  file with the same words; no two words begin with the same four letters.
"""

from functools import cache

from mnemonic import Mnemonic

from deskgrid.images.trust.pointer import decode, steps_back
from deskgrid.images.trust.roles import delegated, entry_of, owner, parse_path
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.tufapi import Key, Targets
from deskgrid.images.trust.values import LATEST, POINTER_BYTES, ListedVersion, Version, readable


def changes_of(
    shelf: RepositoryEditor, before: object, after: object, former: object
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a signature would change: sentences, and the paths of a project's role. former: under keys that are gone."""
    if isinstance(after, Targets) and after.delegations is None:
        old = before if isinstance(before, Targets) else Targets()
        paths = tuple(
            path
            for path in dict.fromkeys((*after.targets, *old.targets))
            if old.targets.get(path) != after.targets.get(path)
        )
        once = former if isinstance(former, Targets) else old
        said = [_entry_change(shelf, path, old, after, once) for path in paths]
        return tuple(said) or ("the same list, a new life",), paths
    was, is_ = _role_keys(before), _role_keys(after)
    said = []
    for role in sorted(was.keys() | is_.keys()):
        said += [f"new role {role}"] if before is not None and role not in was else []
        said += [f"role {role} ends"] if role not in is_ else []
        said += [f"{role}: + {key}" for key in sorted(is_.get(role, set()) - was.get(role, set()))]
        said += [f"{role}: - {key}" for key in sorted(was.get(role, set()) - is_.get(role, set()))]
    return tuple(said) or ("the same keys, a new life",), ()


def _entry_change(shelf: RepositoryEditor, path: str, before: Targets, after: Targets, once: Targets) -> str:
    was, is_, version = entry_of(before, path), entry_of(after, path), parse_path(path)
    if is_ is None or version is None:
        return f"TAKES AWAY {readable(path)}"
    if version.version == LATEST:
        return pointer_change(shelf, version, before, is_)
    whole = f"number {is_.number}: {_whole(is_)}; in words: {words_of(is_.sha256)}"
    if is_.revoked is not None:
        return f"REVOKES {version}: {is_.revoked}; {whole}"
    known = entry_of(once, path)
    if known is not None and known.revoked is not None:
        return f"TAKES BACK the revocation of {version}: {known.revoked}; {whole}"
    return f"{'changes' if was else 'adds'} {version}, {whole}"


def pointer_change(shelf: RepositoryEditor, image: Version, before: Targets | None, is_: ListedVersion) -> str:
    """What becomes the latest. before: the role as it is settled, whose pointer a step back is measured from."""
    path = image.latest
    was = entry_of(before, path) if before else None
    old = decode(path, shelf.manifest(path, was)) if was else None
    new = decode(path, shelf.manifest(path, is_))
    said = f"latest of {image.project}/{image.image} becomes {new.version}, number {new.number}, serial {new.serial}"
    said += f"{', a step BACK' if steps_back(old, new) else ''}: {_whole(is_)}"
    if is_.earlier is None:
        return said
    earlier = decode(path, shelf.manifest(path, ListedVersion(POINTER_BYTES, is_.earlier)))
    return f"{said}; until its approver signs that, {earlier.version} stays the latest (SHA-256 {is_.earlier})"


def _whole(entry: ListedVersion) -> str:
    return f"{entry.size_bytes} bytes with SHA-256 {entry.sha256}"


def _role_keys(signed: object) -> dict[str, set[str]]:
    if signed is None:
        return {}
    roles = delegated(signed) if isinstance(signed, Targets) else getattr(signed, "roles", {})
    return {
        role: {told_key(signed.get_key(keyid)) for keyid in held.keyids} | {f"{held.threshold} must sign"}  # type: ignore[attr-defined]
        for role, held in roles.items()
    }


def told_key(key: Key) -> str:
    """A key, whole, for people who compare it: its owner, its id in words, its id."""
    return f"{owner(key).split(' ')[0]}, key in words: {words_of(key.keyid)}; whole: {key.keyid}"


_WORDS, _BITS = 8, 11


def words_of(digest: str) -> str:
    """The words of a SHA-256, which is given as 64 hexadecimal digits."""
    number = int(digest, 16) >> (256 - _WORDS * _BITS)
    listed = _list()
    return " ".join(listed[number >> (_BITS * at) & (2**_BITS - 1)] for at in reversed(range(_WORDS)))


@cache
def _list() -> list[str]:
    return Mnemonic("english").wordlist
