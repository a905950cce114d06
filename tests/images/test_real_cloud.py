"""A disk with cloud-init, really imported and booted: its member says hello on the serial port, no token in its data.

The disk is made here: Debian with systemd and cloud-init, which boots by BIOS; then it is a qcow2 like any other.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.core.events import GuestLeft
from deskgrid.host.system.account import service_account
from deskgrid.images.build import contents, nocloud
from deskgrid.images.build.build import Built, build
from deskgrid.images.build.disk_import import import_disk
from deskgrid.images.format import manifest
from deskgrid.images.format.manifest import reference
from deskgrid.wire.guest import Hello, Leave

from .machine import Machine

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

RECIPE = """
name = "cloud-source"
suite = "trixie"
extra_suites = []
packages = ["systemd-sysv", "cloud-init", "udev", "dbus", "kmod", "ifupdown"]
memory_bytes = "1GiB"
disk_bytes = "3GiB"

[[files]]
source = "init"
to = "/usr/lib/deskgrid/init"
mode = "0755"

[[users]]
name = "alice"
uid = 1000
groups = ["instruments", "users"]
shell = "/bin/bash"
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "init").write_text("#!/bin/sh\nexec /sbin/init\n")
    return build(folder / "recipe.toml")


@pytest.fixture
def open_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that QEMU's account can reach, under the usual one."""
    account = service_account()
    folder = Path("/var/tmp") / f"deskgrid-test-{os.getpid()}"
    folder.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(folder, account.uid, account.gid)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_accounts_are_in_the_image_without_passwords(source: Built) -> None:
    files = contents.decode((source.folder / manifest.CONTENTS).read_bytes())
    assert (files["home/alice"].uid, files["home/alice"].kind) == (1000, "dir")


def test_only_the_suites_that_were_asked_for_gave_packages(source: Built) -> None:
    assert source.manifest.recipe is not None
    assert source.manifest.recipe.extra_suites == ()
    assert source.manifest.packages


def test_an_imported_disk_boots_and_its_member_waits_for_its_instance_data(source: Built, open_folder: Path) -> None:
    disk = open_folder / "cloud.qcow2"
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source.folder / manifest.DISK), str(disk)]
    subprocess.run(argv, check=True)
    image = import_disk(disk, "cloud", 1 << 30, cache=open_folder)
    assert reference(image.folder) == image.ref
    assert image.manifest.disk == source.manifest.disk
    iso = open_folder / "cidata.iso"
    iso.write_bytes(nocloud.iso(nocloud.seed("vm-cloud", nocloud.member_program())))
    for path in (open_folder / "images", *open_folder.glob("images/*")):
        path.chmod(0o755)
    more = ["-drive", f"file={iso},format=raw,if=virtio,readonly=on"]
    machine = Machine(image, direct=False, console=open_folder / "console", more=more)
    try:
        machine.hear(Hello, 900)
        print(f"hello after {machine.seconds():.0f} s")
        machine.say(Leave())
        assert machine.hear(GuestLeft, 120).cause == "asked"
        assert machine.end(300) == 0
    finally:
        machine.close()
