"""The firmware's settings as Linux shows them: read, and written as planned, with what was written read back.

Rules:
- The password is written for one session and taken back at its end, however that ends. It is in no argument and no log.
- A setting that is not any more as it was planned for is left alone. After the first refusal nothing more is written.
- A change counts if the setting reads as wanted, or if the firmware says that it waits for a restart.

Source: Linux Documentation/ABI/testing/sysfs-class-firmware-attributes; drivers/platform/x86/think-lmi.c for
save_settings.
"""

import os
import re
from pathlib import Path

import msgspec

from deskgrid.host.firmware.plan import FirmwarePlan, FirmwareSetting, Obstacle, Role, Setup, Write

CLASS = Path("class/firmware-attributes")
DRIVERS = {"dell": "dell-wmi-sysman", "lenovo": "think-lmi", "hp": "hp-bioscfg", "hewlett-packard": "hp-bioscfg"}
_KEYS = {"dell": "F2", "lenovo": "F1", "hp": "F10", "hewlett-packard": "F10"}


class Result(msgspec.Struct, frozen=True):
    """What came of one write."""

    write: Write
    done: bool
    sentence: str


def read(root: Path) -> tuple[Setup, ...]:
    """All firmwares that the kernel shows; root: /sys."""
    try:
        drivers = sorted((root / CLASS).iterdir())
    except OSError:
        return ()
    return tuple(_setup(driver) for driver in drivers if (driver / "attributes").is_dir())


def _setup(driver: Path) -> Setup:
    attributes = driver / "attributes"
    settings = [_setting(one) for one in sorted(attributes.iterdir()) if (one / "current_value").is_file()]
    try:
        roles = tuple(_role(one) for one in sorted((driver / "authentication").iterdir()) if one.is_dir())
    except OSError:
        roles = ()
    return Setup(driver.name, tuple(settings), roles, _text(attributes / "pending_reboot") == "1")


def _setting(folder: Path) -> FirmwareSetting:
    possible = re.split(r"[;,]", _text(folder / "possible_values"))
    return FirmwareSetting(
        name=folder.name,
        current=_text(folder / "current_value"),
        possible=tuple(value.strip() for value in possible if value.strip()),
        display_name=_text(folder / "display_name"),
        rules=_text(folder / "dell_modifier"),
        value_rules=_text(folder / "dell_value_modifier"),
    )


def _role(folder: Path) -> Role:
    return Role(
        name=folder.name,
        role=_text(folder / "role"),
        enabled=_text(folder / "is_enabled") == "1",
        mechanism=_text(folder / "mechanism") or "password",
        certificate=bool(_text(folder / "certificate_thumbprint")),
    )


def without_settings(root: Path) -> Obstacle:
    """Why no firmware shows its settings here, and what to do."""
    maker = _text(root / "class/dmi/id/sys_vendor").lower()
    vendor = next((name for name in DRIVERS if re.match(rf"{name}\b", maker)), "")
    if vendor:
        module = DRIVERS[vendor]
        sentence = (
            f"The kernel shows no settings of this firmware: try `modprobe {module}`; some models have none. By hand: "
            f"{_KEYS[vendor]} at start-up, then look for virtualisation."
        )
        return Obstacle("no-settings", sentence)
    sentence = (
        f"Settings of firmware of {maker or 'an unknown maker'} can't be changed from here: switch on VT-x or AMD-V "
        "(SVM) in its setup at start-up."
    )
    return Obstacle("vendor-unknown", sentence)


def may_write(root: Path, plan: FirmwarePlan) -> bool:
    """Whether this account may write what is planned."""
    base = root / CLASS / plan.driver / "attributes"
    return all(os.access(base / write.setting / "current_value", os.W_OK) for write in plan.writes)


def carry_out(root: Path, plan: FirmwarePlan, password: str = "") -> tuple[Result, ...]:
    """Write what is planned.

    Args:
        password: of `plan.password_of`. SECRET.
    """
    base = root / CLASS / plan.driver
    session = base / "authentication" / plan.password_of / "current_password" if plan.password_of else None
    results: list[Result] = []
    try:
        if session is not None:
            _say(session, password)
        for write in plan.writes:
            results.append(_written(base / "attributes", write))
            if not results[-1].done:
                break
        if results and all(result.done for result in results) and _text(base / "attributes/save_settings") == "bulk":
            _say(base / "attributes/save_settings", "save")
    except OSError as error:
        rest = plan.writes[len(results)] if len(results) < len(plan.writes) else plan.writes[-1]
        results.append(Result(rest, False, f"{error.filename or session}: {error.strerror}"))
    finally:
        if session is not None:
            _forget(session)
    return tuple(results)


def _forget(session: Path) -> None:
    try:
        _say(session, "")
    except OSError:
        return  # the driver has refused the password, or has gone; there is nothing left to take back


def _written(attributes: Path, write: Write) -> Result:
    file = attributes / write.setting / "current_value"
    now = _text(file)
    if now != write.old:
        return Result(write, False, f"{write.setting}: got {now!r}, expected {write.old!r} as planned; plan again")
    try:
        _say(file, write.new)
    except OSError as error:
        sentence = f"{write.setting}: the firmware refused {write.new!r} ({error.strerror}); is the password right?"
        return Result(write, False, sentence)
    if _text(file) == write.new:
        return Result(write, True, f"{write.setting} is {write.new!r} now; it holds from the next start on")
    if _text(attributes / "pending_reboot") == "1":
        return Result(write, True, f"{write.setting} will be {write.new!r} from the next start on")
    return Result(write, False, f"{write.setting}: got {_text(file)!r} after writing, expected {write.new!r}")


def _say(file: Path, words: str) -> None:
    handle = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(handle, words.encode() + b"\n")
    finally:
        os.close(handle)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
