"""Power supplies and lids, from trees as kernels show them."""

from pathlib import Path

import pytest

from deskgrid.presence.linux.power import Power, lid_closed, read_power


def supply(sysfs: Path, name: str, **facts: str) -> None:
    folder = sysfs / "class/power_supply" / name
    folder.mkdir(parents=True)
    for key, value in facts.items():
        (folder / key).write_text(value + "\n")


def test_a_desktop_without_battery_runs_on_mains(tmp_path: Path) -> None:
    assert read_power(tmp_path) == Power(False, None)
    (tmp_path / "class/power_supply").mkdir(parents=True)
    assert read_power(tmp_path) == Power(False, None)


def test_a_laptop_on_mains_and_off_it(tmp_path: Path) -> None:
    supply(tmp_path, "AC", type="Mains", online="1")
    supply(tmp_path, "BAT0", type="Battery", status="Charging", capacity="60", energy_full="50000000")
    assert read_power(tmp_path) == Power(False, 60.0)
    (tmp_path / "class/power_supply/AC/online").write_text("0\n")
    (tmp_path / "class/power_supply/BAT0/status").write_text("Discharging\n")
    assert read_power(tmp_path) == Power(True, 60.0)


@pytest.mark.parametrize(
    ("status", "on_battery"),
    [("Discharging", True), ("Full", False), ("Not charging", False), ("Unknown", None), ("", None)],
)
def test_a_battery_alone_says_by_its_status(tmp_path: Path, status: str, on_battery: bool | None) -> None:
    supply(tmp_path, "BAT0", type="Battery", status=status, capacity="80")
    assert read_power(tmp_path) == Power(on_battery, 80.0)


def test_two_batteries_count_by_their_capacity(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Discharging", capacity="100", energy_full="20000000")
    supply(tmp_path, "BAT1", type="Battery", status="Unknown", capacity="0", energy_full="60000000")
    assert read_power(tmp_path) == Power(True, 25.0)


def test_of_two_batteries_of_which_one_does_not_tell_the_other_counts(tmp_path: Path) -> None:
    supply(tmp_path, "BAT0", type="Battery", status="Charging", capacity="40")
    supply(tmp_path, "BAT1", type="Battery", status="Charging")
    assert read_power(tmp_path) == Power(False, 40.0)


def test_power_over_usb_is_mains_and_a_mouse_is_no_battery(tmp_path: Path) -> None:
    supply(tmp_path, "ucsi0", type="USB", online="1")
    supply(tmp_path, "hidpp_0", type="Battery", scope="Device", status="Discharging", capacity="5")
    supply(tmp_path, "BAT9", type="Battery", present="0", status="Unknown")
    supply(tmp_path, "BAT0", type="Battery", status="Not charging", capacity="99")
    assert read_power(tmp_path) == Power(False, 99.0)


def test_a_computer_on_its_ups_is_on_battery(tmp_path: Path) -> None:
    supply(tmp_path, "ups", type="UPS", status="Discharging", capacity="70")
    assert read_power(tmp_path) == Power(True, 70.0)


def test_a_lid_is_open_closed_or_not_there(tmp_path: Path) -> None:
    assert lid_closed(tmp_path) is None
    state = tmp_path / "acpi/button/lid/LID/state"
    state.parent.mkdir(parents=True)
    state.write_text("state:      closed\n")
    assert lid_closed(tmp_path) is True
    state.write_text("state:      open\n")
    assert lid_closed(tmp_path) is False


@pytest.mark.parametrize(
    ("status", "mains", "on_battery"),
    [
        ("Discharging", "0", True),  # it feeds a phone
        ("Discharging", "1", True),
        ("Charging", "0", False),  # it is fed by the port
        ("Unknown", "0", None),
        ("Unknown", "1", False),
    ],
)
def test_a_port_that_says_online_may_give_or_take(
    tmp_path: Path, status: str, mains: str, on_battery: bool | None
) -> None:
    supply(tmp_path, "ACAD", type="Mains", online=mains)
    supply(tmp_path, "ucsi-source-psy-USBC000:001", type="USB", scope="System", online="1")
    supply(tmp_path, "BAT0", type="Battery", scope="System", status=status, capacity="80")
    assert read_power(tmp_path) == Power(on_battery, 80.0)
