"""A guest that boots in seconds: Debian's cloud kernel and an initial RAM disk of busybox with one script.

It speaks the guest protocol on ttyS1 as `deskgrid.wire.guest` tells it, and misbehaves on demand, by words on the
kernel's command line:

- `dg.hello=never`: no sign of life. `dg.leave=ignore`: does not leave when asked.
- `dg.panic=N`: its kernel gives up N seconds after it has joined. `dg.reboot=N`, `dg.poweroff=N`: likewise.
- `dg.unused=N`: leaves by itself N seconds after it has joined.
- `dg.write=M`: writes M MiB to its disk once it has joined. `dg.read=1`: prints the disk's first line on its console.
- `dg.all=N`: reads all of its disk once it has joined, says so on its console and powers itself off N seconds later.
- `dg.sum=1`: tells then the SHA-256 of what it has read too. `dg.first=1`: reads all of its disk before its hello.
- `dg.output=M`: writes M MiB of OUTPUT and of its instance data to its disk once it has joined.
- `dg.flood=channel|console`: writes garbage there as fast as it can. `dg.garbage=1`: hostile lines before its hello.
- `dg.spin=N`: keeps one CPU busy, or two. `dg.tell=1`: prints its instance data on its console.

Built once, kept in the cache; needs mmdebstrap, no root.
"""

import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path

import msgspec

from deskgrid.host.system.locks import locked
from deskgrid.host.system.paths import cache_folder
from deskgrid.images.build import cpio

SUITE = "trixie"
PACKAGES = ("linux-image-cloud-amd64", "busybox-static")
MODULES = ("drivers/block/virtio_blk.ko.xz",)
BUILD_SECONDS = 600
CMDLINE = "console=ttyS0 quiet panic=0 "
_TOOLS = (
    "sh",
    "mount",
    "insmod",
    "stty",
    "cat",
    "dd",
    "sleep",
    "echo",
    "head",
    "reboot",
    "poweroff",
    "grep",
    "tr",
    "sync",
    "yes",
    "sha256sum",
)

INIT = r"""#!/bin/sh
mount -t proc proc /proc; mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod $module; done
for word in $(cat /proc/cmdline); do case $word in dg.*=*) eval "dg_${word#dg.}";; esac; done
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
say() { echo "$1" >&3; }
after() { [ -n "$1" ] && { sleep $1; eval "$2"; } & }
echo "tiny guest is up"
[ -n "$dg_garbage" ] && printf '\000\377{"type":"hello"\n[[[[[{{\n{"type":"left","cause":"x"}\n{"type":"dance"}\n' >&3
[ -n "$dg_first" ] && { cat /dev/vda > /dev/null; echo "read all first"; }
[ "$dg_hello" = never ] && while :; do sleep 60; done
[ "$dg_flood" = channel ] && { while :; do cat /dev/zero | tr '\0' '[' | head -c 1000000 >&3; echo >&3; done & }
[ "$dg_flood" = console ] && { while :; do echo "words words words words words words words words"; done & }
[ -n "$dg_spin" ] && { while :; do :; done & }
[ "$dg_spin" = 2 ] && { while :; do :; done & }
onto='of=/dev/vda bs=1M seek=1 oflag=direct iflag=fullblock'
fill() { tr '\0' x < /dev/zero | dd $onto count=$dg_write; sync; }
output() { yes "what the guest ""has written: 8d2f $line" | dd $onto count=$dg_output; sync; }
whole() { [ -n "$dg_sum" ] && sha256sum < /dev/vda || cat /dev/vda > /dev/null; }
joined() {
  say '{"type":"joined"}'
  after "$dg_panic" 'echo c > /proc/sysrq-trigger'
  after "$dg_reboot" 'reboot -f'
  after "$dg_poweroff" 'poweroff -f'
  after "$dg_unused" "say '{\"type\":\"left\",\"cause\":\"unused\",\"sentence\":\"no job for a while\"}'"
  [ -n "$dg_read" ] && { echo "disk says: $(head -n 1 /dev/vda)"; }
  [ -n "$dg_write" ] && { fill; echo "written"; } &
  [ -n "$dg_output" ] && { output; echo "output is written"; } &
  [ -n "$dg_all" ] && { said=$(whole) && echo "read all $said"; sleep $dg_all; poweroff -f; } &
}
(while [ ! -e /have ]; do say '{"type":"hello"}'; sleep 1; done) &
while read -r line <&3; do
  case "$line" in
    *'"type":"join"'*) [ -e /have ] || { : > /have; [ -n "$dg_tell" ] && echo "$line"; joined; };;
    *'"type":"renew"'*)
      token=${line##*:?}
      [ "$dg_renew" = ignore ] || say '{"type":"left","cause":"unused","sentence":"renewed '"${token%%[!a-z.]*}"'"}';;
    *'"type":"leave"'*) [ "$dg_leave" = ignore ] || say '{"type":"left","cause":"asked","sentence":"vacated"}';;
  esac
done
while :; do sleep 60; done
"""


