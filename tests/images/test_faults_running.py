"""Attacks and faults against the process that serves a desktop's images, from signed image to what a guest reads."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from deskgrid.demo.signers import Signers
from deskgrid.images.contract import ImageError
from deskgrid.images.desktop import Allowance, DesktopStore, Origins
from deskgrid.images.format.published import digest
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.images.store.upkeep import StoreVerified, verify
from deskgrid.images.trust.signing.online import renew
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.pool.embedded.pool import free_port
from deskgrid.wire.disk import MESSAGES, DiskServer
from tests.images.built import built_image
from tests.images.chunks.nbd_client import Client
from tests.images.signed import grant_of, store_of
from tests.system.web_of_packs import FAULTS
from tests.waiting import eventually

pytestmark = pytest.mark.slow

WEB = Path(__file__).parents[1] / "system" / "web_of_packs.py"
NOISE = random.Random(3).randbytes(3 << 20)
ROOMY = Allowance(1 << 30, 0)


class Desktop:
    """A signed image behind a web server some of whose folders mean ill."""

    def __init__(self, folder: Path, port: int) -> None:
        signers = Signers(folder / "signers")
        signers.publish(built_image(folder / "another", "another", disk=NOISE[::-1]))
        version = signers.publish(built_image(folder / "built", disk=NOISE))
        self.places, self.folder = signers.places, folder
        renew(self.places.repository, signers.signer("online"), datetime.now(UTC))
        self.ref = ImageRef(version.image, digest((self.places.repository / version.path).read_bytes()))
        self.url = f"http://127.0.0.1:{port}"
        self._grant = grant_of(self.places, version)

    def grant(self, *paths: str) -> ImageGrant:
        """Its key, with these folders of the web server as sources."""
        return msgspec.structs.replace(self._grant, sources=tuple(f"{self.url}{path}" for path in paths))

    def store(self, name: str = "store", allowance: Allowance = ROOMY, trust: str = "trust") -> DesktopStore:
        """A desktop's store; it knows of no source but those of the grant."""
        origins = store_of(self.folder, self.places).origins
        place = msgspec.structs.replace(origins.trust, folder=self.folder / trust)
        return DesktopStore(Origins(self.folder / name, place, ()), lambda: allowance, lambda: datetime.now(UTC))

    def verified(self, name: str = "store") -> StoreVerified:
        opened = ChunkStore(self.folder / name, StoreLimits(1 << 30, 0))
        try:
            return verify(opened)
        finally:
            opened.close()


