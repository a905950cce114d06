"""What goes into an image to make its machines members of a pool: the programs of the guest, as files."""

from pathlib import Path

_HERE = Path(__file__).parent

PACKAGES = ("condor", "busybox-static", "python3-minimal", "iproute2")
"""Debian packages that every guest needs, beside those of its recipe."""

KERNEL = "linux-image-cloud-amd64"
"""The kernel of a guest whose recipe names none: small, for virtual machines only (disks of VirtualBox included)."""

FOLDER = "/usr/lib/deskgrid"
"""Where the guest's programs are in an image."""

FILES: dict[str, tuple[Path, int]] = {
    f"{FOLDER}/init": (_HERE / "init", 0o755),
    f"{FOLDER}/member.py": (_HERE / "member.py", 0o755),
    f"{FOLDER}/dhcp": (_HERE / "dhcp", 0o755),
}
"""Path in the image: the file here and its mode."""

PREPARE = _HERE / "prepare"
"""A program that is run once inside the tree while an image is built."""

INITRD_INIT = _HERE / "initrd-init"
"""The first program of the initial RAM disk; it finds the disk and hands over to `init`."""
