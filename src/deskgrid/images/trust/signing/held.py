"""What somebody who signs holds on his own side: the root that he began with, and what he has seen since.

    <key file>.held     beside the key file: the root, those that followed it, the newest version seen of each role

Rules:
- It begins with a root that a person gave (`--root`) or signed as the very first; never with one that lay in the
  repository's folder.
- What a repository's folder says counts only as far as it follows from that root by valid signatures (folder.py).
- What was seen stays seen: a folder that lacks a newer version, or has another under its number, is refused.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import RepositoryError

from deskgrid.host.system.files import write_atomic
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.form import check_form
from deskgrid.images.trust.roles import ROOT, check_root_keys
from deskgrid.images.trust.tufapi import Metadata, Root
from deskgrid.model.values.names import Digest
from deskgrid.model.values.outside import read_json


class Mark(msgspec.Struct, frozen=True):
    """A version of a role. digest: SHA-256 of what its signatures are made over."""

    version: int
    digest: Digest


class SignersMemory(msgspec.Struct):
    """See the module. begun: digest of the root that it began with. roots: whole files, that one first."""

    begun: Digest
    roots: list[bytes] = []
    seen: dict[str, Mark] = {}

    @classmethod
    def of(cls, root: bytes) -> "SignersMemory":
        """Begin with a root's file. Raises: TrustError when it is none, or its own keys have not signed it."""
        found = root_of(root)
        if not own(found):
            raise TrustError(Duty.REQUEST, "bad-root", "root: its own keys have not signed it; ask for it again")
        return cls(digest_of(found), [root])

    def see(self, role: str, metadata: Metadata[Any]) -> None:
        """Remember a version of a role. Raises: TrustError when it is older than what was seen, or another."""
        new, seen = Mark(metadata.signed.version, digest_of(metadata)), self.seen.get(role)
        if seen is not None and new.version <= seen.version and new != seen:
            raise rolled_back(role, seen, "another" if new.version == seen.version else f"only version {new.version}")
        self.seen[role] = new


def rolled_back(role: str, seen: Mark, what: str) -> TrustError:
    """The error of a folder that does not have what was seen there before."""
    return TrustError(
        Duty.REPOSITORY,
        "rolled-back",
        f"role {role}: got {what}, expected version {seen.version} as this key's owner saw it before; somebody changed "
        "the repository's folder: sign nothing, copy it again, and tell the grid's administrators",
    )


class MemoryFile:
    """The file beside a key file."""

    def __init__(self, key: Path) -> None:
        """What the owner of this key file holds."""
        self.path = key.with_name(f"{key.name}.held")

    def read(self) -> SignersMemory | None:
        """What is held; None: nothing yet. Raises: TrustError."""
        try:
            return read_json(self.path.read_bytes(), type=SignersMemory)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            raise TrustError(
                Duty.DESKTOP,
                "damaged",
                f"{self.path}: can't be read: {error}; it says whom you trust: delete it only if the disk was damaged, "
                "and give `--root` again",
            ) from None

    def begin(self, root: Path) -> SignersMemory:
        """What is held, which begins with the root in this file. Raises: TrustError when it began with another."""
        try:
            new = SignersMemory.of(root.read_bytes())
        except OSError as error:
            raise TrustError(Duty.REQUEST, "no-root", f"root {root}: can't be read: {error.strerror}") from None
        there = self.read()
        if there is not None and there.begun != new.begun:
            raise TrustError(
                Duty.REQUEST,
                "other-root",
                f"root {root}: got another root than the one that {self.path} began with; compare its words with the "
                "administrators (`deskgrid trust words`), and delete that file if you change to another grid",
            )
        return new if there is None or not there.roots else there

    def keep(self, held: SignersMemory) -> None:
        """Keep it. Raises: TrustError."""
        try:
            write_atomic(self.path, msgspec.json.encode(held), 0o600)
        except OSError as error:
            raise TrustError(
                Duty.DESKTOP, "disk", f"{self.path}: can't be written: {error.strerror}; keep it beside your key"
            ) from None


def root_of(content: bytes) -> Metadata[Root]:
    """Read a root. Raises: TrustError when it is none."""
    try:
        found: Metadata[Any] = Metadata.from_bytes(content)
    except (RepositoryError, ValueError, RecursionError):
        raise TrustError(Duty.REQUEST, "bad-root", "root: it can't be read; ask for it again") from None
    check_form(ROOT, found)
    check_root_keys(found.signed)
    return found


def digest_of(metadata: Metadata[Any]) -> str:
    """The SHA-256 of what is signed."""
    return hashlib.sha256(metadata.signed_bytes).hexdigest()


def own(root: Metadata[Root]) -> bool:
    """Whether enough of a root's own keys have signed it."""
    return root.signed.get_verification_result(ROOT, root.signed_bytes, root.signatures).verified


def follows(before: Metadata[Root], after: Metadata[Root]) -> bool:
    """Whether a root is the next one: enough of the keys before it and of its own have signed it."""
    by = before.signed.get_verification_result(ROOT, after.signed_bytes, after.signatures)
    return after.signed.version == before.signed.version + 1 and by.verified and own(after)
