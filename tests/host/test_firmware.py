"""What would be written into firmware: from values. What is written: into a tree as the kernel's drivers make it.

No computer with such firmware was there: the tree is made after the kernel's documentation.
"""

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deskgrid.host.firmware.plan import Feature, FirmwarePlan, FirmwareSetting, Role, Setup, Write, is_on, plan
from deskgrid.host.firmware.sysfs import CLASS, carry_out, may_write, read, without_settings
from deskgrid.host.firmware.windows import WindowsSetup, windows_plan

BOTH = (Feature.CPU, Feature.IO)
DELL = Setup(
    "dell-wmi-sysman",
    (
        FirmwareSetting("Virtualization", "Disabled", ("Disabled", "Enabled")),
        FirmwareSetting(
            "VtForDirectIo", "Disabled", ("Disabled", "Enabled"), rules="[SuppressIfNot:Virtualization=Enabled]"
        ),
        FirmwareSetting("SecureBoot", "Disabled", ("Disabled", "Enabled")),
    ),
    (Role("Admin", "bios-admin", False), Role("System", "power-on", True)),
)
LENOVO = Setup(
    "thinklmi",
    (
        FirmwareSetting("VirtualizationTechnology", "Disable", ("Disable", "Enable")),
        FirmwareSetting("VTdFeature", "Disable", ("Disable", "Enable")),
    ),
    (Role("Admin", "bios-admin", False), Role("System", "system-mgmt", False)),
)
HP = Setup(
    "hp-bioscfg",
    (
        FirmwareSetting("Virtualization Technology (VTx)", "Disable", ("Disable", "Enable")),
        FirmwareSetting("Virtualization Technology for Directed I/O (VTd)", "Disable", ("Disable", "Enable")),
    ),
    (Role("Setup Password", "bios-admin", True), Role("SPM", "enhanced-bios-auth", True, "provisioned")),
)
HP_AMD = Setup("hp-bioscfg", (FirmwareSetting("SVM CPU Virtualization", "Disable", ("Disable", "Enable")),))


def changed(setup: Setup, number: int, **changes: Any) -> Setup:
    settings = list(setup.settings)
    settings[number] = msgspec.structs.replace(settings[number], **changes)
    return msgspec.structs.replace(setup, settings=tuple(settings))


@pytest.mark.parametrize(
    ("setup", "writes"),
    [
        (DELL, {"Virtualization": "Enabled", "VtForDirectIo": "Enabled"}),
        (LENOVO, {"VirtualizationTechnology": "Enable", "VTdFeature": "Enable"}),
        (
            HP,
            {
                "Virtualization Technology (VTx)": "Enable",
                "Virtualization Technology for Directed I/O (VTd)": "Enable",
            },
        ),
    ],
)
def test_each_makers_settings_are_switched_on_in_its_own_words_and_nothing_else_is(
    setup: Setup, writes: dict[str, str]
) -> None:
    made = plan(setup, BOTH)
    assert {write.setting: write.new for write in made.writes} == writes
    assert made.obstacles == ()
    assert [write.setting for write in plan(setup).writes] == [next(iter(writes))]


def test_amd_has_a_name_of_its_own() -> None:
    assert plan(HP_AMD).writes == (Write("SVM CPU Virtualization", "Disable", "Enable", "VT-x or AMD-V is off"),)


def test_what_is_on_already_is_not_written_again() -> None:
    made = plan(changed(DELL, 0, current="Enabled"))
    assert (made.writes, made.done, made.obstacles) == ((), ("Virtualization",), ())
    assert made.password_of == ""


def test_a_setting_that_is_not_offered_is_said() -> None:
    (obstacle,) = plan(msgspec.structs.replace(DELL, settings=DELL.settings[2:])).obstacles
    assert obstacle.name == "not-offered"
    assert "VT-x or AMD-V" in obstacle.sentence


@pytest.mark.parametrize(
    ("roles", "of"),
    [
        ((Role("Admin", "bios-admin", False),), ""),
        ((Role("Admin", "bios-admin", True),), "Admin"),
        ((Role("Admin", "bios-admin", False), Role("System", "system-mgmt", True)), "System"),
        ((Role("System", "power-on", True),), ""),
        ((Role("Setup Password", "bios-admin", True), Role("SPM", "enhanced-bios-auth", True)), "Setup Password"),
    ],
)
def test_the_administrators_password_is_needed_where_one_is_set(roles: tuple[Role, ...], of: str) -> None:
    assert plan(msgspec.structs.replace(DELL, roles=roles)).password_of == of


