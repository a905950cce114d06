"""A desktop's store of signed images: what is checked before a start, and what is served then."""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from deskgrid.demo.signers import Signers
from deskgrid.images.build.disk_import import import_disk
from deskgrid.images.contract import ImageError
from deskgrid.images.desktop import Allowance, DesktopStore
from deskgrid.images.format.published import digest
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.images.trust.signing.online import renew
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageRef
from deskgrid.wire.disk import MESSAGES, DiskServer
from tests.images.built import built_image
from tests.images.chunks.nbd_client import Client
from tests.images.signed import Rig, grant_of, signed, store_of

pytestmark = pytest.mark.slow


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return signed(tmp_path)


@contextmanager
def served(server: DiskServer, export: str = "disk") -> Iterator[Client]:
    """The disk, as a keeper has it served."""
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/nbd"
        with subprocess.Popen(
            [*server.argv, socket, "-", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(server.opening)
            process.stdin.flush()
            word = MESSAGES.decode(process.stdout.readline())
            assert word.ready is not None, word.said
            client = Client(socket, export, timeout_seconds=60)
            try:
                yield client
            finally:
                client.close()
                process.stdin.close()
                process.wait(30)


def eventually_held(store: DesktopStore, wanted: list[ImageRef]) -> None:
    end = time.monotonic() + 60
    while [facts.ref for facts in store.held()] != wanted:
        assert time.monotonic() < end, store.held()
        time.sleep(0.05)


def test_what_is_served_is_what_was_built_and_then_it_is_held_and_encrypted(rig: Rig, tmp_path: Path) -> None:
    store = rig.store
    assert isinstance(store, DesktopStore)
    store.fetch(rig.facts.ref, rig.grant)
    opened = store.open(rig.facts.ref, rig.grant)
    assert opened.served is not None and opened.cmdline == "quiet"
    assert rig.grant is not None and rig.grant.key not in repr(opened)
    with served(opened.served) as disk:
        assert disk.size == opened.served.size_bytes
        assert bytes(disk.read(0, 4096)).startswith(b"a disk of few words\n")
    store.close(rig.facts.ref)
    eventually_held(store, [rig.facts.ref])
    for folder in ("store", "trust"):
        for file in (tmp_path / folder).rglob("*"):
            content = b""
            with suppress(FileNotFoundError, IsADirectoryError):  # what is being written is renamed in between
                content = file.read_bytes()
            assert b"a disk of few words" not in content and b"a kernel" not in content
            assert rig.grant.key.encode() not in content and bytes.fromhex(rig.grant.key) not in content


def test_an_image_that_a_machine_runs_from_is_not_removed(rig: Rig, tmp_path: Path) -> None:
    chunks = ChunkStore(tmp_path / "store", StoreLimits(1 << 30, 0))
    for _ in range(2):
        rig.store.fetch(rig.facts.ref, rig.grant)
        rig.store.open(rig.facts.ref, rig.grant)
    rig.store.close(rig.facts.ref)
    assert chunks.in_use(rig.facts.ref.digest) and not chunks.remove(rig.facts.ref.digest)
    rig.store.close(rig.facts.ref)
    assert chunks.remove(rig.facts.ref.digest)


def test_without_a_key_nothing_is_fetched_and_the_sentence_says_whose_turn_it_is(rig: Rig) -> None:
    with pytest.raises(ImageError, match="gave no key for it; update the coordinator"):
        rig.store.fetch(rig.facts.ref, None)


def test_a_lease_for_another_content_than_the_signers_say_is_the_images_fault(rig: Rig) -> None:
    with pytest.raises(ImageError, match="its signers say") as caught:
        rig.store.fetch(ImageRef(rig.facts.ref.name, "f" * 64), rig.grant)
    assert caught.value.whose is Fault.IMAGE


@pytest.mark.parametrize(("days", "code"), [(2, "expired-timestamp"), (365, "expired-timestamp")])
def test_with_an_expired_timestamp_nothing_starts(rig: Rig, tmp_path: Path, days: int, code: str) -> None:
    assert isinstance(rig.store, DesktopStore)
    origins = rig.store.origins
    later = DesktopStore(origins, lambda: Allowance(1 << 30, 0), lambda: datetime.now(UTC) + timedelta(days=days))
    with pytest.raises(ImageError, match=code) as caught:
        later.fetch(rig.facts.ref, rig.grant)
    assert caught.value.whose is Fault.DESKTOP


def test_a_clock_that_is_a_year_behind_is_this_desktops_fault(rig: Rig) -> None:
    assert isinstance(rig.store, DesktopStore)
    early = DesktopStore(
        rig.store.origins, lambda: Allowance(1 << 30, 0), lambda: datetime.now(UTC) - timedelta(days=365)
    )
    with pytest.raises(ImageError, match="clock") as caught:
        early.fetch(rig.facts.ref, rig.grant)
    assert caught.value.whose is Fault.DESKTOP


def test_a_repository_that_is_away_stops_nothing_until_the_timestamp_expires(rig: Rig) -> None:
    assert isinstance(rig.store, DesktopStore)
    rig.store.fetch(rig.facts.ref, rig.grant)
    origins = rig.store.origins
    nowhere = msgspec.structs.replace(origins.trust, repository="http://127.0.0.1:1")
    for days, ends in ((0, False), (2, True)):
        store = DesktopStore(
            msgspec.structs.replace(origins, trust=nowhere),
            lambda: Allowance(1 << 30, 0),
            lambda days=days: datetime.now(UTC) + timedelta(days=days),
        )
        if ends:
            with pytest.raises(ImageError, match="expired-timestamp"):
                store.fetch(rig.facts.ref, rig.grant)
        else:
            store.fetch(rig.facts.ref, rig.grant)


def test_an_image_larger_than_the_budget_is_served_and_kept_as_far_as_it_fits(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(3 << 20)
    signers = Signers(tmp_path / "signers")
    version = signers.publish(built_image(tmp_path / "built", disk=noise))
    renew(signers.places.repository, signers.signer("online"), datetime.now(UTC))
    origins = store_of(tmp_path, signers.places).origins
    small = DesktopStore(origins, lambda: Allowance(1 << 20, 0), lambda: datetime.now(UTC))
    ref = ImageRef("demo", digest((signers.places.repository / version.path).read_bytes()))
    grant = grant_of(signers.places, version)
    small.fetch(ref, grant)
    opened = small.open(ref, grant)
    assert opened.served is not None
    with served(opened.served) as disk:
        assert bytes(disk.read(0, 1 << 20)) == noise[: 1 << 20]
        assert bytes(disk.read(2 << 20, 1 << 20)) == noise[2 << 20 :]
    held = sum(ChunkStore(tmp_path / "store", StoreLimits(1 << 20, 0)).packs().values())
    assert held <= 1 << 20


def test_a_store_that_cannot_be_written_is_one_sentence(rig: Rig, tmp_path: Path) -> None:
    assert isinstance(rig.store, DesktopStore)
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    (tmp_path / "store").write_text("in the way")
    with pytest.raises(ImageError, match=r"store .*: .+; ") as caught:
        rig.store.fetch(rig.facts.ref, rig.grant)
    assert caught.value.whose is Fault.DESKTOP


def test_an_imported_disk_has_its_first_data_served_beside_it_and_no_kernel(tmp_path: Path) -> None:
    disk = tmp_path / "cloud.raw"
    disk.write_bytes(b"\xeb\x63" + bytes(508) + b"\x55\xaa" + bytes((16 << 20) - 512))
    image = import_disk(disk, "cloud", 512 << 20, cache=tmp_path)
    signers = Signers(tmp_path / "signers")
    version = signers.publish(image.folder)
    places = signers.places
    renew(places.repository, signers.signer("online"), datetime.now(UTC))
    store, grant = store_of(tmp_path, places), grant_of(places, version)
    ref = ImageRef("cloud", digest((places.repository / version.path).read_bytes()))
    store.fetch(ref, grant)
    server = store.open(ref, grant).served
    assert server is not None and (server.kernel, server.initrd, server.seed) == (False, False, True)
    with served(server, "seed") as seed:
        content = bytes(seed.read(0, seed.size))
    assert b"cidata" in content and b"#cloud-config" in content
    assert grant.key.encode() not in content


def test_a_check_that_dies_is_a_sentence_and_its_reason_is_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    assert isinstance(rig.store, DesktopStore)
    naive = datetime.now(UTC).replace(tzinfo=None)  # no time without its zone is understood
    store = DesktopStore(rig.store.origins, lambda: Allowance(1 << 30, 0), lambda: naive)
    with pytest.raises(ImageError, match="gave no answer; see the agent's log"):
        store.fetch(rig.facts.ref, rig.grant)
    assert "ended with 1: " in caplog.text


def test_the_agents_part_and_the_command_line_import_nothing_heavy() -> None:
    code = (
        "import sys, deskgrid.images.desktop, deskgrid.cli.trust.trust\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tuf', 'securesystemslib', 'pkcs11', 'zstandard')])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
