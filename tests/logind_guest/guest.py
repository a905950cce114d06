"""A running Debian with the agent in it, and the hands that a test has on it.

- `run` gives a command to root in the guest (hand.py), over the second serial port.
- `press`, `type` are the owner's hands: real events of an emulated keyboard, over QEMU's monitor.
- `agent` is what the agent in there says of itself; the console's file has the whole journal, to the very end.
"""

import io
import itertools
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path

import msgspec

import deskgrid
from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.files import own_folder

from .disk import HERE, Debian, debian

AGENT_ID = 990
STATE = "var/lib/deskgrid"
_CMDLINE = (
    "console=ttyS0 quiet loglevel=3 panic=1 no_timer_check random.trust_cpu=on cryptomgr.notests mitigations=off "
    "systemd.show_status=no systemd.default_timeout_start_sec=180"
)
_KEYS = {" ": "spc", "\n": "ret", "-": "minus", "/": "slash", ".": "dot", "=": "equal", ";": "semicolon"}
BOOT_SECONDS = 240.0


class Done(msgspec.Struct, frozen=True):
    """What came of a command in the guest. code: None: it took too long. at: the guest's steady clock."""

    id: int
    code: int | None
    out: str
    err: str
    at: float


class Gone(Exception):
    """The guest does not answer any more."""


class Wire:
    """Lines to and from the machine. A late line is read by the next who asks."""

    def __init__(self, stream: socket.socket, last_words: Callable[[], str]) -> None:
        self._stream, self._last_words, self._rest = stream, last_words, b""

    def send(self, data: bytes) -> None:
        """Say something. Raises: Gone."""
        try:
            self._stream.sendall(data)
        except OSError as error:
            raise Gone(f"{error}; console: {self._last_words()}") from None

    def line(self, seconds: float) -> bytes:
        """The next line. Raises: Gone."""
        self._stream.settimeout(seconds)
        while b"\n" not in self._rest:
            try:
                data = self._stream.recv(65536)
            except OSError as error:
                raise Gone(f"{error}; console: {self._last_words()}") from None
            if not data:
                raise Gone(f"the machine has ended; console: {self._last_words()}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line


class Guest:
    """One machine, from its start to `close`."""

    def __init__(self, debian: Debian, files: Mapping[str, tuple[bytes, int]] | None = None) -> None:
        """Start it. files: further files in the guest: their content and mode, owner root."""
        self.folder = Path(tempfile.mkdtemp(prefix="dg-guest-"))
        account = service_account()
        own_folder(self.folder, account, 0o755)
        brought = self.folder / "brought.tar"
        _bring(brought, files or {})
        self.console = self.folder / "console"
        self._ids = itertools.count(1)
        self._events: list[dict[str, object]] = []
        paths = [self.folder / name for name in ("qmp", "hand")]
        listeners = [_listen(path) for path in paths]
        argv = [*become(account), *_argv(debian, self.folder, brought)]
        with (self.folder / "stderr").open("wb") as errors:
            self.qemu = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, env=os.environ | {"TMPDIR": "/var/tmp"}
            )
        try:
            self._qmp, self._hand = [self._accept(each) for each in listeners]
            self._qmp.line(30)
            self.qmp("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    # -- the hands ------------------------------------------------------------------------------------------------

    def await_up(self) -> None:
        """Wait until root answers."""
        self._hand.line(BOOT_SECONDS)

    def run(self, *argv: str, stdin: str = "", seconds: float = 60.0) -> Done:
        """Run a command as root. Raises: Gone."""
        number = next(self._ids)
        ask = {"id": number, "argv": argv, "stdin": stdin, "seconds": seconds}
        self._hand.send(json.dumps(ask).encode() + b"\n")
        while True:
            line = self._hand.line(seconds + 60)
            if line.startswith(b'{"id": %d,' % number):
                return msgspec.json.decode(line, type=Done)

    def sure(self, *argv: str, stdin: str = "", seconds: float = 60.0) -> str:
        """Run a command that must succeed; what it printed."""
        done = self.run(*argv, stdin=stdin, seconds=seconds)
        assert done.code == 0, f"{argv}: {done}"
        return done.out

    def qmp(self, command: str, **arguments: object) -> object:
        """Ask QEMU's monitor. Raises: Gone; AssertionError when it refuses."""
        text = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
        self._qmp.send(text.encode())
        while True:
            answer = json.loads(self._qmp.line(60))
            if "event" in answer:
                self._events.append(answer)
                continue
            assert "return" in answer, answer
            return answer["return"]

    def await_event(self, name: str, seconds: float) -> None:
        """Wait until QEMU has told of this (such as "SUSPEND"); what it told before counts too, once."""
        while True:
            for event in self._events:
                if event["event"] == name:
                    self._events.remove(event)
                    return
            self._events.append(json.loads(self._qmp.line(seconds)))

    def press(self, *keys: str) -> None:
        """Press keys together, by QEMU's names."""
        self.qmp("send-key", keys=[{"type": "qcode", "data": key} for key in keys], **{"hold-time": 20})

    def type(self, text: str) -> None:
        """Type lower case text, as a person would."""
        for char in text:
            self.press(_KEYS.get(char, char))
            time.sleep(0.08)

    # -- what is seen ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """What the agent says; {} before it has said anything."""
        done = self.run("cat", f"/{STATE}/status.json")
        return json.loads(done.out) if done.code == 0 and done.out else {}

    def refusals(self) -> list[str]:
        """Names of the agent's refusals."""
        availability = self.status().get("availability", {"available": False})
        assert isinstance(availability, dict)
        return (
            []
            if availability["available"]
            else [each["name"] for each in availability.get("refusals", [{"name": "?"}])]
        )

    def journal(self, *more: str) -> str:
        """The agent's lines in the journal."""
        return self.sure("journalctl", "-u", "deskgrid-agent", "-o", "cat", "--no-pager", *more)

    def unit(self, name: str, *argv: str, **more: str) -> None:
        """Start a program as the agent's account, in a unit such as the agent's own."""
        properties = {"User": "deskgrid", "SupplementaryGroups": "input", "Slice": "deskgrid.slice"} | more
        given = [f"--property={key}={value}" for key, value in properties.items()]
        self.sure("systemd-run", "--quiet", f"--unit={name}", "--setenv=PYTHONPATH=/opt/deskgrid", *given, *argv)

    def await_console(self, text: str, seconds: float) -> None:
        """Wait until the console has said this."""
        self.until(f"{text!r} on the console", lambda: text in self.console.read_text(errors="replace"), seconds, 0.05)

    def until(
        self,
        what: str,
        done: Callable[[], object],
        seconds: float = 60.0,
        step_seconds: float = 0.3,
        told: Callable[[], object] | None = None,
    ) -> None:
        """Wait until it holds. told: what to tell with the failure when it doesn't; None: the console's end."""
        began = time.monotonic()
        while not done():
            late = time.monotonic() - began > seconds
            assert not late, f"waited {seconds} s for {what}, in vain: {(told or self.last_words)()}"
            time.sleep(step_seconds)

    def close(self) -> None:
        """End it, whatever it does."""
        self.qemu.kill()
        self.qemu.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self, listener: socket.socket) -> "Wire":
        listener.settimeout(30)
        try:
            return Wire(listener.accept()[0], self.last_words)
        except TimeoutError:
            raise Gone(f"QEMU: {(self.folder / 'stderr').read_text()}") from None
        finally:
            listener.close()

    def last_words(self, count: int = 2000) -> str:
        """The end of the console."""
        return self.console.read_text(errors="replace")[-count:]


