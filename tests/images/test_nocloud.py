"""What cloud-init is told: our member, no secret, nobody who may log in; on an ISO that it finds."""

import base64
import io
import json
import sys
import time

import pycdlib
import pytest

from deskgrid.images.build.nocloud import LABEL, UNIT, iso, member_program, seed
from deskgrid.model.values.names import BadName


def config(packages: tuple[str, ...] = ()) -> dict[str, object]:
    first, _, rest = seed("vm-1", b"program", packages).user_data.partition("\n")
    assert first == "#cloud-config"
    found: dict[str, object] = json.loads(rest)
    return found


def test_the_member_and_its_unit_are_written_and_started() -> None:
    told = config()
    files = {file["path"]: file for file in told["write_files"]}  # type: ignore[attr-defined]
    member = files["/usr/lib/deskgrid/member.py"]
    assert base64.b64decode(member["content"]) == b"program"
    assert member["permissions"] == "0755"
    unit = base64.b64decode(files[f"/etc/systemd/system/{UNIT}"]["content"]).decode()
    assert "SuccessAction=poweroff-force" in unit
    assert told["runcmd"][-1] == ["systemctl", "start", "--no-block", UNIT]  # type: ignore[index]


def test_nobody_may_log_in() -> None:
    told = config()
    assert (told["users"], told["ssh_pwauth"], told["disable_root"]) == ([], False, True)


def test_packages_are_installed_only_when_asked_for() -> None:
    assert (config()["packages"], config()["package_update"]) == ([], False)
    assert config(("condor",))["packages"] == ["condor"]
    assert config(("condor",))["package_update"] is True


def test_two_machines_of_an_image_differ_in_nothing_but_their_id() -> None:
    one, two = seed("vm-1", b"p"), seed("vm-2", b"p")
    assert one.user_data == two.user_data
    assert json.loads(one.meta_data) == {"instance-id": "vm-1", "local-hostname": "deskgrid"}


def test_an_id_from_outside_is_validated() -> None:
    with pytest.raises(BadName):
        seed("vm 1\n", b"p")


def test_the_iso_has_the_label_and_both_files_by_their_names() -> None:
    told = seed("vm-1", member_program())
    image = pycdlib.PyCdlib()
    image.open_fp(io.BytesIO(iso(told)))
    assert image.pvd.volume_identifier.decode().strip() == LABEL
    for kind in ("rr_path", "joliet_path"):
        for name, text in (("user-data", told.user_data), ("meta-data", told.meta_data)):
            out = io.BytesIO()
            image.get_file_from_iso_fp(out, **{kind: f"/{name}"})
            assert out.getvalue().decode() == text
    image.close()


def test_the_library_is_not_loaded_until_an_iso_is_made() -> None:
    import subprocess

    code = "import sys, deskgrid.images.build.nocloud; sys.exit('pycdlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_words_give_the_same_bytes_whenever_and_wherever(monkeypatch: pytest.MonkeyPatch) -> None:
    told = seed("vm-1", member_program())
    first = iso(told)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        time.sleep(1.1)
        assert iso(told) == first
    finally:
        monkeypatch.undo()
        time.tzset()
