"""One machine of an image under QEMU and software emulation, without privileges, its changes thrown away."""

import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deskgrid.host.system.account import service_account
from deskgrid.images.build.build import Built
from deskgrid.images.format import manifest
from deskgrid.model.instance import InstanceData
from deskgrid.wire.guest import Hello, Join, Leave, decode_from_guest, encode


class Machine:
    """A running machine; its console is kept, its channel is spoken over a socket pair."""

    def __init__(self, built: Built, direct: bool, console: Path, cpus: int = 2, more: Sequence[str] = ()) -> None:
        qemu = shutil.which("qemu-system-x86_64")
        if qemu is None:
            pytest.skip("qemu-system-x86_64 is not installed")
        self.channel, theirs = socket.socketpair()
        self._rest, self._console = b"", console
        argv = [qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "pc,usb=off"]
        argv += ["-accel", "tcg", "-cpu", "max", "-smp", str(cpus), "-m", "1024"]
        argv += ["-chardev", "stdio,id=console", "-serial", "chardev:console"]
        argv += ["-chardev", f"socket,id=channel,fd={theirs.fileno()}", "-serial", "chardev:channel"]
        argv += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
        argv += ["-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"]
        argv += ["-drive", f"file={built.folder / manifest.DISK},format=raw,if=virtio,snapshot=on"]
        if direct:
            argv += ["-kernel", str(built.folder / manifest.KERNEL), "-initrd", str(built.folder / manifest.INITRD)]
            argv += ["-append", built.manifest.cmdline]
        account = service_account()
        drop = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--"]
        self.started = time.monotonic()
        with console.open("wb") as log:
            self.process = subprocess.Popen(
                [*(drop if os.geteuid() == 0 else []), *argv, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                cwd="/",
            )
        theirs.close()

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def said(self) -> str:
        return self._console.read_text(errors="replace")

    def say(self, message: Join | Leave) -> None:
        self.channel.sendall(encode(message))

    def hear(self, kind: type, seconds: float = 120) -> Any:
        """The next message of this kind."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.channel], [], [], 0.2)[0]:
                data = self.channel.recv(4096)
                assert data, f"the machine is gone: {self.said()}"
                self._rest += data
            while b"\n" in self._rest:
                line, self._rest = self._rest.split(b"\n", 1)
                message = decode_from_guest(line)
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} in {seconds} s: {self.said()}")

    def join(self, instance: InstanceData) -> None:
        self.hear(Hello)
        self.say(Join(instance))

    def end(self, seconds: float = 90) -> int:
        """Listen until the machine has powered itself off; returns QEMU's exit code."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if select.select([self.channel], [], [], 0.2)[0] and not self.channel.recv(4096):
                return self.process.wait(timeout=10)
        raise AssertionError(f"it still runs after {seconds} s: {self.said()}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