def start(files: Mapping[str, tuple[bytes, int]] | None = None) -> Guest:
    """Boot a machine and wait until root answers."""
    guest = Guest(debian(), files)
    try:
        guest.await_up()
    except BaseException:
        guest.close()
        raise
    return guest


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen(1)
    return listener


def _argv(debian: Debian, folder: Path, brought: Path) -> list[str]:
    drives = []
    for number, (path, snapshot) in enumerate(((debian.disk, "on"), (brought, "off"))):
        readonly = "off" if snapshot == "on" else "on"
        name = f"if=none,id=d{number},format=raw,snapshot={snapshot},read-only={readonly},cache=unsafe,file={path}"
        drives += ["-drive", name, "-device", f"virtio-blk-pci,drive=d{number}"]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", "pc", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max", "-smp", "2", "-m", "768"),
        *("-kernel", str(debian.kernel), "-initrd", str(debian.initrd), "-append", _CMDLINE),
        *drives,
        *("-chardev", f"socket,id=qmp,path={folder}/qmp", "-mon", "chardev=qmp,mode=control"),
        *("-serial", f"file:{folder}/console", "-chardev", f"socket,id=hand,path={folder}/hand"),
        *("-serial", "chardev:hand"),
    ]


def _bring(path: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Write the tar that is unpacked in the guest."""
    units = "etc/systemd/system"
    with tarfile.open(path, "w") as tar:
        _add_package(tar, Path(deskgrid.__file__).parent, "opt/deskgrid/deskgrid")
        for name in ("jeepney",):
            if (spec := find_spec(name)) is not None and spec.origin:
                _add_package(tar, Path(spec.origin).parent, f"opt/deskgrid/{name}")
        ours = {
            "opt/hand.py": ((HERE / "hand.py").read_bytes(), 0o755),
            "opt/visitor.py": ((HERE / "visitor.py").read_bytes(), 0o755),
            "etc/pam.d/visitor": ((HERE / "visitor.pam").read_bytes(), 0o644),
            "opt/watcher.py": ((HERE / "watcher.py").read_bytes(), 0o644),
            "etc/systemd/sleep.conf": (b"[Sleep]\nMemorySleepMode=s2idle\n", 0o644),
            f"{units}/deskgrid.slice": ((HERE / "deskgrid.slice").read_bytes(), 0o644),
            f"{units}/hand.service": ((HERE / "hand.service").read_bytes(), 0o644),
            f"{units}/deskgrid-agent.service": ((HERE / "agent.service").read_bytes(), 0o644),
            "etc/deskgrid/agent.toml": ((HERE / "agent.toml").read_bytes(), 0o644),
            "etc/deskgrid/policy/grid.toml": ((HERE / "grid.toml").read_bytes(), 0o644),
        }
        for name, (content, mode) in {**ours, **files}.items():
            _add(tar, name, content, mode)
        _link(tar, f"{units}/sysinit.target.wants/hand.service", "../hand.service")
        _link(tar, f"{units}/multi-user.target.wants/deskgrid-agent.service", "../deskgrid-agent.service")
        folder = tarfile.TarInfo(STATE)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, AGENT_ID, AGENT_ID
        tar.addfile(folder)
        _add(tar, f"{STATE}/credential", b"credential-of-a-test", 0o600, AGENT_ID)
        _add(tar, f"{STATE}/coordinator-ca.pem", _ca(), 0o644, AGENT_ID)
    path.chmod(0o644)


def _add_package(tar: tarfile.TarFile, folder: Path, place: str) -> None:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            _add(tar, f"{place}/{file.relative_to(folder)}", file.read_bytes(), 0o644)


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int, owner: int = 0) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uid, member.gid = len(content), mode, owner, owner
    member.mtime = int(time.time())
    tar.addfile(member, io.BytesIO(content))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    tar.addfile(member)


def _ca() -> bytes:
    """A certificate of nobody's: the coordinator is never reached."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test's CA")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
