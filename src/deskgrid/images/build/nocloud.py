"""The seed for cloud-init in an imported image: two texts, and the read-only ISO that carries them.

Rules:
- No secret is in it: the token, and all else that a member must know, come over the second serial port, as for images
  of our own. So the ISO is the same for every machine of an image.
- It brings our member program and a unit that runs it; when the member ends, the machine powers off.
- It does not say when it was made: the same words give the same bytes, so an image's digest covers it.
- Nobody can log in: no user is made, no password set, no key put there.
- HTCondor and Python 3.11 must be in the disk, or in the packages that cloud-init installs at each start.

Source: cloud-init, datasource NoCloud (volume label cidata; user-data, meta-data); systemd.unit(5), SuccessAction.
"""

import base64
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec

from deskgrid import guest
from deskgrid.host.system.files import write_atomic
from deskgrid.images.format.manifest import SEED, Manifest
from deskgrid.model.values.names import name as valid_name

LABEL = "cidata"
_SECTOR, _DESCRIPTORS = 2048, 16 * 2048
_PRIMARY, _JOLIET, _LAST = 1, 2, 255
_DATE = bytes((125, 1, 1, 0, 0, 0, 0))
_VOLUME_DATE = b"2025010100000000\0"
UNIT = "deskgrid-member.service"
_UNIT_TEXT = """\
[Unit]
Description=Member of a deskgrid pool
After=network-online.target
Wants=network-online.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
ExecStart=/usr/bin/python3 -I -S {folder}/member.py network=
StandardOutput=journal+console
"""


class Seed(msgspec.Struct, frozen=True):
    """What cloud-init reads."""

    user_data: str
    meta_data: str


def member_program() -> bytes:
    """Return the member program that this version brings."""
    source, _ = guest.FILES[f"{guest.FOLDER}/member.py"]
    return source.read_bytes()


def seed(vm_id: str, member: bytes, packages: Sequence[str] = ()) -> Seed:
    """Return one machine's seed.

    Args:
        vm_id: the machine's id. member: the member program. packages: to be installed at each start.

    Raises: BadName.
    """
    valid_name("VM id", vm_id)
    files = [
        _file(f"{guest.FOLDER}/member.py", member, "0755"),
        _file(f"/etc/systemd/system/{UNIT}", _UNIT_TEXT.format(folder=guest.FOLDER).encode(), "0644"),
    ]
    config = {
        "users": [],
        "disable_root": True,
        "ssh_pwauth": False,
        "ssh_genkeytypes": [],
        "preserve_hostname": False,
        "package_update": bool(packages),
        "packages": list(packages),
        "write_files": files,
        "runcmd": [
            ["sh", "-c", "systemctl disable --now condor.service 2> /dev/null || :"],
            ["systemctl", "daemon-reload"],
            ["systemctl", "start", "--no-block", UNIT],
        ],
    }
    about = {"instance-id": vm_id, "local-hostname": "deskgrid"}
    # JSON is YAML too, and needs no library to be written right.
    return Seed("#cloud-config\n" + json.dumps(config, indent=1) + "\n", json.dumps(about) + "\n")


def iso(told: Seed) -> bytes:
    """Return the ISO 9660 image with the label that cloud-init looks for."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    out = io.BytesIO()
    try:
        for path, name, text in (
            ("/USERDATA.;1", "user-data", told.user_data),
            ("/METADATA.;1", "meta-data", told.meta_data),
        ):
            data = text.encode()
            image.add_fp(io.BytesIO(data), len(data), path, rr_name=name, joliet_path=f"/{name}")
        image.write_fp(out)
    finally:
        image.close()
    return _timeless(bytearray(out.getvalue()))


def write_seed(folder: Path, held: Manifest) -> None:
    """Write the ISO of an imported image into its folder.

    A machine's disk is thrown away each time, so all machines may have one id. Raises: OSError.
    """
    assert held.imported is not None
    told = seed(f"{held.name[:40]}-{held.inputs[:12]}", member_program(), held.imported.packages)
    write_atomic(folder / SEED, iso(told), 0o644)


def _timeless(image: bytearray) -> bytes:
    """Put one date into all places of an ISO 9660 image of one folder that have one (ECMA-119, RRIP 1.09)."""
    at = _DESCRIPTORS
    while image[at] != _LAST:
        if image[at] in (_PRIMARY, _JOLIET):
            for number in (0, 1, 3):  # made, changed, good from; 2: good until
                image[at + 813 + 17 * number : at + 830 + 17 * number] = _VOLUME_DATE
            image[at + 156 + 18 : at + 156 + 25] = _DATE
            begin, length = struct.unpack_from("<I4xI", image, at + 156 + 2)
            _timeless_folder(image, begin * _SECTOR, length)
        at += _SECTOR
    return bytes(image)


def _timeless_folder(image: bytearray, begin: int, length: int) -> None:
    at = begin
    while at < begin + length:
        size = image[at]
        if size == 0:  # nothing more in this sector
            at = (at // _SECTOR + 1) * _SECTOR
            continue
        image[at + 18 : at + 25] = _DATE
        name = image[at + 32]
        _timeless_entries(image, at + 33 + name + (name + 1) % 2, at + size)
        at += size


def _timeless_entries(image: bytearray, at: int, end: int) -> None:
    """Rock Ridge's entries of a file: time stamps, and where there are more entries."""
    while at + 4 <= end and image[at + 2] >= 4:
        kind, size = bytes(image[at : at + 2]), image[at + 2]
        if kind == b"TF":
            for stamp in range(at + 5, at + size, len(_DATE)):
                image[stamp : stamp + len(_DATE)] = _DATE
        elif kind == b"CE":
            block, offset, length = struct.unpack_from("<I4xI4xI", image, at + 4)
            more = block * _SECTOR + offset
            _timeless_entries(image, more, more + length)
        at += size


def _file(path: str, data: bytes, mode: str) -> dict[str, str]:
    return {
        "path": path,
        "encoding": "b64",
        "content": base64.b64encode(data).decode(),
        "permissions": mode,
        "owner": "root:root",
    }
