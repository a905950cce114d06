"""The process that serves: right bytes, patience, and no secret anywhere."""

import os
import random
import re
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deskgrid.images.contract import ImageError
from deskgrid.images.format import published as published_manifest
from deskgrid.images.publish.publish import Published
from deskgrid.images.publish.trial import trial
from deskgrid.images.serve import launch
from deskgrid.images.serve.launch import Server, blockdev
from deskgrid.images.serve.prefetch import Prefetch
from deskgrid.images.serve.serve import ServeOrder
from deskgrid.images.store.store import ChunkStore, StoreLimits
from deskgrid.wire.disk import MESSAGES, DiskCommand
from deskgrid.wire.lines import encode
from tests.images.chunks.ground import CANARY, KEY, ROOMY, content, order, origin, published, web
from tests.images.chunks.nbd_client import Client
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def made(tmp_path: Path) -> Published:
    return published(tmp_path, content())


@pytest.fixture
def asked(tmp_path: Path, made: Published) -> Iterator[ServeOrder]:
    store = ChunkStore(tmp_path / "store", ROOMY)
    with store.admit(made.path.read_bytes()) as image:
        yield order(store, image.digest)
    store.close()


def _reads_right(folder: Path, path: Path, times: int = 60) -> None:
    disk = (folder / "built-1/disk.raw").read_bytes()
    client, rng = Client(path, timeout_seconds=60), random.Random(2)
    assert client.size == len(disk)
    for _ in range(times):
        offset = rng.randrange(len(disk))
        length = min(rng.randrange(1, 300_000), len(disk) - offset)
        assert client.read(offset, length) == disk[offset : offset + length]
    client.close()


def test_a_guest_reads_what_was_published_while_it_is_fetched(tmp_path: Path, asked: ServeOrder) -> None:
    server = Server(msgspec.structs.replace(asked, sources=(origin(tmp_path),), prefetch=Prefetch.ALL), KEY)
    try:
        _reads_right(tmp_path, server.socket)
        for export in ("kernel", "initrd"):
            client, handle = Client(server.socket, export), os.memfd_create(export)
            client.copy_to(handle)
            assert os.pread(handle, client.size, 0) == (tmp_path / "built-1" / export).read_bytes()
            os.close(handle)
        assert server.facts["no_dumps"] and server.first_reads()
    finally:
        server.close()
    assert server.process.returncode == 0 and not server.socket.exists()


def test_while_the_source_is_away_the_guest_waits_without_an_error(tmp_path: Path, asked: ServeOrder) -> None:
    with web(tmp_path / "server") as source:
        source.behave = "away"
        server = Server(msgspec.structs.replace(asked, sources=(source.origin,)), KEY)
        reader = threading.Thread(target=_reads_right, args=(tmp_path, server.socket, 5))
        reader.start()
        try:
            eventually(lambda: server.status().away)
            assert reader.is_alive() and any("the guest waits" in one for one in server.said)
            source.behave = ""
            reader.join(60)
            assert not reader.is_alive() and not server.status().away
        finally:
            server.close()


def test_what_waits_holds_up_nobody_who_reads_what_is_here(tmp_path: Path, asked: ServeOrder) -> None:
    with web(tmp_path / "server") as source:
        server = Server(msgspec.structs.replace(asked, sources=(source.origin,)), KEY)
        try:
            client = Client(server.socket, timeout_seconds=60)
            client.read(0, 4096)
            source.behave = "away"
            client.ask([(1 << 20, 200_000), (0, 4096)])
            assert client.take(4096) == (tmp_path / "built-1/disk.raw").read_bytes()[:4096]
            source.behave = ""
            assert len(client.take(200_000)) == 200_000
        finally:
            server.close()


def test_with_a_full_store_the_guest_reads_all_the_same(tmp_path: Path, asked: ServeOrder) -> None:
    small = msgspec.structs.replace(
        asked, limits=StoreLimits(60_000, 0), sources=(origin(tmp_path),), prefetch=Prefetch.ALL
    )
    server = Server(small, KEY)
    try:
        _reads_right(tmp_path, server.socket, 20)
        assert any("raise the budget" in one for one in server.said)
    finally:
        server.close()


