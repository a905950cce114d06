"""QEMU's argument list is a pure function: golden values."""

import json
from pathlib import Path

import msgspec

from deskgrid.host.doctor.trial import arguments
from deskgrid.host.system import sandbox
from deskgrid.hypervisor.machine.arguments import Handles, VmHardware, qemu_args
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.wire.disk import DiskServer, OpenedImage

HANDLES = Handles(qmp=11, console=12, channel=13, overlay=14, passphrase=15)
MACHINE = VmHardware(
    vm_id="vm-1",
    size=Size(2, 1024 * 1024 * 1024 + 5),
    image=OpenedImage(
        ImageRef("img", "0" * 64),
        "console=ttyS0 root=/dev/vda",
        kernel=Path("/images/vmlinuz"),
        initrd=Path("/images/initrd"),
    ),
    disk=Path("/images/a, b/disk.raw"),
    disk_bytes=8192,
    overlay_bytes=4096,
)


def with_image(**fields: object) -> VmHardware:
    """The same of another image."""
    return msgspec.structs.replace(MACHINE, image=msgspec.structs.replace(MACHINE.image, **fields))


def test_the_whole_list_for_software_emulation_and_a_direct_kernel() -> None:
    assert qemu_args("qemu", MACHINE, "tcg", HANDLES) == [
        "qemu",
        *("-name", "guest=vm-1,debug-threads=on"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-S", "-no-reboot"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-machine", "pc,usb=off,vmport=off,dump-guest-core=off,mem-merge=off"),
        *("-accel", "tcg,thread=multi,tb-size=128", "-cpu", "max", "-smp", "cpus=2", "-m", "size=1024M"),
        *(
            "-kernel",
            "/images/vmlinuz",
            "-initrd",
            "/images/initrd",
            "-append",
            "console=ttyS0 root=/dev/vda no_timer_check",
        ),
        *("-chardev", "socket,id=qmp,fd=11", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", "socket,id=console,fd=12", "-serial", "chardev:console"),
        *("-chardev", "socket,id=channel,fd=13", "-serial", "chardev:channel"),
        *("-object", "secret,id=passphrase,file=/proc/self/fd/15"),
        "-blockdev",
        '{"driver": "file", "node-name": "base-file", "filename": "/images/a, b/disk.raw", "read-only": true, '
        '"cache": {"direct": true, "no-flush": false}, "aio": "native"}',
        *("-blockdev", '{"driver": "raw", "node-name": "base", "file": "base-file", "read-only": true}'),
        "-blockdev",
        '{"driver": "file", "node-name": "overlay-file", "filename": "/proc/self/fd/14", "discard": "unmap", '
        '"cache": {"direct": true, "no-flush": false}, "aio": "threads"}',
        "-blockdev",
        '{"driver": "raw", "node-name": "overlay-bounded", "file": "overlay-file", "size": 4096}',
        "-blockdev",
        '{"driver": "qcow2", "node-name": "overlay", "file": "overlay-bounded", "backing": "base", '
        '"discard": "unmap", "encrypt": {"format": "luks", "key-secret": "passphrase"}}',
        *("-device", "virtio-blk-pci,drive=overlay,bootindex=1,werror=stop,rerror=stop"),
        *("-netdev", "user,id=net,ipv6=off", "-device", "virtio-net-pci,netdev=net,romfile="),
        *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
    ]


def after(args: list[str], option: str) -> list[str]:
    return [args[index + 1] for index, arg in enumerate(args) if arg == option]


def test_each_accelerator_stands_alone_and_hardware_ones_show_the_host_s_cpu() -> None:
    shown = {}
    for name in ("kvm", "hvf", "whpx"):
        args = qemu_args("qemu", MACHINE, name, HANDLES)
        shown[name] = (after(args, "-accel"), after(args, "-cpu"))
    assert shown == {"kvm": (["kvm"], ["host"]), "hvf": (["hvf"], ["host"]), "whpx": (["whpx"], [])}


def test_without_a_kernel_the_bios_boots_from_the_disk() -> None:
    args = qemu_args("qemu", with_image(kernel=None, initrd=None), "tcg", HANDLES)
    assert not {"-kernel", "-initrd", "-append"} & set(args)


def test_a_served_disk_is_read_by_nbd_and_kernel_and_initrd_come_from_inherited_memory_files() -> None:
    served = DiskServer(("program",), b"", 8192)
    machine = with_image(served=served, kernel=None, initrd=None)
    machine = msgspec.structs.replace(machine, disk=Path("/vm/disk.sock"))
    args = qemu_args("qemu", machine, "tcg", msgspec.structs.replace(HANDLES, kernel=16, initrd=17))
    assert json.loads(after(args, "-blockdev")[0]) == {
        "driver": "nbd",
        "node-name": "base-file",
        "server": {"type": "unix", "path": "/vm/disk.sock"},
        "export": "disk",
        "read-only": True,
        "reconnect-delay": 0,
    }
    assert (after(args, "-kernel"), after(args, "-initrd")) == (["/proc/self/fd/16"], ["/proc/self/fd/17"])
    assert "-kernel" not in qemu_args("qemu", machine, "tcg", HANDLES)


def test_a_file_system_without_direct_access_is_used_through_the_host_s_cache() -> None:
    machine = msgspec.structs.replace(MACHINE, base_direct=False, overlay_direct=False)
    nodes = [json.loads(node) for node in after(qemu_args("qemu", machine, "tcg", HANDLES), "-blockdev")]
    files = [node for node in nodes if node["driver"] == "file"]
    assert [(node["cache"]["direct"], node["aio"]) for node in files] == [(False, "threads")] * 2


def test_where_qemu_can_have_a_sandbox_it_has_it_and_elsewhere_what_stands_for_it_has_a_name() -> None:
    assert sandbox.words("linux")[0] == "-sandbox"
    assert "spawn=deny" in sandbox.words("linux")[1]
    assert [sandbox.wall(name).name for name in ("linux", "win32", "darwin")] == [
        *("seccomp", "job-object", "account-only")
    ]
    assert sandbox.words("win32") == sandbox.words("darwin") == ()


def test_the_doctors_trial_gets_the_machine_and_the_processor_that_vms_get() -> None:
    for accelerator in ("kvm", "hvf", "whpx", "tcg"):
        ours = qemu_args("qemu", MACHINE, accelerator, HANDLES)
        trial = arguments("qemu", accelerator, Path("/disk"))
        for option in ("-machine", "-cpu"):
            assert (option in trial) == (option in ours)
            if option in ours:
                assert trial[trial.index(option) + 1] == ours[ours.index(option) + 1]
