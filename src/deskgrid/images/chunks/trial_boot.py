"""Boot a built image once, before it is published, and learn what such a boot reads first.

Rules, told first
- The machine is thrown away: what it writes goes to a file that QEMU makes and deletes, it reaches no network, and its
  instance data are of no worth to anybody: a pool that is not there, a token that no one made.
- It goes as far as a member goes without a pool: its member says hello, is told to join, and starts HTCondor's daemons.
  When nothing new was read for some seconds after that, it is ended.
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

from deskgrid.host import sandbox
from deskgrid.host.account import become, service_account
from deskgrid.host.files import open_plain, own_folder
from deskgrid.host.programs import ENVIRONMENT, program
from deskgrid.images.chunks.publish import Source
from deskgrid.images.chunks.trial import Trial, trial
from deskgrid.images.contract import ImageError
from deskgrid.model.instance import InstanceData
from deskgrid.wire.guest import LINE_BYTES, Hello, Join, Joined, decode_from_guest, encode

QEMU = "qemu-system-x86_64"
MOST_SECONDS = 300.0
_QUIET_SECONDS, _LEAST_AFTER_JOINED = 4.0, 10.0
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
)
Say = Callable[[str], None]


def possible() -> bool:
    """Whether there is a QEMU here."""
    return program(QEMU) is not None


def first_reads(source: Source, say: Say = lambda sentence: None, most_seconds: float = MOST_SECONDS) -> list[int]:
    """Boot the image and return the disk's offsets in the order in which it read them. say: told how far it is.

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
            _boot(qemu, source, folder, lambda channel: _attend(channel, noted, say, time.monotonic() + most_seconds))
            found = noted.first_reads()
        if not found:
            said = " ".join((folder / "qemu.log").read_text(errors="replace").split())[-300:]
            raise ImageError(f"trial boot: the machine read nothing of its disk: {said or 'QEMU said nothing'}")
    return found


def _admit(folder: Path) -> None:
    """Let the account that QEMU runs as reach its socket and a folder for its own files, and nothing else of ours."""
    account = service_account()
    own_folder(folder / "tmp", account, 0o700)
    if os.geteuid() == 0:
        os.chown(folder / "disk", account.uid, account.gid)
        folder.chmod(0o711)


def _boot(qemu: str, source: Source, folder: Path, attend: Callable[[socket.socket], None]) -> None:
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


def qemu_args(qemu: str, source: Source, disk: Path, channel: int) -> list[str]:
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


def _attend(channel: socket.socket, noted: Trial, say: Say, end: float) -> None:
    """Answer the guest until it has read all that it reads, its time is over, or its machine ended."""
    rest, read, changed, joined = b"", 0, time.monotonic(), 0.0
    while (now := time.monotonic()) < end:
        if len(noted) != read:
            read, changed = len(noted), now
        if joined and now - joined > _LEAST_AFTER_JOINED and now - changed > _QUIET_SECONDS:
            say(f"the machine has read {read} blocks")
            return
        if not select.select([channel], [], [], 0.5)[0]:
            continue
        came = channel.recv(LINE_BYTES)
        if not came:
            say("the trial's machine ended by itself")
            return
        *lines, rest = (rest + came).split(b"\n")
        rest = rest[-LINE_BYTES:]
        for line in lines:
            message = decode_from_guest(line)
            if isinstance(message, Hello):
                say("the machine says hello")
                channel.sendall(encode(Join(WORTHLESS)))
            elif isinstance(message, Joined) and not joined:
                say("HTCondor's daemons start")
                joined = time.monotonic()
    say("the trial's time is over")
