"""Boot a built image once, before it is published: what such a boot reads first, and what its machine says of itself.

Rules:
- The machine is thrown away: what it writes goes to a file that QEMU makes and deletes, it reaches no network, and its
  instance data are of no worth to anybody: a pool that is not there, a token that no one made.
- It goes as far as a member goes without a pool: its member says hello, gets `join`, and starts HTCondor's daemons.
  When nothing new was read for some seconds after that, it gets `leave`; what its slot's ad says comes before that
  (core/fleet/promise.py: which attributes are recorded).
- A guest that says nothing is ended too: what it read until then is a boot order all the same.
- QEMU runs as the account without privileges, in its sandbox, and gets open files of ours.
- It runs in software (tcg): an accelerator that hangs must not hold up whoever publishes.
"""

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from deskgrid.core.events import GuestLeft, Joined
from deskgrid.core.fleet.promise import Promise, promise
from deskgrid.host.system import sandbox
from deskgrid.host.system.account import become, service_account
from deskgrid.host.system.files import open_plain, own_folder
from deskgrid.host.system.programs import ENVIRONMENT, program
from deskgrid.images.contract import ImageError
from deskgrid.images.publish.publish import Publication
from deskgrid.images.publish.trial import ReadsTrial, trial
from deskgrid.model.instance import InstanceData
from deskgrid.model.values.text import counted
from deskgrid.wire.guest import LINE_BYTES, Hello, Join, Leave, TrialAd, decode_from_guest, encode
from deskgrid.wire.lines import Lines

QEMU = "qemu-system-x86_64"
MOST_SECONDS = 300.0
_QUIET_SECONDS, _LEAST_AFTER_JOINED, _LEAVING_SECONDS = 4.0, 10.0, 90.0
_MIB = 1 << 20
WORTHLESS = InstanceData(
    vm_id="trial",
    vm_name="trial",
    desktop="trial",
    collector="10.0.2.2:9618",
    token="e30.e30.trial",  # noqa: S106 (of no worth)
    trust_domain="trial",
    cpus=1,
    memory_mb=256,
    trial=True,
)
Say = Callable[[str], None]


def possible() -> bool:
    """Whether there is a QEMU here."""
    return program(QEMU) is not None


class TrialBoot(msgspec.Struct, frozen=True):
    """What a trial boot told. first_reads: offsets of the disk in their order. promise: None: the guest did not say."""

    first_reads: list[int]
    promise: Promise | None


def try_out(source: Publication, say: Say = lambda sentence: None, most_seconds: float = MOST_SECONDS) -> TrialBoot:
    """Boot the image once. say: told how far it is.

    Raises:
        ImageError: there is no QEMU, or it did not start.
    """
    qemu = program(QEMU)
    if qemu is None:
        raise ImageError(f"trial boot: got no {QEMU}, expected one; install QEMU, or publish without a trial boot")
    with tempfile.TemporaryDirectory(prefix="deskgrid-trial-") as name:
        folder = Path(name)
        with trial(source.disk, folder / "disk") as noted:
            _admit(folder)
            talk = _Talk(noted, say, time.monotonic() + most_seconds)
            _boot(qemu, source, folder, talk.attend)
            found = talk.reads or noted.first_reads()
        if not found:
            said = " ".join((folder / "qemu.log").read_text(errors="replace").split())[-300:]
            raise ImageError(f"trial boot: the machine read nothing of its disk: {said or 'QEMU said nothing'}")
    return TrialBoot(found, talk.promise)


def _admit(folder: Path) -> None:
    """Let the account that QEMU runs as reach its socket and a folder for its own files, and nothing else of ours."""
    account = service_account()
    own_folder(folder / "tmp", account, 0o700)
    if os.geteuid() == 0:
        os.chown(folder / "disk", account.uid, account.gid)
        folder.chmod(0o711)