def test_kernel_and_initrd_come_into_memory_files_from_a_source_when_they_are_not_here(
    tmp_path: Path, asked: ServeOrder
) -> None:
    files = os.memfd_create("kernel"), os.memfd_create("initrd")
    with web(tmp_path / "server") as source:
        server = Server(msgspec.structs.replace(asked, sources=(source.origin,)), KEY, files=files)
        server.close()
    for name, handle in zip(("kernel", "initrd"), files, strict=True):
        expected = (tmp_path / "built-1" / name).read_bytes()
        assert os.pread(handle, len(expected) + 1, 0) == expected
        os.close(handle)


def test_it_obeys_while_it_fills_the_memory_files_and_ends_with_its_standard_input(
    tmp_path: Path, asked: ServeOrder
) -> None:
    files = os.memfd_create("kernel"), os.memfd_create("initrd")
    with web(tmp_path / "server") as source:
        source.behave = "away"
        cold = msgspec.structs.replace(asked, sources=(source.origin,))
        process = subprocess.Popen(
            [*launch.argv(), str(tmp_path / "nbd"), *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=files,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(launch.opening(cold, KEY))
        process.stdin.flush()
        assert "the guest waits" in MESSAGES.decode(process.stdout.readline()).said

        def away() -> bool:
            process.stdin.write(encode(DiskCommand("status")))
            process.stdin.flush()
            return "503" in MESSAGES.decode(process.stdout.readline()).answer["away"]

        eventually(away)
        process.stdin.close()
        assert process.wait(60) == 0 and not (tmp_path / "nbd").exists()
        process.stdout.close()
    for handle in files:
        os.close(handle)


def test_without_its_store_or_its_image_it_says_so(tmp_path: Path, asked: ServeOrder) -> None:
    with pytest.raises(ImageError, match="gone: it is not there any more"):
        Server(msgspec.structs.replace(asked, store=str(tmp_path / "gone")), KEY)
    assert not (tmp_path / "gone").exists()
    with pytest.raises(ImageError, match="image 000000000000…: No such file"):
        Server(msgspec.structs.replace(asked, digest="0" * 64), KEY)


def test_what_a_keeper_needs_to_know_is_made_of_an_order_a_key_and_a_manifest(
    asked: ServeOrder, made: Published
) -> None:
    manifest, _ = published_manifest.decode(made.path.read_bytes())
    server = launch.disk_server(asked, KEY, manifest)
    assert server.opening.endswith(KEY) and server.opening == launch.disk_server(asked, b"", manifest).opening + KEY
    assert (server.size_bytes, server.kernel, server.initrd) == (manifest.disk.bytes, True, True)
    assert KEY.hex() not in repr(server) and repr(KEY) not in repr(server)


def test_a_wrong_key_is_refused_with_a_sentence(asked: ServeOrder) -> None:
    with pytest.raises(ImageError, match="ask for the key of lab"):
        Server(asked, bytes(32))


def test_key_and_canary_are_in_no_argument_environment_or_file_running_or_killed(
    tmp_path: Path, asked: ServeOrder
) -> None:
    server = Server(msgspec.structs.replace(asked, sources=(origin(tmp_path),), prefetch=Prefetch.ALL), KEY)
    try:
        _reads_right(tmp_path, server.socket, 10)
        proc = Path(f"/proc/{server.process.pid}")
        for shown in ("cmdline", "environ"):
            assert KEY not in (proc / shown).read_bytes() and KEY.hex().encode() not in (proc / shown).read_bytes()
        assert re.search(r"Max core file size +0 +0 ", (proc / "limits").read_text())
        _nothing_in_the_clear(tmp_path)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        _nothing_in_the_clear(tmp_path)
    finally:
        server.close()


def test_after_kill_9_another_goes_on_with_what_was_fetched(tmp_path: Path, asked: ServeOrder) -> None:
    first = Server(msgspec.structs.replace(asked, sources=(origin(tmp_path),), prefetch=Prefetch.ALL), KEY)
    _reads_right(tmp_path, first.socket, 10)
    eventually(lambda: first.status().prefetched)
    first.process.kill()
    first.process.wait()
    first.close()
    second = Server(asked, KEY)  # without any source
    try:
        _reads_right(tmp_path, second.socket, 10)
    finally:
        second.close()


def test_it_ends_with_whoever_holds_its_standard_input(asked: ServeOrder) -> None:
    server = Server(asked, KEY)
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(20) == 0


def test_a_client_that_talks_nonsense_is_cut_off_and_others_are_served(tmp_path: Path, asked: ServeOrder) -> None:
    server = Server(msgspec.structs.replace(asked, sources=(origin(tmp_path),)), KEY)
    try:
        for nonsense in (b"\xff" * 64, struct.pack(">IQII", 3, 0x49484156454F5054, 7, 1 << 31)):
            link = socket.socket(socket.AF_UNIX)
            link.connect(str(server.socket))
            link.recv(18)
            link.sendall(nonsense)
            link.settimeout(20)
            try:
                while link.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            link.close()
        client = Client(server.socket, timeout_seconds=20)
        for offset, length in ((client.size, 1), (0, 3 << 20), (1 << 60, 4096)):
            client.ask([(offset, length)])
            with pytest.raises(ImageError, match="error 22"):
                client.take(length)
        assert client.read(0, 10) == (tmp_path / "built-1/disk.raw").read_bytes()[:10]
    finally:
        server.close()


def test_qemus_own_client_reads_the_same_disk(tmp_path: Path, asked: ServeOrder) -> None:
    server = Server(msgspec.structs.replace(asked, sources=(origin(tmp_path),)), KEY)
    try:
        argv = [
            "qemu-img",
            "convert",
            "-O",
            "raw",
            "--image-opts",
            f"driver=nbd,server.type=unix,server.path={server.socket}",
        ]
        try:
            subprocess.run([*argv, str(tmp_path / "copy")], check=True, timeout=120)
        except FileNotFoundError:
            pytest.skip("qemu-img is not installed")
        assert (tmp_path / "copy").read_bytes() == (tmp_path / "built-1/disk.raw").read_bytes()
        assert blockdev(server.socket)["server"] == {"type": "unix", "path": str(server.socket)}
    finally:
        server.close()


def test_a_trial_boot_notes_what_is_read_first(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content())
    with trial(disk, tmp_path / "socket") as noted:
        client = Client(tmp_path / "socket", timeout_seconds=20)
        for offset in (300_000, 5, 300_000):
            assert client.read(offset, 20_000) == disk.read_bytes()[offset : offset + 20_000]
        client.close()
        assert noted.first_reads() == [*range(299008, 323584, 4096), *range(0, 20480, 4096)]


def test_going_ahead_stops_at_once_and_resumes(tmp_path: Path, asked: ServeOrder) -> None:
    with web(tmp_path / "server") as source:
        source.behave = "stalls"
        server = Server(msgspec.structs.replace(asked, sources=(source.origin,), prefetch=Prefetch.ALL), KEY)
        try:
            assert source.stalled.wait(20)
            server.ask("pause")
            source.behave, source.ranges = "", []
            time.sleep(0.7)
            assert not source.ranges and not server.status().prefetched
            server.ask("resume")
            eventually(lambda: server.status().prefetched)
        finally:
            server.close()


def test_paused_it_asks_no_source_not_even_for_what_a_guest_waits_for(tmp_path: Path, asked: ServeOrder) -> None:
    with web(tmp_path / "server") as source:
        source.behave = "stalls"
        server = Server(msgspec.structs.replace(asked, sources=(source.origin,)), KEY)
        reader = threading.Thread(target=_reads_right, args=(tmp_path, server.socket, 3))
        reader.start()
        try:
            assert source.stalled.wait(60)
            server.ask("pause")
            source.behave, source.ranges = "", []
            time.sleep(1.5)
            assert not source.ranges and reader.is_alive() and not server.status().away and not server.said
            server.ask("resume")
            reader.join(60)
            assert not reader.is_alive()
        finally:
            server.close()


def _nothing_in_the_clear(folder: Path) -> None:
    for path in (*(folder / "store").rglob("*"), *(folder / "server").rglob("*")):
        if path.is_file():
            found = path.read_bytes()
            assert CANARY[:20] not in found and KEY not in found and KEY.hex().encode() not in found
