"""A guest that keeps its processor busy and a quarter of its memory filled, made from the demo image's own kernel.

Rules, told first:
- A busy guest is what an owner comes back to, and what makes "its processors stand still" visible from outside.
- It speaks the guest's protocol (deskgrid.wire.guest) on ttyS1 with nothing but busybox; no HTCondor, so it is up in
  seconds, and what is measured is ours alone.
- Two of them: one leaves when it is asked, the other never does.
"""

import shutil
from pathlib import Path

from deskgrid.images import cpio
from deskgrid.images.build import Built
from deskgrid.images.manifest import DISK, FILE, INITRD, KERNEL, FileFacts, Manifest, digest, encode, measure
from deskgrid.images.recipe import Recipe

OBEDIENT, STUBBORN = "bench-obedient", "bench-stubborn"
FILLED_MIB = 256
MEMORY_BYTES = 1 << 30
_DISK_BYTES = 64 << 20
_INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
(while [ ! -e /have ]; do echo '{"type":"hello"}' >&3; $b sleep 1; done) &
while read -r line <&3; do
  case "$line" in
    *'"type":"join"'*)
      if [ ! -e /have ]; then
        : > /have
        $b mount -t tmpfs -o size=SPACEm filled /disk
        $b dd if=/dev/zero of=/disk/filled bs=1M count=FILLED
        (while :; do :; done) &
        echo '{"type":"joined"}' >&3
      fi;;
    *'"type":"leave"'*)
      $b grep -q bench.stubborn /proc/cmdline || echo '{"type":"left","cause":"asked","sentence":"left"}' >&3;;
  esac
done
while :; do $b sleep 60; done
"""


def make_images(demo: Built, folder: Path) -> dict[str, Path]:
    """Make both guests as images that any store takes. Returns: the folder of each, by its name."""
    return {name: _make(demo, folder, name) for name in (OBEDIENT, STUBBORN)}


def program() -> str:
    """The guest's first and only program."""
    return _INIT.replace("SPACE", str(FILLED_MIB + 10)).replace("FILLED", str(FILLED_MIB))


def _make(demo: Built, folder: Path, name: str) -> Path:
    fresh = folder / f".{name}"
    fresh.mkdir(mode=0o755)
    shutil.copyfile(demo.folder / KERNEL, fresh / KERNEL)
    ours = cpio.archive([cpio.program("bench-init", program().encode())])
    (fresh / INITRD).write_bytes((demo.folder / INITRD).read_bytes() + ours)
    with (fresh / DISK).open("wb") as disk:
        disk.truncate(_DISK_BYTES)
    content = encode(_manifest(fresh, name))
    (fresh / FILE).write_bytes(content)
    place = folder / name / digest(content)
    place.parent.mkdir(mode=0o755)
    fresh.rename(place)
    return place


def _manifest(fresh: Path, name: str) -> Manifest:
    words = "bench.stubborn" if name == STUBBORN else ""
    facts: dict[str, FileFacts] = {file: measure(fresh / file) for file in (DISK, KERNEL, INITRD)}
    return Manifest(
        name=name,
        memory_bytes=MEMORY_BYTES,
        disk_bytes=_DISK_BYTES,
        cmdline=f"console=ttyS0 quiet panic=1 rdinit=/bench-init {words}".strip(),
        disk=facts[DISK],
        kernel=facts[KERNEL],
        initrd=facts[INITRD],
        packages=(),
        recipe=Recipe(name, "trixie"),
        inputs="0" * 64,
    )
