"""The Debian that boots in QEMU with a real systemd-logind: made once with the project's own means, kept in the cache.

What a test brings (the agent's sources, its settings and unit) is not in it: that is a tar on a second disk, unpacked
by the initial RAM disk at each boot. So the disk is made again only when packages or the files named here change.
"""

import hashlib
import shutil
from pathlib import Path

import msgspec

from deskgrid.host.system.files import own_folder
from deskgrid.host.system.locks import locked
from deskgrid.host.system.paths import cache_folder
from deskgrid.host.trees import trees
from deskgrid.host.trees.debstrap import bootstrap
from deskgrid.images.build import disk, kernel
from deskgrid.images.build.roottar import RootTar
from deskgrid.images.build.tree import DPKG_OPTIONS

HERE = Path(__file__).parent
SUITE = "trixie"
PACKAGES = (
    "systemd-sysv",
    "udev",
    "dbus",
    "libpam-systemd",
    "polkitd",
    "login",
    "util-linux-extra",
    "kmod",
    "procps",
    "busybox-static",
    "linux-image-cloud-amd64",
    "python3",
    "python3-msgspec",
    "python3-psutil",
    "python3-urllib3",
    "python3-typer",
    "python3-rich",
    "tzdata",
)
DISK_BYTES = 2 << 30
EPOCH = 1_700_000_000
_SCRIPTS = ("initrd-init", "prepare.sh")


class Debian(msgspec.Struct, frozen=True):
    """The files that QEMU boots from; the disk is only read."""

    disk: Path
    kernel: Path
    initrd: Path


def debian() -> Debian:
    """The guest's files, made if they are not in the cache (about two minutes)."""
    scripts = [(HERE / name).read_bytes() for name in _SCRIPTS]
    facts = msgspec.msgpack.encode([SUITE, PACKAGES, DISK_BYTES, DPKG_OPTIONS, scripts])
    home = cache_folder() / f"logind-guest-{hashlib.sha256(facts).hexdigest()[:12]}"
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.parent / ".logind-guest.lock"):
        if not home.exists():
            _build(home)
    return Debian(home / "disk.raw", home / "vmlinuz", home / "initrd")


def _build(home: Path) -> None:
    tools = trees.provide(trees.TOOL_TREE)
    work = home.with_name(f".{home.name}.work")
    shutil.rmtree(work, ignore_errors=True)
    own_folder(work, tools.account)
    try:
        hook = work / "prepare.sh"
        shutil.copyfile(HERE / "prepare.sh", hook)
        hook.chmod(0o755)
        options = [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
        bootstrap(SUITE, PACKAGES, work / "tree.tar", options=[*options, f"--customize-hook={hook}"])
        with RootTar(work / "tree.tar") as tree:
            packed = kernel.vmlinuz(tree)
            initrd = kernel.initrd(tree, (HERE / "initrd-init").read_bytes())
            (work / "vmlinuz").write_bytes(kernel.unpacked(packed))
            (work / "initrd").write_bytes(initrd)
            tree.write_normal(work / "root.tar", EPOCH, {"boot/vmlinuz": packed, "boot/initrd": initrd})
        (work / "tree.tar").unlink()
        who = disk.identity(home.name, EPOCH)
        disk.build(tools, work / "root.tar", work / "disk.raw", DISK_BYTES, who, "console=ttyS0")
        (work / "root.tar").unlink()
        for path in work.iterdir():
            path.chmod(0o644)
        work.rename(home)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
