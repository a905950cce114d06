"""Does the computer run on battery, how full is it, and is its lid closed? From the kernel's own tables.

Rules:
- Batteries of mice and the like (scope "Device") don't count; a UPS counts as a battery.
- On battery if a battery discharges, whatever an adapter says: a USB-C port that feeds a phone says "online" too. On
  mains if all batteries charge or are full, or a mains adapter (type "Mains") is connected; else unknown. No battery:
  on mains.
- The charge is that of all batteries together, each counted by its capacity where that is known.

Source: Documentation/ABI/testing/sysfs-class-power.
"""

from pathlib import Path

import msgspec

_ADAPTERS = ("Mains", "USB", "Wireless", "BrickID", "USB_PD", "USB_C", "USB_DCP", "USB_CDP", "USB_ACA")
_BATTERIES = ("Battery", "UPS")
_FED = ("Charging", "Full", "Not charging")


class Power(msgspec.Struct, frozen=True):
    """on_battery: None: unknown. battery_percent: None: no battery, or unknown."""

    on_battery: bool | None = False
    battery_percent: float | None = None


class Supply(msgspec.Struct, frozen=True):
    """One power supply.

    mains: an adapter that can but take power, not a port. online: of an adapter. status: of a battery. percent, full:
    charge and capacity, if known.
    """

    battery: bool
    mains: bool = False
    online: bool = False
    status: str = ""
    percent: float | None = None
    full: float | None = None


def read_power(sysfs: Path) -> Power:
    """Read all power supplies."""
    try:
        paths = sorted((sysfs / "class/power_supply").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return Power()
    except OSError:
        return Power(None, None)
    return together([one for path in paths if (one := _supply(path)) is not None])


def together(supplies: list[Supply]) -> Power:
    """What all supplies say of the computer."""
    batteries = [one for one in supplies if one.battery]
    if any(one.status == "Discharging" for one in batteries):
        on_battery: bool | None = True
    elif any(one.mains and one.online for one in supplies) or all(one.status in _FED for one in batteries):
        on_battery = False
    else:
        on_battery = None
    return Power(on_battery, _percent(batteries))


def _percent(batteries: list[Supply]) -> float | None:
    known = [(one.percent, one.full) for one in batteries if one.percent is not None]
    if not known or len(known) < len(batteries):
        return min((percent for percent, _ in known), default=None)
    weights = [full or 0.0 for _, full in known] if all(full for _, full in known) else [1.0] * len(known)
    return sum(percent * weight for (percent, _), weight in zip(known, weights, strict=True)) / sum(weights)


def _supply(path: Path) -> Supply | None:
    kind = _word(path / "type")
    if _word(path / "scope") == "Device":
        return None
    if kind in _ADAPTERS:
        return Supply(battery=False, mains=kind == "Mains", online=_word(path / "online") not in ("0", ""))
    if kind not in _BATTERIES or _word(path / "present") == "0":
        return None
    full = _number(path / "energy_full") or _number(path / "charge_full")
    return Supply(battery=True, status=_word(path / "status"), percent=_number(path / "capacity"), full=full)


def lid_closed(proc: Path) -> bool | None:
    """Whether a lid is closed; None: the kernel knows of no lid here."""
    try:
        states = [_word(path / "state") for path in (proc / "acpi/button/lid").iterdir()]
    except OSError:
        return None
    return any(state.endswith("closed") for state in states) if states else None


def _word(path: Path) -> str:
    """A small file's content; empty when there is none, or a driver has no answer now."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_word(path))
    except ValueError:
        return None
