"""Guests for the benchmarks, made from the demo image's own kernel: busybox and one script, up in seconds.

Rules:
- A busy guest is what an owner comes back to, and what makes "its processors stand still" visible from outside.
- They speak the guest's protocol (deskgrid.wire.guest) on ttyS1 with nothing but busybox; no HTCondor, so what is
  measured is ours alone.
- What a guest does is said by words on its kernel's command line.
"""

import os
import shutil
from pathlib import Path

import msgspec

from bench.toucher import WORDS, toucher
from deskgrid.images.build import cpio
from deskgrid.images.build.build import Built
from deskgrid.images.format.manifest import DISK, FILE, INITRD, KERNEL, FileFacts, Manifest, digest, encode, measure
from deskgrid.images.format.recipe import Recipe

MIB = 1 << 20
FILLED_MIB = 256


class Kind(msgspec.Struct, frozen=True):
    """A guest. memory_mib: of the machine. disk_mib: of its base disk. solid: the disk holds random data, no hole.

    words: `bench.fill=N` (touch so many MiB), `bench.spin=N` (so many processors busy), `bench.disk=N` (read N MiB
    of the disk and write as many), `bench.output=N` (write N MiB of OUTPUT and of its instance data to the disk),
    `bench.silent` (never say hello), `bench.stubborn` (never leave).
    """

    name: str
    words: str
    memory_mib: int = 1024
    cpus: int = 1
    disk_mib: int = 64
    solid: bool = False


OBEDIENT = Kind("bench-obedient", f"bench.fill={FILLED_MIB} bench.spin=1")
STUBBORN = Kind("bench-stubborn", f"bench.fill={FILLED_MIB} bench.spin=1 bench.stubborn=1")
LARGE_MIB = 8192
DISK_MIB = 2048
OUTPUT = "what the guest has written: 3c7e"
SECRETIVE = Kind("bench-secretive", "bench.output=5", memory_mib=512, disk_mib=16, solid=True)


def large(filled_mib: int) -> Kind:
    """A guest that touches so much memory."""
    return Kind("bench-large", f"bench.fill={filled_mib} bench.silent=1 {WORDS}", memory_mib=filled_mib + 512, cpus=2)


def writing(disk_mib: int) -> Kind:
    """A guest that reads and writes the whole of a disk of this size."""
    return Kind("bench-writer", f"bench.disk={disk_mib}", memory_mib=512, disk_mib=disk_mib, solid=True)


_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b stty -F /dev/ttyS1 raw -echo
for word in $($b cat /proc/cmdline); do
  case "$word" in bench.*=*) eval "do_${word#bench.}";; esac
done
while read -r module; do $b insmod /modules/$module; done < /modules/first
exec 3<>/dev/ttyS1
fill() {
  if [ -e /touch ]; then
    for part in 1 2; do /touch $((do_fill / 2)) /touched$part & done
    until [ -e /touched1 ] && [ -e /touched2 ]; do $b sleep 0.1; done
    return
  fi
  $b mount -t tmpfs -o size=$((do_fill + 10))m filled /disk
  $b dd if=/dev/zero of=/disk/filled bs=1M count=$do_fill 2> /dev/null
}
spin() {
  count=0
  while [ $count -lt ${do_spin:-0} ]; do (while :; do :; done) & count=$((count + 1)); done
}
use_disk() {
  $b dd if=/dev/vda of=/dev/null bs=1M count=$do_disk 2> /dev/null
  $b dd if=/dev/zero of=/dev/vda bs=1M count=$do_disk conv=fsync 2> /dev/null
  echo '{"type":"left","cause":"unused","sentence":"the disk is read and written"}' >&3
}
output() {
  $b yes "what the guest ""has written: 3c7e $line" |
    $b dd of=/dev/vda bs=1M count=$do_output iflag=fullblock conv=fsync
}
if [ -n "$do_silent" ]; then fill; spin; while :; do $b sleep 60; done; fi
(while [ ! -e /have ]; do echo '{"type":"hello"}' >&3; $b sleep 1; done) &
while read -r line <&3; do
  case "$line" in
    *'"type":"join"'*)
      if [ ! -e /have ]; then
        : > /have
        [ -z "$do_fill" ] || fill
        spin
        echo '{"type":"joined"}' >&3
        [ -z "$do_disk" ] || use_disk &
        [ -z "$do_output" ] || output 2> /dev/null &
      fi;;
    *'"type":"leave"'*)
      [ -n "$do_stubborn" ] || echo '{"type":"left","cause":"asked","sentence":"left"}' >&3;;
  esac
done
while :; do $b sleep 60; done
"""


def make_image(demo: Built, folder: Path, kind: Kind) -> Path:
    """Make a guest an image that any store takes. Returns: its folder."""
    fresh = folder / f".{kind.name}"
    fresh.mkdir(mode=0o755)
    shutil.copyfile(demo.folder / KERNEL, fresh / KERNEL)
    ours = [cpio.program("bench-init", program().encode())]
    if (touch := toucher(fresh)) is not None:
        ours.append(cpio.program("touch", touch))
    (fresh / INITRD).write_bytes((demo.folder / INITRD).read_bytes() + cpio.archive(ours))
    with (fresh / DISK).open("wb") as disk:
        for _ in range(kind.disk_mib if kind.solid else 0):
            disk.write(os.urandom(MIB))
        disk.truncate(kind.disk_mib * MIB)
    content = encode(_manifest(fresh, kind))
    (fresh / FILE).write_bytes(content)
    place = folder / kind.name / digest(content)
    place.parent.mkdir(mode=0o755)
    fresh.rename(place)
    return place


def program() -> str:
    """The guests' first and only program."""
    return _INIT


def _manifest(fresh: Path, kind: Kind) -> Manifest:
    facts: dict[str, FileFacts] = {file: measure(fresh / file) for file in (DISK, KERNEL, INITRD)}
    return Manifest(
        name=kind.name,
        memory_bytes=kind.memory_mib * MIB,
        disk_bytes=kind.disk_mib * MIB,
        cmdline=f"console=ttyS0 quiet panic=1 rdinit=/bench-init {kind.words}".strip(),
        disk=facts[DISK],
        kernel=facts[KERNEL],
        initrd=facts[INITRD],
        packages=(),
        recipe=Recipe(kind.name, "trixie"),
        inputs="0" * 64,
    )