def test_firmware_that_asks_for_a_certificate_is_left_alone() -> None:
    made = plan(msgspec.structs.replace(LENOVO, roles=(Role("Admin", "bios-admin", True, certificate=True),)))
    assert made.writes == ()
    assert [obstacle.name for obstacle in made.obstacles] == ["certificate-needed"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rules": "[ReadOnlyIf:SecureBoot=Disabled]"}, "can't be changed while SecureBoot is 'Disabled'"),
        ({"rules": "[SuppressIfNot:SecureBoot=Enabled]"}, "is hidden while SecureBoot is 'Disabled'"),
        ({"value_rules": "Disabled[ForceIf:SecureBoot=Disabled]"}, "is held at 'Disabled' while SecureBoot"),
        ({"rules": "[ReadOnlyIf:SecureBoot=Enabled]"}, ""),
        ({"value_rules": "Disabled[ForceIf:SecureBoot=Enabled]"}, ""),
        ({"value_rules": "Enabled[ForceIf:SecureBoot=Disabled]"}, ""),
    ],
)
def test_rules_of_the_firmware_are_obeyed(changes: dict[str, str], sentence: str) -> None:
    made = plan(changed(DELL, 0, **changes))
    assert bool(made.writes) == (sentence == "")
    if sentence:
        assert made.obstacles[0].name == "ruled-out"
        assert sentence in made.obstacles[0].sentence


def test_values_that_nobody_knows_are_not_guessed() -> None:
    made = plan(changed(DELL, 0, current="Mode 1", possible=("Mode 1", "Mode 2")))
    assert (made.writes, [obstacle.name for obstacle in made.obstacles]) == ((), ["value-unknown"])
    made = plan(changed(DELL, 0, current="Mode 1", possible=()))
    assert [obstacle.name for obstacle in made.obstacles] == ["value-unknown"]
    assert plan(changed(DELL, 0, possible=())).writes[0].new == "Enabled"


@pytest.mark.parametrize("name", ["VirtualizationBasedSecurity", "VirtualKeyboard", "TrustExecution", "KernelDma"])
def test_settings_with_like_names_are_not_touched(name: str) -> None:
    assert plan(changed(DELL, 0, name=name)).writes == ()


def test_what_is_on_is_known_in_every_makers_words() -> None:
    assert all(is_on(value) for value in ("Enabled", "Enable", "On", "ENABLED"))
    assert not any(is_on(value) for value in ("Disabled", "Disable", "Off", "", "Unknown"))


# -- a tree -----------------------------------------------------------------------------------------------------------


def tree(root: Path, setup: Setup, separator: str = ";") -> Path:
    """What the kernel's driver would show."""
    base = root / CLASS / setup.driver
    for setting in setup.settings:
        folder = base / "attributes" / setting.name.replace("/", "\\")
        folder.mkdir(parents=True)
        for name, words in {
            "current_value": setting.current,
            "possible_values": separator.join(setting.possible),
            "display_name": setting.display_name,
            "type": "enumeration",
            "dell_modifier": setting.rules,
        }.items():
            (folder / name).write_text(words + "\n")
    (base / "attributes" / "pending_reboot").write_text("0\n")
    (base / "attributes" / "reset_bios").write_text("builtinsafe lastknowngood [factory] custom\n")
    for role in setup.roles:
        folder = base / "authentication" / role.name
        folder.mkdir(parents=True)
        for name, words in {
            "role": role.role,
            "is_enabled": str(int(role.enabled)),
            "mechanism": role.mechanism,
            "current_password": "",
        }.items():
            (folder / name).write_text(words + "\n")
    return base


