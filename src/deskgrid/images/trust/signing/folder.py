"""The repository as a folder: what is served, and what waits for signatures. Reading, checking, keeping.

    <folder>/metadata/   served: timestamp.json, <n>.snapshot.json, <n>.root.json, <n>.<role>.json
    <folder>/targets/    served: images/<project>/<image>/<sha256>.<version>.json
    <folder>/pending/    <role>.json, signed by some but not yet by enough

Rules:
- What is settled follows from the root that the reader holds (served.py). What waits may have been laid there by
  whoever may write to the folder: it is shown in full, compared with what is settled, before anybody signs it.
- What is served is added and never changed, except timestamp.json. A web server or cache may serve the two folders.
- A role's next version waits in `pending/`. Each signer adds a signature; with enough of them `settle` moves it over.
  An edit of what waits makes its signatures void.
- The folder may be copied to a computer without a network, signed there, and the signatures merged back.
- Desktops see what is settled only when the coordinator lists it (`renew`). It checks everything again first: what
  somebody laid into the folder by hand is not listed, and is reported.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import cast

from deskgrid.host.system.files import read_plain, write_atomic
from deskgrid.host.system.locks import Locked, locked
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.form import check_form
from deskgrid.images.trust.pointer import decode
from deskgrid.images.trust.roles import ROOT, TARGETS, delegated, entry_of, project_named
from deskgrid.images.trust.signing import repository
from deskgrid.images.trust.signing.held import SignersMemory, digest_of, follows, own, rolled_back
from deskgrid.images.trust.signing.served import Any_, Served, above, load, signed_by
from deskgrid.images.trust.tufapi import Root, Targets, VerificationResult
from deskgrid.images.trust.values import ListedVersion, Pointer, Version

_AGAIN_SECONDS = 0.02


class RepositoryFolder(Served):
    """A repository in a folder. Whoever changes it holds its lock (`editing`)."""

    def __init__(self, folder: Path, held: SignersMemory | None = None) -> None:
        """See `Served`."""
        super().__init__(folder, held)
        self.targets, self.waiting = folder / "targets", folder / "pending"

    @contextmanager
    def editing(self, new: bool = False, wait_seconds: float = 5.0) -> Iterator[None]:
        """Hold the repository's lock. Raises: TrustError when it is no repository, or another process changes it.

        Args:
            wait_seconds: for that other process, such as the coordinator, which renews in less than a second.
        """
        if not new:
            self.must_be_there()
        try:
            for folder in (self.metadata, self.targets, self.waiting):
                folder.mkdir(parents=True, exist_ok=True)
            with _patiently(self.folder / "lock", wait_seconds):
                yield
        except Locked:
            raise TrustError(
                Duty.DESKTOP, "locked", f"repository {self.folder}: another process changes it; try again in a moment"
            ) from None
        except OSError as error:
            if error.filename is None:
                raise
            raise TrustError(
                Duty.DESKTOP, "disk", f"repository {self.folder}: {error.filename}: {error.strerror}"
            ) from None

    def must_be_there(self) -> None:
        """Raises: TrustError when the folder is no repository."""
        if not self.metadata.is_dir():
            raise TrustError(
                Duty.REQUEST,
                "no-repository",
                f"repository {self.folder}: there is none; `deskgrid trust init` makes one",
            )

    # -- reading ----------------------------------------------------------------------------------------------

    def pending(self, role: str) -> Any_ | None:
        """What waits for signatures in a role, whoever laid it there. Raises: TrustError when it is nothing of ours."""
        found = load(self.waiting / f"{role}.json")
        if found is not None:
            check_form(role, found)
        return found

    def fit(self, role: str) -> Any_ | None:
        """What waits in a role, as long as it can be told: what somebody laid there must not stop the other roles."""
        with suppress(TrustError):
            return self.pending(role)
        return None

    def newest(self, role: str) -> Any_ | None:
        """What waits, or else what is settled, or was once."""
        return self.pending(role) or self.settled(role) or self.former(role)

    def root(self) -> Root:
        """The settled root, or the first one that still waits. Raises: TrustError when there is none."""
        found = self.settled(ROOT) or self.pending(ROOT)
        if found is None:
            mine = " that follows from the one you hold" if self.held else ""
            raise TrustError(
                Duty.REPOSITORY, "no-root", f"repository {self.folder}: it has no root{mine}; copy it again"
            )
        return cast(Root, found.signed)

    def roles(self) -> Sequence[str]:
        """Root, targets, and the roles of all projects, also of those that wait to be named."""
        found = (self.settled(TARGETS), self.fit(TARGETS))
        named = dict.fromkeys(role for each in found if each for role in delegated(each.signed))
        return (ROOT, TARGETS, *(role for role in named if project_named(role)))

    def verification(
        self, role: str, metadata: Any_, delegators: Sequence[Any_ | None] = ()
    ) -> Sequence[VerificationResult]:
        """Who has signed a role's metadata; all results must be good. delegators: of whom else but the settled one."""
        check_form(role, metadata)
        payload, signatures = metadata.signed_bytes, metadata.signatures
        if role == ROOT:
            before = self.settled(ROOT, metadata.signed.version - 1) if metadata.signed.version > 1 else None
            old = before.signed if before else metadata.signed
            return [signed.get_verification_result(ROOT, payload, signatures) for signed in (old, metadata.signed)]
        delegator = above(role)
        found = delegators or (self.settled(delegator) or self.pending(delegator),)
        for by in found:
            if by is not None:
                check_form(delegator, by)
        return [
            by.signed.get_verification_result(role, payload, signatures)
            for by in found
            if by is not None and (delegator == ROOT or role in delegated(by.signed))
        ]

    def manifest(self, path: str, entry: ListedVersion) -> bytes:
        """A target's content. Raises: TrustError when it is not there, or is not what is listed."""
        try:
            content = read_plain(self.targets / _place(path, entry), entry.size_bytes)
        except OSError as error:
            raise TrustError(
                Duty.REPOSITORY, "no-manifest", f"repository {self.folder}: {path} can't be read: {error.strerror}"
            ) from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise TrustError(
                Duty.REPOSITORY,
                "mixed",
                f"repository {self.folder}: {path} is not what the researcher signed; sign nothing",
            )
        return content

    def pointer(self, targets: Targets, version: Version) -> Pointer | None:
        """The pointer of an image that a role lists."""
        entry = entry_of(targets, version.latest)
        return decode(version.latest, self.manifest(version.latest, entry)) if entry else None

    def complete(self, role: str, metadata: Any_) -> bool:
        """Whether enough of the right keys have signed."""
        if role == ROOT:
            newest = self.settled(ROOT)
            begun = self.held is None or self.held.begun == digest_of(metadata)
            return follows(newest, metadata) if newest is not None else own(metadata) and begun
        by = self.settled(above(role))
        return by is not None and signed_by(role, by, metadata)

    # -- changing ---------------------------------------------------------------------------------------------

    def draft(self, role: str, now: datetime) -> Any_:
        """What the next version of a role starts from: what waits or is settled, unsigned. Raises: TrustError."""
        before = self.settled(role) or self.former(role)
        seen = self.held.seen.get(role) if self.held is not None else None
        if seen is not None and (before is None or before.signed.version < seen.version):
            raise rolled_back(role, seen, f"only version {before.signed.version}" if before else "nothing")
        base = self.pending(role) or before
        if base is None:
            if role not in self.roles():
                raise TrustError(
                    Duty.REQUEST, "no-role", f"role {role}: there is none; `deskgrid trust add-key {role} …` makes it"
                )
            return repository.first_project(now)
        return repository.again(base, before.signed.version + 1 if before else 1, now)

    def keep(self, role: str, draft: Any_) -> None:
        """Let a draft wait for signatures."""
        write_atomic(self.waiting / f"{role}.json", draft.to_bytes())

    def put(self, path: str, content: bytes, entry: ListedVersion) -> None:
        """Keep a target's content."""
        place = self.targets / _place(path, entry)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, content)


@contextmanager
def _patiently(lock: Path, wait_seconds: float) -> Iterator[None]:
    end = time.monotonic() + wait_seconds
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(lock, wait=False))
                break
            except Locked:
                if time.monotonic() >= end:
                    raise
            time.sleep(_AGAIN_SECONDS)
        yield


def _place(path: str, entry: ListedVersion) -> str:
    folder, _, file = path.rpartition("/")
    return f"{folder}/{entry.sha256}.{file}"
