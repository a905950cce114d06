"""Which firmware settings must change so that virtualisation is on: a pure plan, from what the firmware shows.

Rules:
- Only settings whose names are known as those of virtualisation are touched, and only towards on.
- What can't be done is said with its reason: no such setting, a password, a rule of the firmware's, an unknown value.
- The plan holds no password. It says whether one is needed.
- Directed I/O (VT-d, AMD's IOMMU) is not needed to run virtual machines; it is planned when asked for.

Sources: Linux Documentation/ABI/testing/sysfs-class-firmware-attributes; names from Dell Command | Configure's
reference (Virtualization, VtForDirectIo), Lenovo's BIOS setup guides for WMI (VirtualizationTechnology, VTdFeature),
HP's setup overviews and scripts (Virtualization Technology (VTx), SVM CPU Virtualization).
"""

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec


class Feature(StrEnum):
    """What a setting switches."""

    CPU = "VT-x or AMD-V"
    IO = "VT-d or AMD IOMMU"


NAMES: Mapping[Feature, frozenset[str]] = {
    Feature.CPU: frozenset(
        {
            "virtualization",  # Dell
            "virtualizationtechnology",  # Lenovo ThinkPad; display name on Dell
            "intelrvirtualizationtechnology",  # Lenovo ThinkCentre
            "intelvirtualizationtechnology",
            "virtualizationtechnologyvtx",  # HP, Intel
            "svmcpuvirtualization",  # HP, AMD
            "svmmode",
            "svm",
            "amdv",
            "amdvtechnology",
            "amdvtmtechnology",
        }
    ),
    Feature.IO: frozenset(
        {
            "vtfordirectio",  # Dell
            "vtdfeature",  # Lenovo ThinkPad
            "vtd",  # Lenovo ThinkCentre
            "intelrvtdfeature",
            "virtualizationtechnologyfordirectediovtd",  # HP
            "virtualizationtechnologydirectediovtd",
            "iommu",
        }
    ),
}
"""Names of settings, in small letters, letters and digits only."""

_ON = ("enabled", "enable", "on")
_OPPOSITE = {"disabled": "Enabled", "disable": "Enable", "off": "On"}
_RULE = re.compile(r"\[(ReadOnlyIf|SuppressIf)(Not)?:([^=\]]+)=([^\]]*)\]")
_FORCE = re.compile(r"([^\[\];]+)\[ForceIf(Not)?:([^=\]]+)=([^\]]*)\]")


class FirmwareSetting(msgspec.Struct, frozen=True):
    """One setting. possible: its values, where they are told. rules: Dell's dependencies, as it writes them."""

    name: str
    current: str
    possible: tuple[str, ...] = ()
    display_name: str = ""
    rules: str = ""
    value_rules: str = ""


class Role(msgspec.Struct, frozen=True):
    """A password or certificate that the firmware knows. role: as the kernel calls it."""

    name: str
    role: str
    enabled: bool
    mechanism: str = "password"
    certificate: bool = False


class Setup(msgspec.Struct, frozen=True):
    """A firmware's settings. driver: who shows them ("dell-wmi-sysman", "thinklmi", "hp-bioscfg")."""

    driver: str
    settings: tuple[FirmwareSetting, ...]
    roles: tuple[Role, ...] = ()
    pending_reboot: bool = False


class Write(msgspec.Struct, frozen=True):
    """One thing to write, and why."""

    setting: str
    old: str
    new: str
    why: str


class Obstacle(msgspec.Struct, frozen=True):
    """What can't be done, or needs something first. name: stable."""

    name: str
    sentence: str


class FirmwarePlan(msgspec.Struct, frozen=True):
    """What to do. password_of: the role whose password is needed, or nothing. done: settings that are on already."""

    driver: str
    writes: tuple[Write, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    done: tuple[str, ...] = ()
    password_of: str = ""
    pending_reboot: bool = False


def plan(setup: Setup, features: tuple[Feature, ...] = (Feature.CPU,)) -> FirmwarePlan:
    """What to write so that these features are on."""
    values = {setting.name: setting.current for setting in setup.settings}
    writes: list[Write] = []
    obstacles: list[Obstacle] = []
    done: list[str] = []
    for feature in features:
        found = [setting for setting in setup.settings if _is(setting, feature)]
        if not found:
            sentence = f"The firmware shows no setting for {feature.value}; look for it in its setup at start-up."
            obstacles.append(Obstacle("not-offered", sentence))
        for setting in found:
            step = _step(setting, feature, values)
            if isinstance(step, Write):
                writes.append(step)
                values[setting.name] = step.new
            elif isinstance(step, Obstacle):
                obstacles.append(step)
            else:
                done.append(setting.name)
    role = _role(setup) if writes else None
    if role is not None and (role.certificate or role.mechanism != "password"):
        sentence = f"{role.name} asks for a signed certificate, not for a password: use the firmware's setup."
        return FirmwarePlan(setup.driver, (), (*obstacles, Obstacle("certificate-needed", sentence)), tuple(done))
    name = role.name if role is not None else ""
    return FirmwarePlan(setup.driver, tuple(writes), tuple(obstacles), tuple(done), name, setup.pending_reboot)


def plain(name: str) -> str:
    """A name in small letters, letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def is_on(value: str) -> bool:
    """Whether a setting with this value is on."""
    return plain(value) in _ON


def on_value(current: str, possible: tuple[str, ...]) -> str | None:
    """The value that switches a setting on, as this firmware writes it; None: not known."""
    if possible:
        return next((value for wanted in _ON for value in possible if plain(value) == wanted), None)
    return _OPPOSITE.get(plain(current))


def _is(setting: FirmwareSetting, feature: Feature) -> bool:
    return bool({plain(setting.name), plain(setting.display_name)} & NAMES[feature])


def _step(setting: FirmwareSetting, feature: Feature, values: Mapping[str, str]) -> Write | Obstacle | None:
    if is_on(setting.current):
        return None
    new = on_value(setting.current, setting.possible)
    if new is None:
        shown = ", ".join(setting.possible) or f"only {setting.current!r}"
        sentence = f"{setting.name}: got the values {shown}, expected one that means on; switch it on in the setup."
        return Obstacle("value-unknown", sentence)
    for rule, negated, other, value in _RULE.findall(setting.rules):
        if (values.get(other) == value) != bool(negated):
            verb = "can't be changed" if rule == "ReadOnlyIf" else "is hidden"
            return Obstacle("ruled-out", f"{setting.name} {verb} while {other} is {values.get(other)!r}.")
    for forced, negated, other, value in _FORCE.findall(setting.value_rules):
        if not is_on(forced) and (values.get(other) == value) != bool(negated):
            return Obstacle(
                "ruled-out", f"{setting.name} is held at {forced!r} while {other} is {values.get(other)!r}."
            )
    return Write(setting.name, setting.current, new, f"{feature.value} is off")


def _role(setup: Setup) -> Role | None:
    """Whose password is needed before anything is written: the administrator's; Lenovo's second one does as well."""
    for wanted in ("bios-admin", "system-mgmt"):
        for role in setup.roles:
            if role.role == wanted and (role.enabled or role.certificate):
                return role
    return None
