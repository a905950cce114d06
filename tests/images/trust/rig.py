"""A grid with people in it: two of three administrators, a researcher, an approver, a coordinator, and a desktop."""

import http.server
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deskgrid.images.trust.desktop.client import Trusted
from deskgrid.images.trust.desktop.source import Absent, RepositoryFolderSource, RepositorySource
from deskgrid.images.trust.errors import Duty, TrustError
from deskgrid.images.trust.roles import OWNER
from deskgrid.images.trust.signing.editor import RepositoryEditor
from deskgrid.images.trust.signing.held import SignersMemory
from deskgrid.images.trust.signing.online import Renewed, renew
from deskgrid.images.trust.signing.repository import first_root, first_targets
from deskgrid.images.trust.tufapi import CryptoSigner, Metadata
from deskgrid.images.trust.values import Version

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
ONE, TWO = Version("einstein", "search", "1.0"), Version("einstein", "search", "2.0")


def person(name: str) -> CryptoSigner:
    signer = CryptoSigner.generate_ed25519()
    signer.public_key.unrecognized_fields[OWNER] = name
    return signer


class Grid:
    """A repository in a folder, and the keys of everybody."""

    def __init__(self, folder: Path, now: datetime = NOW) -> None:
        self.shelf, self.now = RepositoryEditor(folder), now
        self.ada, self.bob, self.cleo = person("ada"), person("bob"), person("cleo")
        self.rita, self.paul = person("rita"), person("paul")
        self.online = person("coordinator")
        with self.shelf.editing(new=True):
            admins = [each.public_key for each in (self.ada, self.bob, self.cleo)]
            self.shelf.keep("root", first_root(admins, 2, self.online.public_key, now))
            self.shelf.keep("targets", first_targets(now))
            self.signed(self.ada, self.bob)
        self.bootstrap = (folder / "metadata/1.root.json").read_bytes()
        self.shelf.held = SignersMemory.of(self.bootstrap)
        self.project("einstein", self.rita, self.paul)

    def signed(self, *signers: CryptoSigner) -> None:
        for signer in signers:
            self.shelf.sign(signer)
        self.shelf.settle()

    def project(self, name: str, researcher: CryptoSigner, approver: CryptoSigner) -> None:
        with self.shelf.editing():
            self.shelf.rotate(f"{name}-researcher", self.now, [researcher.public_key])
            self.shelf.rotate(f"{name}-approver", self.now, [approver.public_key])
            self.signed(self.ada, self.bob)

    def propose(self, version: Version, content: bytes, **how: bool) -> None:
        with self.shelf.editing():
            self.shelf.propose(version, content, self.now, **how)
            self.signed(self.rita)

    def approve(self, version: Version) -> None:
        with self.shelf.editing():
            self.shelf.approve(version, self.now)
            self.signed(self.paul)

    def publish(
        self, version: Version, content: bytes | None = None, now: datetime | None = None, **how: bool
    ) -> bytes:
        content = content or f'{{"image": "{version}"}}'.encode()
        self.propose(version, content, **how)
        self.approve(version)
        self.renew(now)
        return content

    def revoke(self, role: str, version: Version, why: str = "it has a hole", now: datetime | None = None) -> None:
        with self.shelf.editing():
            self.shelf.revoke(role, version, why, now or self.now)
            self.signed(self.rita, self.paul)
        self.renew(now)

    def rotate(self, role: str, signers: tuple[CryptoSigner, ...], **how: Any) -> None:
        with self.shelf.editing():
            self.shelf.rotate(role, self.now, **how)
            self.signed(*signers)

    def renew(self, now: datetime | None = None) -> Renewed:
        return renew(self.shelf.folder, self.online, now or self.now)

    @property
    def source(self) -> RepositoryFolderSource:
        return RepositoryFolderSource(self.shelf.folder)

    def file(self, name: str) -> Metadata[Any]:
        return Metadata.from_bytes((self.shelf.metadata / name).read_bytes())


class Attacker:
    """Stands between repository and desktop: serves what it likes instead, and keeps what it once saw."""

    def __init__(self, behind: RepositorySource) -> None:
        self.behind, self.instead, self.asked = behind, dict[str, bytes | Exception](), list[str]()

    def get(self, path: str, most_bytes: int) -> bytes:
        self.asked.append(path)
        if path in self.instead:
            answer = self.instead[path]
            if isinstance(answer, Exception):
                raise answer
            return answer
        return self.behind.get(path, most_bytes)

    def without(self, path: str) -> None:
        self.instead[path] = Absent(path)


@contextmanager
def desktop(folder: Path, grid: Grid, source: RepositorySource | None = None) -> Iterator[Trusted]:
    with Trusted(folder, grid.bootstrap, source or grid.source) as trusted:
        yield trusted


def refused(code: str, fault: Duty, step: Callable[[], object]) -> str:
    """The sentence with which a step is refused."""
    with pytest.raises(TrustError) as error:
        step()
    assert (error.value.code, error.value.fault) == (code, fault), str(error.value)
    assert str(error.value).endswith(f" [{code}]")
    return str(error.value)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def web_server(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with web_server(partial(Quiet, directory=str(folder))) as url:
        yield url


def told(before: bytes | None, after: bytes) -> Sequence[str]:
    """In place of `images.review`, which wants whole manifests."""
    return (f"{before!r} → {after!r}",)
