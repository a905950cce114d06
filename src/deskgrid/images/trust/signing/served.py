"""What in a repository's folder follows, by valid signatures, from the root that its reader holds himself.

Rules:
- The folder is believed in nothing. What is `settled` is the newest version of a role that enough of the keys have
  signed which the role above names, up to the root that is held (held.py); never simply the highest number.
- Without a root of one's own it begins with the folder's first root: good for looking, and for the coordinator, which
  desktops don't believe either. Nobody should sign so.
- What can't be read, or has anything in it that deskgrid does not write (form.py), is as if it were not there.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tuf.api.exceptions import RepositoryError

from deskgrid.host.system.files import read_plain
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.form import MOST_VERSION, check_form
from deskgrid.images.trust.roles import METADATA_BYTES, ONLINE, ROOT, TARGETS, TIMESTAMP, check_root_keys, delegated
from deskgrid.images.trust.signing.held import SignersMemory, digest_of, follows, own, root_of
from deskgrid.images.trust.tufapi import Metadata

Any_ = Metadata[Any]
_NUMBERED = re.compile(r"([1-9][0-9]{0,9})\.(.+)\.json\Z")


class Served:
    """The folder `metadata` of a repository, as who holds something reads it."""

    def __init__(self, folder: Path, held: SignersMemory | None = None) -> None:
        """Read below `folder`. held: what the reader holds; None: nothing."""
        self.folder, self.metadata, self.held = folder, folder / "metadata", held
        self._parsed: dict[tuple[str, int, bytes], Any_ | None] = {}
        self._checked: dict[tuple[str, int, int], bool] = {}

    def versions(self, role: str) -> Sequence[int]:
        """The versions of a role of which there are files, in order, whatever is in them."""
        found = (_NUMBERED.match(path.name) for path in self.metadata.glob(f"*.{role}.json"))
        numbers = (int(match[1]) for match in found if match and match[2] == role)
        return sorted(number for number in numbers if number < MOST_VERSION)

    def settled(self, role: str, version: int | None = None) -> Any_ | None:
        """A version of a role that is signed by enough of its keys, the newest by default; None: there is none.

        Raises: TrustError when it is older than what was seen before, or another.
        """
        found = self._settled(role, version)
        if version is None and found is not None and self.held is not None and role not in (ROOT, *ONLINE):
            self.held.see(role, found)
        return _copy(found)

    def former(self, role: str, version: int | None = None) -> Any_ | None:
        """The newest version, or this one, that was settled once, also under keys that its role has no more.

        It is good to begin a draft with, of which everything is shown. Nothing that is new is compared with it.
        """
        over = self._roots()
        if above(role) == TARGETS:
            named = (self._verified(TARGETS, over, number) for number in reversed(self.versions(TARGETS)))
            over = [each for each in named if each is not None]
        return _copy(self._verified(role, over, version))

    def _settled(self, role: str, version: int | None = None) -> Any_ | None:
        if role == ROOT:
            roots = {root.signed.version: root for root in self._roots()}
            return roots.get(version or max(roots, default=0))
        by = self._settled(above(role))
        return self._verified(role, (by,) if by else (), version)

    def _verified(self, role: str, over: Sequence[Any_], version: int | None = None) -> Any_ | None:
        """The newest version of a role, or this one, that enough keys have signed which one of `over` names."""
        paths = {number: self.metadata / f"{number}.{role}.json" for number in reversed(self.versions(role))}
        if role == TIMESTAMP:
            paths = {0: self.metadata / "timestamp.json"}
            load(paths[0])  # what is damaged there is not written over: it had the newest number
        for number, path in paths.items() if version is None else ((version, paths.get(version)),):
            found = self._readable(path, role, number) if path is not None else None
            if found is not None and any(self._by(role, by, found) for by in over):
                return found
        return None

    def _roots(self) -> list[Any_]:
        """The roots from the one that is held, each signed by the one before."""
        held, numbers = self.held, self.versions(ROOT)
        found = [self._kept(content) for content in held.roots] if held else []
        if not found and numbers:
            first = self._readable(self.metadata / f"{numbers[0]}.{ROOT}.json", ROOT, numbers[0])
            if first is not None and self._own(first) and (held is None or digest_of(first) == held.begun):
                found = [first]
        for number in numbers:
            if found and number == found[-1].signed.version + 1:
                root = self._readable(self.metadata / f"{number}.{ROOT}.json", ROOT, number)
                if root is None or not self._by(ROOT, found[-1], root):
                    break
                found.append(root)
        if held is not None:
            held.roots.extend(root.to_bytes() for root in found[len(held.roots) :])
        return found

    def _own(self, root: Any_) -> bool:
        place = (ROOT, id(root), id(root))
        if place not in self._checked:
            self._checked[place] = own(root)
        return self._checked[place]

    def _kept(self, content: bytes) -> Any_:
        place = (ROOT, 0, hashlib.sha256(content).digest())
        root = self._parsed[place] = self._parsed.get(place) or root_of(content)
        return root

    def _readable(self, path: Path, role: str, number: int) -> Any_ | None:
        """What is in a file, if it may be what its name says. Parsed once."""
        content = b""
        with suppress(OSError, TrustError):
            content = content_of(path)
        place = (role, number, hashlib.sha256(content).digest())
        if place not in self._parsed:
            self._parsed[place] = _read_as(role, number, content)
        return self._parsed[place]

    def _by(self, role: str, by: Any_, found: Any_) -> bool:
        """Whether enough of the keys that `by` names have signed. Asked once of each two files."""
        place = (role, id(by), id(found))
        if place not in self._checked:
            self._checked[place] = follows(by, found) if role == ROOT else signed_by(role, by, found)
        return self._checked[place]


def above(role: str) -> str:
    """The role that says who may sign this one."""
    return ROOT if role in (ROOT, TARGETS, *ONLINE) else TARGETS


def signed_by(role: str, by: Any_, metadata: Any_) -> bool:
    """Whether enough of the keys that `by` names for a role have signed its metadata, and nothing hidden."""
    if by.signed.type == TARGETS and role not in delegated(by.signed):
        return False
    try:
        check_form(role, metadata)
    except TrustError:
        return False
    return bool(by.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures))


def load(path: Path) -> Any_ | None:
    """Read metadata, whatever is in them; None: there are none. Raises: TrustError."""
    try:
        return Metadata.from_bytes(content_of(path))
    except FileNotFoundError:
        return None
    except (OSError, RepositoryError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise TrustError(Duty.REPOSITORY, "damaged", f"metadata {path}: can't be read: {why}; copy it again") from None


def content_of(path: Path) -> bytes:
    """The bytes of a file of metadata. Raises: OSError, TrustError."""
    content = read_plain(path, METADATA_BYTES)
    if len(content) > METADATA_BYTES:
        raise TrustError(
            Duty.REPOSITORY,
            "too-long",
            f"metadata {path}: got {path.stat().st_size} bytes, expected {METADATA_BYTES}",
        )
    return content


def _read_as(role: str, number: int, content: bytes) -> Any_ | None:
    try:
        found: Any_ = Metadata.from_bytes(content)
        check_form(role, found)
        if role == ROOT:
            check_root_keys(found.signed)
    except (RepositoryError, TrustError):
        return None
    return found if role == TIMESTAMP or found.signed.version == number else None


def _copy(found: Any_ | None) -> Any_ | None:
    return Metadata.from_bytes(found.to_bytes()) if found is not None else None
