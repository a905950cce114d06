"""A compositor tells when its seat falls quiet and when it is used again: a small one by hand, and a real one."""

import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deskgrid.host.system.account import service_account
from deskgrid.host.system.files import own_folder
from deskgrid.host.trees import entry, trees
from deskgrid.model.presence import SessionReading
from deskgrid.session.eyes import QUIET_SECONDS
from deskgrid.session.wayland import WaylandEye
from tests.waiting import eventually

Globals = tuple[tuple[str, int], ...]
BOTH: Globals = (("wl_compositor", 4), ("wl_seat", 7), ("ext_idle_notifier_v1", 1))


class Compositor:
    """Says what a compositor says, one client at a time."""

    def __init__(self, folder: Path, known: Globals = BOTH) -> None:
        self.path, self.known = folder / "wayland-1", known
        self.bound: list[str] = []
        self.watch: tuple[int, int, int] | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self.client: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def say(self, target: int, opcode: int, body: bytes = b"") -> None:
        assert self.client is not None
        self.client.sendall(struct.pack("=II", target, (8 + len(body)) << 16 | opcode) + body)

    def _run(self) -> None:
        self.client, _ = self._listener.accept()
        coming = b""
        while data := self.client.recv(4096):
            coming += data
            while len(coming) >= 8 and len(coming) >= (size := struct.unpack_from("=I", coming, 4)[0] >> 16):
                target, word = struct.unpack_from("=II", coming)
                self._take(target, word & 0xFFFF, coming[8:size])
                coming = coming[size:]

    def _take(self, target: int, opcode: int, body: bytes) -> None:
        if (target, opcode) == (1, 1):  # get_registry
            for number, (name, version) in enumerate(self.known, 1):
                text = name.encode() + b"\0"
                text += b"\0" * (-len(text) % 4)
                self.say(2, 0, struct.pack("=II", number, len(name) + 1) + text + struct.pack("=I", version))
        elif (target, opcode) == (1, 0):  # sync
            self.say(struct.unpack("=I", body)[0], 0, struct.pack("=I", 0))
        elif (target, opcode) == (2, 0):  # bind
            length = struct.unpack_from("=I", body, 4)[0]
            self.bound.append(body[8 : 8 + length - 1].decode())
        elif opcode == 1:  # get_idle_notification(id, milliseconds, seat)
            self.watch = struct.unpack("=III", body)

    def close(self) -> None:
        self._listener.close()
        if self.client is not None:
            self.client.shutdown(socket.SHUT_RDWR)
        self._thread.join(30)


@pytest.fixture
def composed(tmp_path: Path) -> Iterator[Callable[..., tuple[Compositor, WaylandEye, list[SessionReading]]]]:
    made: list[Compositor] = []
    opened: list[WaylandEye] = []

    def make(known: Globals = BOTH) -> tuple[Compositor, WaylandEye, list[SessionReading]]:
        said: list[SessionReading] = []
        made.append(Compositor(tmp_path, known))
        opened.append(WaylandEye(made[-1].path, said.append))
        return made[-1], opened[-1], said

    yield make
    for eye in opened:
        eye.close()
    for one in made:
        one._listener.close()


Composed = Callable[..., tuple[Compositor, WaylandEye, list[SessionReading]]]


def test_it_asks_for_the_seat_to_be_watched_and_tells_quiet_and_use(composed: Composed) -> None:
    compositor, eye, said = composed()
    eventually(lambda: (eye.tend(), compositor.watch)[1])
    assert compositor.bound == ["wl_seat", "ext_idle_notifier_v1"]
    assert compositor.watch is not None
    number, milliseconds, seat = compositor.watch
    assert milliseconds == QUIET_SECONDS * 1000
    assert number != seat
    assert said[-1] == SessionReading("ext-idle-notify", 0.0)
    compositor.say(number, 0)
    eventually(lambda: (eye.tend(), (said[-1].idle_seconds or 0) >= QUIET_SECONDS)[1])
    time.sleep(0.05)
    eye.look()
    assert (said[-1].idle_seconds or 0) > QUIET_SECONDS
    compositor.say(number, 1)
    eventually(lambda: (eye.tend(), said[-1].idle_seconds == 0.0)[1])