class TinyGuest(msgspec.Struct, frozen=True):
    """The built files. disk: 64 MiB, its first line is DISK_LINE."""

    kernel: Path
    initrd: Path
    disk: Path


OUTPUT = "what the guest has written: 8d2f"
DISK_LINE = "the base disk of the tiny guest"
DISK_BYTES = 64 * 1024 * 1024


def tiny_guest() -> TinyGuest:
    """The guest's files, built if they are not in the cache."""
    home = cache_folder() / "tiny-guest"
    home.mkdir(parents=True, exist_ok=True)
    guest = TinyGuest(home / "vmlinuz", home / "initrd", home / "disk.raw")
    with locked(home / "lock"):
        if not guest.kernel.exists() or not (home / "parts").exists():
            _fetch(home)
        entries = _entries(home / "parts")
        content = cpio.archive(entries)
        if not guest.initrd.exists() or guest.initrd.read_bytes() != content:
            guest.initrd.write_bytes(content)
        if not guest.disk.exists():
            with guest.disk.open("wb") as disk:
                disk.write(DISK_LINE.encode() + b"\n")
                disk.truncate(DISK_BYTES)
    for path in (home, guest.kernel, guest.initrd, guest.disk):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return guest


def _fetch(home: Path) -> None:
    """Get kernel, busybox and modules out of Debian's packages."""
    with tempfile.TemporaryDirectory(prefix="tiny-guest-") as scratch:
        tree = Path(scratch) / "tree"
        args = ["mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract", "--architectures=amd64"]
        subprocess.run(
            [*args, f"--include={','.join(PACKAGES)}", SUITE, str(tree)], check=True, timeout=BUILD_SECONDS, cwd="/"
        )
        parts = home / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir()
        shutil.copy(next(path for path in (tree / "usr/bin/busybox", tree / "bin/busybox") if path.exists()), parts)
        modules = next(path for path in (tree / "usr/lib/modules", tree / "lib/modules") if path.exists())
        for module in MODULES:
            packed = next(modules.glob(f"*/kernel/{module}"))
            (parts / packed.name.removesuffix(".xz")).write_bytes(lzma.decompress(packed.read_bytes()))
        shutil.copy(next((tree / "boot").glob("vmlinuz-*")), home / "vmlinuz")


def _entries(parts: Path) -> list[cpio.CpioEntry]:
    entries = [cpio.directory(name) for name in ("dev", "proc", "bin", "modules")]
    entries.append(cpio.character_device("dev/console", 5, 1))
    entries.append(cpio.program("init", INIT.encode()))
    busybox = (parts / "busybox").read_bytes()
    entries.append(cpio.program("bin/busybox", busybox))
    entries += [cpio.CpioEntry(f"bin/{tool}", 0o120777, b"busybox") for tool in (*_TOOLS, "printf")]
    return entries + [cpio.plain(f"modules/{path.name}", path.read_bytes()) for path in sorted(parts.glob("*.ko"))]