@pytest.fixture
def desktop(tmp_path: Path) -> Iterator[Desktop]:
    port = free_port()
    made = Desktop(tmp_path, port)
    argv = [sys.executable, str(WEB), str(made.places.repository), str(port)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield made
        process.kill()


class Serving:
    """The process that serves the disk, as a keeper starts it. said: its sentences."""

    def __init__(self, server: DiskServer, socket: Path) -> None:
        self.socket = str(socket)
        self.process = subprocess.Popen(
            [*server.argv, self.socket, "-", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(server.opening)
        self.process.stdin.flush()
        self.said: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._ready.wait(60), self.said

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            word = MESSAGES.decode(line)
            if word.ready is not None:
                self._ready.set()
            elif word.said:
                self.said.append(word.said)

    def client(self) -> Client:
        return Client(self.socket, timeout_seconds=120)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def opened(store: DesktopStore, desktop: Desktop, grant: ImageGrant, socket: str = "nbd") -> Serving:
    """Fetched, opened, served."""
    store.fetch(desktop.ref, grant)
    served = store.open(desktop.ref, grant).served
    assert served is not None
    return Serving(served, desktop.folder / socket)


def reads_all(serving: Serving) -> bool:
    """Whether a guest reads what was published, all of it."""
    client = serving.client()
    try:
        parts = [client.read(at, min(1 << 18, len(NOISE) - at)) for at in range(0, len(NOISE), 1 << 18)]
        return b"".join(map(bytes, parts)) == NOISE
    finally:
        client.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_beside_a_malicious_mirror_a_guest_reads_only_right_bytes_and_the_mirror_is_named(
    desktop: Desktop, fault: str
) -> None:
    serving = opened(desktop.store(), desktop, desktop.grant(f"/{fault}", ""))
    try:
        assert reads_all(serving)
        if fault not in ("truncates", "endless"):
            assert any("it gave wrong bytes" in one and f"/{fault}" in one for one in serving.said), serving.said
    finally:
        serving.close()
    checked = desktop.verified()
    assert (checked.damaged, checked.faults) == (0, ())
    assert checked.bytes > len(NOISE)


@pytest.mark.parametrize("fault", FAULTS)
def test_with_malicious_mirrors_only_a_guest_waits_and_nothing_of_theirs_is_kept(desktop: Desktop, fault: str) -> None:
    serving = opened(desktop.store(), desktop, desktop.grant(f"/{fault}"))
    try:
        client = serving.client()
        client.ask([(0, 4096)])
        eventually(lambda: any("the guest waits" in one for one in serving.said), lambda: serving.said)
        assert serving.process.poll() is None
        client.close()
    finally:
        serving.close()
    assert desktop.verified().blobs == 0


def test_two_agents_fill_one_empty_store_at_once_and_both_read_the_right_bytes(desktop: Desktop) -> None:
    stores = [desktop.store(trust=trust) for trust in ("trust-1", "trust-2")]
    right: list[bool] = []

    def run(number: int) -> None:
        serving = opened(stores[number], desktop, desktop.grant(""), f"nbd-{number}")
        right.append(reads_all(serving))
        serving.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert right == [True, True]
    checked = desktop.verified()
    assert (checked.damaged, checked.faults) == (0, ())


def test_of_two_agents_one_killed_in_mid_fetch_does_the_other_no_harm(desktop: Desktop) -> None:
    slow = msgspec.structs.replace(ROOMY, bytes_per_second=1 << 20)
    killed = opened(desktop.store(allowance=slow, trust="trust-1"), desktop, desktop.grant(""), "nbd-1")
    client = killed.client()
    client.ask([(0, len(NOISE))])
    other = opened(desktop.store(trust="trust-2"), desktop, desktop.grant(""), "nbd-2")
    time.sleep(0.5)
    killed.process.kill()
    killed.process.wait()
    assert reads_all(other)
    other.close()
    checked = desktop.verified()
    assert (checked.damaged, checked.faults) == (0, ())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system for it")
def test_a_disk_that_gets_full_in_mid_fetch_is_told_and_all_is_read_right_without_being_kept(desktop: Desktop) -> None:
    tight = desktop.folder / "tight"
    tight.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tight)], check=True)
    try:
        serving = opened(desktop.store("tight/store"), desktop, desktop.grant(""))
        try:
            assert reads_all(serving)
            assert any("what is read is fetched without being kept" in one for one in serving.said), serving.said
        finally:
            serving.close()
        checked = desktop.verified("tight/store")
        assert (checked.damaged, checked.faults) == (0, ())
        assert 0 < checked.bytes < len(NOISE)
        before = (tight / "store" / "index.db").stat().st_ino
        _fill(tight)
        with suppress(ImageError):  # to open it takes a little room too
            desktop.verified("tight/store")
        assert (tight / "store" / "index.db").stat().st_ino == before, "a full disk is no damage"
    finally:
        subprocess.run(["umount", "--lazy", str(tight)], check=True)


def test_with_a_store_that_keeps_nothing_not_even_an_index_all_is_read_right(desktop: Desktop) -> None:
    serving = opened(desktop.store(allowance=Allowance(1, 0)), desktop, desktop.grant(""))
    try:
        assert reads_all(serving), serving.said
    finally:
        serving.close()
    assert desktop.verified().blobs == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system for it")
def test_on_a_disk_without_any_room_left_all_is_read_right_and_the_index_stays(desktop: Desktop) -> None:
    tight = desktop.folder / "tight"
    tight.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(tight)], check=True)
    try:
        serving = opened(desktop.store("tight/store"), desktop, desktop.grant(""))
        _fill(tight)
        try:
            assert reads_all(serving), serving.said
        finally:
            serving.close()
        (tight / "ballast").unlink()
        checked = desktop.verified("tight/store")
        assert (checked.damaged, checked.faults) == (0, ())
    finally:
        subprocess.run(["umount", "--lazy", str(tight)], check=True)


def _fill(folder: Path) -> None:
    """Leave no room at all."""
    with (folder / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