def test_a_compositor_that_cannot_tell_is_let_go(composed: Composed) -> None:
    _, eye, said = composed((("wl_seat", 7), ("wl_compositor", 4)))
    eventually(lambda: (eye.tend(), eye.over)[1])
    eye.look()
    assert said == []


@pytest.mark.parametrize("wrong", ["end", "error", "short", "long"])
def test_a_compositor_that_ends_or_talks_nonsense_is_let_go(composed: Composed, wrong: str) -> None:
    compositor, eye, _ = composed()
    eventually(lambda: (eye.tend(), compositor.watch)[1])
    assert compositor.client is not None
    if wrong == "end":
        compositor.close()
    elif wrong == "error":
        compositor.say(1, 0, struct.pack("=III", 1, 0, 0))
    else:
        compositor.client.sendall(struct.pack("=II", 6, (3 if wrong == "short" else 60000) << 16))
    eventually(lambda: (eye.tend(), eye.over)[1])


def test_a_message_in_pieces_is_one_message(composed: Composed) -> None:
    compositor, eye, said = composed()
    eventually(lambda: (eye.tend(), compositor.watch)[1])
    assert compositor.client is not None and compositor.watch is not None
    for byte in struct.pack("=II", compositor.watch[0], 8 << 16):
        compositor.client.sendall(bytes([byte]))
        time.sleep(0.001)
        eye.tend()
    eventually(lambda: (eye.tend(), (said[-1].idle_seconds or 0) >= QUIET_SECONDS)[1])


def test_no_compositor_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        WaylandEye(tmp_path / "none", lambda said: None)


# -- sway, with no screen but a real seat -----------------------------------------------------------------------------

SWAY = trees.TreeRecipe("trixie", ("sway", "wtype"))


@pytest.mark.real
def test_sway_tells_when_it_falls_quiet_and_at_the_first_key() -> None:
    tree = trees.provide(SWAY)
    run = Path(tempfile.mkdtemp(prefix="dgsway-"))
    own_folder(run, service_account(), 0o700)
    (run / "config").touch()
    (run / "config").chmod(0o644)
    settings = [f"XDG_RUNTIME_DIR={run}", f"HOME={run}", "WLR_BACKENDS=headless", "WLR_LIBINPUT_NO_DEVICES=1"]
    settings += ["WLR_RENDERER=pixman"]
    words = ["env", "-u", "DISPLAY", "-u", "WAYLAND_DISPLAY", *settings, "sway", "-c", str(run / "config")]
    sway = subprocess.Popen(entry.enter(tree, words, binds=[run]), stderr=subprocess.DEVNULL)
    said: list[SessionReading] = []
    try:
        eventually(lambda: (run / "wayland-1").exists())
        eye = WaylandEye(run / "wayland-1", said.append)
        eventually(lambda: (eye.tend(), said and (said[-1].idle_seconds or 0) >= QUIET_SECONDS)[1])
        said.clear()
        subprocess.run(
            entry.enter(tree, ["env", *settings, "WAYLAND_DISPLAY=wayland-1", "wtype", "a"], binds=[run]),
            check=True,
            timeout=60,
        )
        # on a busy machine it may have fallen quiet again before it is asked
        eventually(lambda: (eye.tend(), any(one.idle_seconds == 0.0 for one in said))[1])
        sway.terminate()
        sway.wait(60)
        eventually(lambda: (eye.tend(), eye.over)[1])
        eye.close()
    finally:
        sway.kill()
        sway.wait()
        shutil.rmtree(run, ignore_errors=True)