def _boot(qemu: str, source: Publication, folder: Path, attend: Callable[[socket.socket], None]) -> None:
    """Start the machine, and end it when `attend`, which is given its ttyS1, returns."""
    ours, theirs = socket.socketpair()
    with ours, ExitStack() as stack:
        log = stack.enter_context((folder / "qemu.log").open("wb"))
        given = [stack.enter_context(open_plain(path)) for path in (source.kernel, source.initrd) if path is not None]
        kernel, initrd = [*(Path(f"/dev/fd/{file.fileno()}") for file in given), None, None][:2]
        shape = msgspec.structs.replace(source, kernel=kernel, initrd=initrd)
        machine = subprocess.Popen(
            [*become(service_account()), *qemu_args(qemu, shape, folder / "disk", theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno(), *(file.fileno() for file in given)],
            env=ENVIRONMENT | {"TMPDIR": str(folder / "tmp")},
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        try:
            attend(ours)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(machine.pid, signal.SIGKILL)
            machine.wait()


def qemu_args(qemu: str, source: Publication, disk: Path, channel: int) -> list[str]:
    """The argument list of the trial's machine. disk: the socket that serves its disk. channel: ttyS1's open file."""
    boot: list[str] = []
    if source.kernel is not None:
        initrd = [] if source.initrd is None else ["-initrd", str(source.initrd)]
        boot = ["-kernel", str(source.kernel), *initrd, "-append", source.cmdline]
    return [
        *(qemu, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *sandbox.words(),
        *("-machine", "pc,usb=off,vmport=off", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"),
        *("-m", f"size={source.memory_bytes // _MIB}M", *boot),
        *("-serial", "null", "-chardev", f"socket,id=channel,fd={channel}", "-serial", "chardev:channel"),
        *("-drive", f"if=none,id=disk,format=raw,snapshot=on,file=nbd+unix:///disk?socket={disk}"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-netdev", "user,id=net,ipv6=off,restrict=on", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
    ]


class _Talk:
    """What the guest and we say to each other until it has left, or its time is over, or its machine ended.

    reads: what was read until it was told to leave; what leaving reads is no part of a boot.
    """

    def __init__(self, noted: ReadsTrial, say: Say, end: float) -> None:
        self._noted, self._say, self._end = noted, say, end
        self._joined = 0.0
        self.reads: list[int] = []
        self.promise: Promise | None = None

    def attend(self, channel: socket.socket) -> None:
        """Answer the guest."""
        lines, read, changed = Lines(LINE_BYTES), 0, time.monotonic()
        while (now := time.monotonic()) < self._end:
            if len(self._noted) != read:
                read, changed = len(self._noted), now
            if self._joined and not self.reads and now - max(changed + _QUIET_SECONDS, self._joined) > 0:
                self._say(f"the machine has read {counted(read, 'block')}")
                self.reads, self._end = self._noted.first_reads(), now + _LEAVING_SECONDS
                channel.sendall(encode(Leave()))
            if not select.select([channel], [], [], 0.5)[0]:
                continue
            came = channel.recv(LINE_BYTES)
            for line in lines.feed(came):
                if not self._goes_on(channel, line):
                    return
            if not came:
                self._say("the trial's machine ended by itself")
                return
        self._say("the trial's time is over")

    def _goes_on(self, channel: socket.socket, line: bytes) -> bool:
        """Take one message; whether more is to be waited for."""
        message = decode_from_guest(line)
        if isinstance(message, Hello):
            self._say("the machine says hello")
            channel.sendall(encode(Join(WORTHLESS)))
        elif isinstance(message, Joined) and not self._joined:
            self._say("HTCondor's daemons start")
            self._joined = time.monotonic() + _LEAST_AFTER_JOINED
        elif isinstance(message, TrialAd) and message.ad:
            self.promise = promise(message.ad)
            self._say(f"its machine says {counted(len(self.promise.says), 'thing')} of itself")
        return not isinstance(message, GuestLeft)