@pytest.mark.parametrize(("setup", "separator"), [(DELL, ";"), (LENOVO, ","), (HP_AMD, ";")])
def test_what_the_kernel_shows_is_read_planned_and_written(tmp_path: Path, setup: Setup, separator: str) -> None:
    base = tree(tmp_path, setup, separator)
    (found,) = read(tmp_path)
    made = plan(found)
    assert made == plan(setup)
    assert may_write(tmp_path, made)
    results = carry_out(tmp_path, made)
    assert all(result.done for result in results)
    for write in made.writes:
        assert (base / "attributes" / write.setting / "current_value").read_text() == f"{write.new}\n"
    (again,) = read(tmp_path)
    assert plan(again).writes == ()


def test_a_slash_in_a_name_as_a_folder_may_have_it_is_no_hindrance(tmp_path: Path) -> None:
    tree(tmp_path, HP)
    (found,) = read(tmp_path)
    assert [write.setting for write in plan(found, BOTH).writes] == [
        "Virtualization Technology (VTx)",
        "Virtualization Technology for Directed I\\O (VTd)",
    ]


def test_a_password_is_given_before_and_taken_back_after_the_writing(tmp_path: Path) -> None:
    base = tree(tmp_path, HP)
    session = base / "authentication" / "Setup Password" / "current_password"
    session.unlink()
    os.mkfifo(session)  # a file would show the last word only
    heard = os.open(session, os.O_RDWR | os.O_NONBLOCK)
    (found,) = read(tmp_path)
    made = plan(found)
    assert made.password_of == "Setup Password"
    results = carry_out(tmp_path, made, "s3cret")
    assert [result.done for result in results] == [True]
    assert os.read(heard, 1000) == b"s3cret\n\n"
    os.close(heard)
    assert "s3cret" not in str(made) + str(results)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
def test_without_root_nothing_can_be_written(tmp_path: Path) -> None:
    base = tree(tmp_path, DELL)
    (base / "attributes" / "Virtualization" / "current_value").chmod(stat.S_IRUSR)
    (found,) = read(tmp_path)
    assert not may_write(tmp_path, plan(found))


def test_a_write_that_the_firmware_refuses_is_told_and_ends_the_writing(tmp_path: Path) -> None:
    base = tree(tmp_path, LENOVO)
    (found,) = read(tmp_path)
    made = plan(found, BOTH)
    file = base / "attributes" / "VirtualizationTechnology" / "current_value"
    file.unlink()
    file.mkdir()  # opening it for writing fails, whoever asks
    first = msgspec.structs.replace(made.writes[0], old="")
    (result,) = carry_out(tmp_path, msgspec.structs.replace(made, writes=(first, made.writes[1])))
    assert not result.done
    assert "the firmware refused 'Enable'" in result.sentence
    assert (base / "attributes" / "VTdFeature" / "current_value").read_text() == "Disable\n"


def test_a_setting_that_has_changed_since_it_was_planned_is_left_alone(tmp_path: Path) -> None:
    base = tree(tmp_path, DELL)
    (found,) = read(tmp_path)
    made = plan(found)
    (base / "attributes" / "Virtualization" / "current_value").write_text("Enabled\n")
    (result,) = carry_out(tmp_path, made)
    assert not result.done
    assert "plan again" in result.sentence


def test_a_change_that_reads_back_only_after_a_restart_counts_if_the_firmware_says_so(tmp_path: Path) -> None:
    base = tree(tmp_path, DELL)
    (found,) = read(tmp_path)
    file = base / "attributes" / "Virtualization" / "current_value"
    file.unlink()
    file.symlink_to("/dev/null")  # takes everything, and reads as nothing
    made = FirmwarePlan(found.driver, (Write("Virtualization", "", "Enabled", "VT-x or AMD-V is off"),))
    (result,) = carry_out(tmp_path, made)
    assert not result.done
    assert "after writing" in result.sentence
    (base / "attributes" / "pending_reboot").write_text("1\n")
    (result,) = carry_out(tmp_path, made)
    assert result.done
    assert "from the next start on" in result.sentence


def test_a_lenovo_that_collects_its_changes_is_told_to_save_them(tmp_path: Path) -> None:
    base = tree(tmp_path, LENOVO)
    (base / "attributes" / "save_settings").write_text("bulk\n")
    (found,) = read(tmp_path)
    assert all(result.done for result in carry_out(tmp_path, plan(found)))
    assert (base / "attributes" / "save_settings").read_text() == "save\n"


