"""QEMU's argument list: a pure function of what shall run, on what, and which open files QEMU inherits.

Rules:
- No secret and no name of a file that a secret is in: the overlay's passphrase comes through an inherited pipe.
- Nothing that QEMU would make by itself (`-nodefaults`, `-no-user-config`, no display), and as few rights as it can
  work with (`-sandbox`).
- The guest's disk is: base image, read only, from a file or served by NBD; over it the encrypted overlay, bounded in
  size. Files are used around the host's cache where the file system can do that, so that a VM does not push the
  owner's files out of memory.
- A write that fails stops the VM instead of telling the guest: a job must not end with an error that is the desktop's.
- Values that could hold a comma go as JSON.

Source: qemu(1), docs/interop/qmp-ref (BlockdevOptions), QEMU 8.2 to 10.0.
"""

import json
from pathlib import Path

import msgspec

from deskgrid.host.system import sandbox
from deskgrid.model.lease import Size
from deskgrid.wire.disk import OpenedImage

MIB = 1024 * 1024
STARVED = "no_timer_check"
"""For Linux: a CPU in the idle class may get no time just while the kernel tests its timer, and it would give up with
"IO-APIC + timer doesn't work"."""
_MACHINE = "pc,usb=off,vmport=off,dump-guest-core=off,mem-merge=off"
_CPU = {"kvm": "host", "hvf": "host", "tcg": "max"}
_ACCELERATOR = {"tcg": "tcg,thread=multi,tb-size=128"}


class Handles(msgspec.Struct, frozen=True):
    """Open files that QEMU inherits, by number.

    qmp, console, channel: our ends' peers of socket pairs: QEMU's monitor, ttyS0, ttyS1. overlay: the overlay's file.
    passphrase: a pipe that gives the overlay's passphrase once. kernel, initrd: memory files with them; -1: none.
    """

    qmp: int
    console: int
    channel: int
    overlay: int
    passphrase: int
    kernel: int = -1
    initrd: int = -1


class VmHardware(msgspec.Struct, frozen=True):
    """What shall run.

    image: without its secret; without a kernel, here or among the handles, the BIOS boots from the disk.
    disk: the raw file; or, if it is served, the socket of the NBD server that has it. disk_bytes: its length.
    overlay_bytes: the overlay file's length.
    base_direct, overlay_direct: whether they are on file systems that can go around the host's cache.
    """

    vm_id: str
    size: Size
    image: OpenedImage
    disk: Path
    disk_bytes: int
    overlay_bytes: int
    base_direct: bool = True
    overlay_direct: bool = True


def qemu_args(qemu: str, machine: VmHardware, accelerator: str, handles: Handles) -> list[str]:
    """The argument list for one VM; its CPUs wait for QMP's `cont`.

    Args:
        qemu: the program. accelerator: exactly one of "kvm", "hvf", "whpx", "tcg".
    """
    return [
        *(qemu, "-name", f"guest={machine.vm_id},debug-threads=on"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-S", "-no-reboot"),
        *sandbox.words(),
        *("-machine", _MACHINE, "-accel", _ACCELERATOR.get(accelerator, accelerator)),
        *(("-cpu", _CPU[accelerator]) if accelerator in _CPU else ()),
        *("-smp", f"cpus={machine.size.cpus}", "-m", f"size={machine.size.memory_bytes // MIB}M"),
        *_boot(machine, handles),
        *_ports(handles),
        *_disk(machine, handles),
        *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
    ]


def _boot(machine: VmHardware, handles: Handles) -> list[str]:
    kernel = _inherited(handles.kernel) or machine.image.kernel
    if kernel is None:
        return []
    given = _inherited(handles.initrd) or machine.image.initrd
    initrd = ["-initrd", str(given)] if given is not None else []
    return ["-kernel", str(kernel), *initrd, "-append", f"{machine.image.cmdline} {STARVED}".strip()]


def _inherited(handle: int) -> Path | None:
    return Path(f"/proc/self/fd/{handle}") if handle >= 0 else None


def _ports(handles: Handles) -> list[str]:
    """Monitor, ttyS0 (console) and ttyS1 (the guest's channel), each one end of a socket pair."""
    return [
        *("-chardev", f"socket,id=qmp,fd={handles.qmp}", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=console,fd={handles.console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=channel,fd={handles.channel}", "-serial", "chardev:channel"),
    ]


def _disk(machine: VmHardware, handles: Handles) -> list[str]:
    # Threads for the overlay: a write that makes a file grow blocks in io_submit, and with it QEMU's main loop.
    overlay_file = {
        "driver": "file",
        "node-name": "overlay-file",
        "filename": f"/proc/self/fd/{handles.overlay}",
        "discard": "unmap",
        **_cache(machine.overlay_direct, "threads"),
    }
    bounded = {"driver": "raw", "node-name": "overlay-bounded", "file": "overlay-file", "size": machine.overlay_bytes}
    overlay = {
        "driver": "qcow2",
        "node-name": "overlay",
        "file": "overlay-bounded",
        "backing": "base",
        "discard": "unmap",
        "encrypt": {"format": "luks", "key-secret": "passphrase"},
    }
    base = {"driver": "raw", "node-name": "base", "file": "base-file", "read-only": True}
    nodes = (_base_file(machine), base, overlay_file, bounded, overlay)
    return [
        *("-object", f"secret,id=passphrase,file=/proc/self/fd/{handles.passphrase}"),
        *(part for node in nodes for part in ("-blockdev", json.dumps(node))),
        *("-device", "virtio-blk-pci,drive=overlay,bootindex=1,werror=stop,rerror=stop"),
        *(_seed(machine) if machine.image.served is not None and machine.image.served.seed else ()),
    ]


def _seed(machine: VmHardware) -> list[str]:
    nodes = (
        _served(machine, "seed-file", "seed"),
        {"driver": "raw", "node-name": "seed", "file": "seed-file", "read-only": True},
    )
    return [
        *(part for node in nodes for part in ("-blockdev", json.dumps(node))),
        *("-device", "virtio-blk-pci,drive=seed,rerror=stop"),
    ]


def _base_file(machine: VmHardware) -> dict[str, object]:
    if machine.image.served is not None:
        return _served(machine, "base-file", "disk")
    return {
        "driver": "file",
        "node-name": "base-file",
        "filename": str(machine.disk),
        "read-only": True,
        **_cache(machine.base_direct, "native"),
    }


def _served(machine: VmHardware, node: str, export: str) -> dict[str, object]:
    return {
        "driver": "nbd",
        "node-name": node,
        "server": {"type": "unix", "path": str(machine.disk)},
        "export": export,
        "read-only": True,
        "reconnect-delay": 0,
    }


def _cache(direct: bool, io: str) -> dict[str, object]:
    return {"cache": {"direct": direct, "no-flush": False}, "aio": io if direct else "threads"}
