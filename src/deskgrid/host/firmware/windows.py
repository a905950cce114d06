"""How the same is done on Windows, with what the makers offer there: argument lists, as values. Pure.

Rules:
- A password is never in an argument: the PowerShell lines read it from their standard input. `cctk`, which takes it as
  an argument, is used only where none is set.
- Names and values of settings go into PowerShell in single quotes, with single quotes doubled.
- Whatever does not succeed ends with a code other than 0.

Nothing of this was run: there is no such computer here. It is written after the makers' documents: Dell Command |
Configure and the "agent-free" BIOS interface (root/dcim/sysman/biosattributes), Lenovo's BIOS setup guides for WMI
(Lenovo_SetBiosSetting, Lenovo_WmiOpcodeInterface, Lenovo_SaveBiosSettings), HP's instrumented BIOS
(root/HP/InstrumentedBIOS) and HP CMSL.
"""

import msgspec

from deskgrid.host.firmware.plan import Feature, FirmwarePlan, FirmwareSetting, Obstacle, Setup, plan

_POWERSHELL = ("powershell.exe", "-NoProfile", "-NonInteractive", "-Command")
_PASSWORD = "$p = [Console]::In.ReadLine(); "  # noqa: S105 - reads one
_STOP = "$ErrorActionPreference = 'Stop'; "
DELL, LENOVO, HP = "dell", "lenovo", "hp"


class WindowsSetup(msgspec.Struct, frozen=True):
    """What was found on a Windows computer.

    maker: of the computer, as WMI says it. settings: as the maker's interface lists them. password_set: for the setup.
    tools: of "cctk", "cmsl", "lenovo-opcode" (the class Lenovo_WmiOpcodeInterface is there).
    """

    maker: str
    settings: tuple[FirmwareSetting, ...]
    password_set: bool = False
    tools: frozenset[str] = frozenset()


class Call(msgspec.Struct, frozen=True):
    """A program to run. password_on_stdin: it reads the setup's password from there, one line."""

    argv: tuple[str, ...]
    password_on_stdin: bool
    why: str


class WindowsPlan(msgspec.Struct, frozen=True):
    """What to run, in order, and what can't be done."""

    calls: tuple[Call, ...]
    obstacles: tuple[Obstacle, ...] = ()
    done: tuple[str, ...] = ()


def windows_plan(setup: WindowsSetup, features: tuple[Feature, ...] = (Feature.CPU,)) -> WindowsPlan:
    """What to run so that these features are on."""
    vendor = _vendor(setup.maker)
    if not vendor:
        sentence = f"Settings of firmware of {setup.maker or 'an unknown maker'} can't be changed from Windows by us."
        return WindowsPlan((), (Obstacle("vendor-unknown", sentence),))
    planned = plan(Setup(vendor, setup.settings), features)
    make = {DELL: _dell, LENOVO: _lenovo, HP: _hp}[vendor]
    return WindowsPlan(make(setup, planned), planned.obstacles, planned.done)


def _vendor(maker: str) -> str:
    first = maker.lower().replace("hewlett-packard", HP).split(maxsplit=1)[:1]
    return first[0] if first and first[0] in (DELL, LENOVO, HP) else ""


def _dell(setup: WindowsSetup, planned: FirmwarePlan) -> tuple[Call, ...]:
    if "cctk" in setup.tools and not setup.password_set:
        return tuple(Call(("cctk.exe", f"--{write.setting}={write.new}"), False, write.why) for write in planned.writes)
    secret = "$b = [Text.Encoding]::UTF8.GetBytes($p); $t = 1; " if setup.password_set else "$b = [byte[]]@(); $t = 0; "
    return tuple(
        _powershell(
            secret
            + "$i = Get-CimInstance -Namespace root/dcim/sysman/biosattributes -ClassName BIOSAttributeInterface; "
            "$a = @{SecType = [uint32]$t; SecHndCount = [uint32]$b.Length; SecHandle = $b; "
            f"AttributeName = {_quoted(write.setting)}; AttributeValue = {_quoted(write.new)}}}; "
            "exit (Invoke-CimMethod -InputObject $i -MethodName SetAttribute -Arguments $a).Status",
            setup.password_set,
            write.why,
        )
        for write in planned.writes
    )


def _lenovo(setup: WindowsSetup, planned: FirmwarePlan) -> tuple[Call, ...]:
    """All in one session: the settings, then the password where it goes by itself, then the saving."""
    if not planned.writes:
        return ()
    opcode = "lenovo-opcode" in setup.tools
    inline = "',' + $p + ',ascii,us'" if setup.password_set and not opcode else "''"
    steps = [
        _lenovo_step("Lenovo_SetBiosSetting", "SetBiosSetting", f"{_quoted(f'{w.setting},{w.new}')} + {inline}")
        for w in planned.writes
    ]
    if setup.password_set and opcode:
        steps.append(_lenovo_step("Lenovo_WmiOpcodeInterface", "WmiOpcodeInterface", "'WmiOpcodePasswordAdmin:' + $p"))
    save = "$p + ',ascii,us'" if setup.password_set and not opcode else "''"
    steps.append(_lenovo_step("Lenovo_SaveBiosSettings", "SaveBiosSettings", save))
    why = "; ".join(f"{write.setting}: {write.why}" for write in planned.writes)
    return (_powershell("".join(steps) + "exit 0", setup.password_set, why),)


def _lenovo_step(kind: str, method: str, parameter: str) -> str:
    return (
        f"$i = Get-CimInstance -Namespace root/wmi -ClassName {kind}; "
        f"$r = (Invoke-CimMethod -InputObject $i -MethodName {method} -Arguments @{{parameter = {parameter}}}).return; "
        "if ($r -ne 'Success') { [Console]::Error.WriteLine($r); exit 1 }; "
    )


def _hp(setup: WindowsSetup, planned: FirmwarePlan) -> tuple[Call, ...]:
    calls = []
    for write in planned.writes:
        name, value = _quoted(write.setting), _quoted(write.new)
        if "cmsl" in setup.tools:
            secret = " -Password $p" if setup.password_set else ""
            script = f"Set-HPBIOSSettingValue -Name {name} -Value {value}{secret}; exit 0"
        else:
            secret = "'<utf-16/>' + $p" if setup.password_set else "'<utf-16/>'"
            script = (
                "$i = Get-CimInstance -Namespace root/HP/InstrumentedBIOS -ClassName HP_BIOSSettingInterface; "
                f"$a = @{{Name = {name}; Value = {value}; Password = {secret}}}; "
                "exit (Invoke-CimMethod -InputObject $i -MethodName SetBIOSSetting -Arguments $a).Return"
            )
        calls.append(_powershell(script, setup.password_set, write.why))
    return tuple(calls)


def _powershell(script: str, with_password: bool, why: str) -> Call:
    return Call((*_POWERSHELL, _STOP + (_PASSWORD if with_password else "") + script), with_password, why)


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"