def test_a_driver_that_takes_no_password_is_told(tmp_path: Path) -> None:
    base = tree(tmp_path, HP)
    (found,) = read(tmp_path)
    (base / "authentication" / "Setup Password" / "current_password").unlink()
    (result,) = carry_out(tmp_path, plan(found), "s3cret")
    assert not result.done
    assert "current_password" in result.sentence


@pytest.mark.parametrize(
    ("maker", "name", "words"),
    [
        ("Dell Inc.", "no-settings", "modprobe dell-wmi-sysman"),
        ("LENOVO", "no-settings", "modprobe think-lmi"),
        ("HP", "no-settings", "F10"),
        ("Hewlett-Packard", "no-settings", "modprobe hp-bioscfg"),
        ("HPE", "vendor-unknown", "hpe"),
        ("", "vendor-unknown", "an unknown maker"),
    ],
)
def test_without_settings_it_is_said_what_may_help(tmp_path: Path, maker: str, name: str, words: str) -> None:
    (tmp_path / "class/dmi/id").mkdir(parents=True)
    (tmp_path / "class/dmi/id/sys_vendor").write_text(f"{maker}\n")
    assert read(tmp_path) == ()
    obstacle = without_settings(tmp_path)
    assert (obstacle.name, words in obstacle.sentence) == (name, True)


# -- Windows: values only, nothing is run -----------------------------------------------------------------------------


def test_dells_tool_is_used_only_where_no_password_would_be_in_its_arguments() -> None:
    setup = WindowsSetup("Dell Inc.", DELL.settings, tools=frozenset({"cctk"}))
    (call,) = windows_plan(setup).calls
    assert call.argv == ("cctk.exe", "--Virtualization=Enabled")
    (call,) = windows_plan(msgspec.structs.replace(setup, password_set=True)).calls
    assert call.argv[0] == "powershell.exe"
    assert call.password_on_stdin
    assert "AttributeName = 'Virtualization'; AttributeValue = 'Enabled'" in call.argv[-1]
    assert "SetAttribute" in call.argv[-1]


@pytest.mark.parametrize("opcode", [False, True])
@pytest.mark.parametrize("password", [False, True])
def test_lenovos_settings_are_set_and_saved_in_one_session(opcode: bool, password: bool) -> None:
    tools = frozenset({"lenovo-opcode"}) if opcode else frozenset()
    (call,) = windows_plan(WindowsSetup("LENOVO", LENOVO.settings, password, tools), BOTH).calls
    script = call.argv[-1]
    order = [script.index(one) for one in ("'VirtualizationTechnology,Enable'", "'VTdFeature,Enable'", "SaveBios")]
    assert order == sorted(order)
    assert ("WmiOpcodePasswordAdmin" in script) == (opcode and password)
    assert (",ascii,us" in script) == (password and not opcode)
    assert call.password_on_stdin is password
    assert ("ReadLine" in script) is password


@pytest.mark.parametrize(("tools", "words"), [((), "HP_BIOSSettingInterface"), (("cmsl",), "Set-HPBIOSSettingValue")])
def test_hps_are_set_by_its_interface_or_its_module(tools: tuple[str, ...], words: str) -> None:
    (call,) = windows_plan(WindowsSetup("HP", HP.settings, True, frozenset(tools))).calls
    assert words in call.argv[-1]
    assert "'Virtualization Technology (VTx)'" in call.argv[-1]
    assert call.password_on_stdin


def test_names_from_a_firmware_do_not_leave_their_quotes() -> None:
    nasty = FirmwareSetting("SVM'; exit; '", "Disabled", ("Disabled", "Enabled"), display_name="Virtualization")
    (call,) = windows_plan(WindowsSetup("HP", (nasty,))).calls
    assert "Name = 'SVM''; exit; '''" in call.argv[-1]


def test_an_unknown_maker_and_what_is_on_already_are_said() -> None:
    assert [one.name for one in windows_plan(WindowsSetup("ACME", ())).obstacles] == ["vendor-unknown"]
    on = changed(LENOVO, 0, current="Enable").settings
    assert windows_plan(WindowsSetup("LENOVO", on)).done == ("VirtualizationTechnology",)
    assert windows_plan(WindowsSetup("LENOVO", on)).calls == ()
