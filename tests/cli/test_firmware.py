"""`deskgrid firmware`, on a tree made after the kernel's documentation."""

import json
from pathlib import Path

from deskgrid.cli.output import Exit

from .conftest import Command

DRIVER = Path("class/firmware-attributes/dell-wmi-sysman")


def dell(root: Path, password: bool = False, current: str = "Disabled") -> Path:
    """A Dell's setting; its file."""
    setting = root / DRIVER / "attributes" / "Virtualization"
    setting.mkdir(parents=True)
    (setting / "current_value").write_text(f"{current}\n")
    (setting / "possible_values").write_text("Disabled;Enabled;\n")
    role = root / DRIVER / "authentication" / "Admin"
    role.mkdir(parents=True)
    for name, words in {"role": "bios-admin", "is_enabled": str(int(password)), "current_password": ""}.items():
        (role / name).write_text(f"{words}\n")
    return setting / "current_value"


def test_a_dry_run_says_what_would_be_written_and_writes_nothing(deskgrid: Command, tmp_path: Path) -> None:
    file = dell(tmp_path)
    said = deskgrid("firmware", "enable-virtualization", "--dry-run", "--root", tmp_path)
    assert (said.code, said.err) == (Exit.DONE, "")
    assert "Virtualization: 'Disabled' -> 'Enabled' (VT-x or AMD-V is off)" in said.out
    assert file.read_text() == "Disabled\n"


def test_it_is_written_and_a_restart_is_asked_for(deskgrid: Command, tmp_path: Path) -> None:
    file = dell(tmp_path)
    said = deskgrid("firmware", "enable-virtualization", "--root", tmp_path)
    assert said.code == Exit.DONE
    assert file.read_text() == "Enabled\n"
    assert "restart this computer" in said.out
    again = deskgrid("firmware", "enable-virtualization", "--root", tmp_path)
    assert (again.code, again.out) == (Exit.DONE, "Virtualization is on already\n")


def test_a_password_comes_from_a_file_and_is_not_repeated(deskgrid: Command, tmp_path: Path) -> None:
    file = dell(tmp_path, password=True)
    said = deskgrid("firmware", "enable-virtualization", "--root", tmp_path)
    assert said.code == Exit.WRONG
    assert "expected --password-file or a terminal" in said.err
    assert file.read_text() == "Disabled\n"
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    said = deskgrid("firmware", "enable-virtualization", "--root", tmp_path, "--password-file", secret)
    assert said.code == Exit.DONE
    assert file.read_text() == "Enabled\n"
    assert "s3cret" not in said.out + said.err
    assert (tmp_path / DRIVER / "authentication/Admin/current_password").read_text() == "\n"


def test_a_computer_without_such_settings_is_told_what_to_do(deskgrid: Command, tmp_path: Path) -> None:
    said = deskgrid("firmware", "enable-virtualization", "--dry-run", "--root", tmp_path)
    assert said.code == Exit.NO
    assert "in its setup at start-up. [vendor-unknown]" in said.out


def test_for_programs_the_plan_is_json(deskgrid: Command, tmp_path: Path) -> None:
    dell(tmp_path, password=True)
    (plan,) = json.loads(deskgrid("firmware", "enable-virtualization", "--dry-run", "--json", "--root", tmp_path).out)
    assert plan["password_of"] == "Admin"
    assert [write["setting"] for write in plan["writes"]] == ["Virtualization"]
