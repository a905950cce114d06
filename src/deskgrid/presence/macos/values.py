"""What macOS' calls return, made plain, and what they say together; pure. Never run on a Mac.

Rules:
- Busy if any source says busy: idle time is the least over all sources.
- HIDIdleTime tells of the hardware at this computer, whoever uses it; Quartz of our own graphical session, remote
  control included. A terminal (SSH) is known by its access time.
- Somebody at the console needs HIDIdleTime, somebody on a terminal that terminal; else idle time is unknown. A screen
  that is shared from afar moves no hardware: only Quartz in that session sees it.

Sources: IOHIDSystem's HIDIdleTime in the I/O registry (nanoseconds; a CFNumber, on old systems 8 bytes of CFData),
CGEventSourceSecondsSinceLastEventType (CGEventSource.h), getutxent(3) and utmpx.h, IOPSGetProvidingPowerSourceType
(IOPowerSources.h), IOPMCopyAssertionsStatus (IOPMLib.h), AppleClamshellState of IOPMrootDomain,
kern.memorystatus_vm_pressure_level (sysctl(3)).
"""

import struct
from collections.abc import Mapping, Sequence

import msgspec

from deskgrid.model.presence import Reading, SessionReading
from deskgrid.model.values.text import counted

USER_PROCESS = 7
_UTMPX = struct.Struct("<256s4s32sih6xqi4x256s64x")
UTMPX_BYTES = _UTMPX.size
_CONSOLE = "console"


class Login(msgspec.Struct, frozen=True):
    """One line of utmpx: a person, where, and from where ("": here)."""

    user: str
    line: str
    host: str


def login_of(entry: bytes) -> Login | None:
    """Return what a struct utmpx says; None when it isn't a person's session."""
    user, _, line, _, kind, _, _, host = _UTMPX.unpack(entry[:UTMPX_BYTES])
    if kind != USER_PROCESS:
        return None
    return Login(*(part.split(b"\0")[0].decode(errors="replace") for part in (user, line, host)))


def hid_seconds_of(value: int | bytes | None) -> float | None:
    """Return idle seconds of the hardware from HIDIdleTime; None: it says nothing."""
    if isinstance(value, bytes):
        if len(value) != 8:
            return None
        value = int.from_bytes(value, "little")
    return None if value is None or value < 0 else value / 1e9


def quartz_seconds_of(value: float) -> float | None:
    """Return idle seconds of our session; None: we have none (Quartz then says a negative, or a time beyond reason)."""
    return value if 0 <= value < 10 * 365 * 86400 else None


class MacFacts(msgspec.Struct, frozen=True):
    """What was read; None: unknown.

    hid_seconds: idle time of the hardware. quartz_seconds: of our own session. logins: who is logged in.
    terminals: idle seconds of terminals, by name ("ttys003"). locked: our own session. watching: who keeps the screen
    on. lid_closed: None: no lid, or unknown. helpers: what helpers in sessions said. faults: what could not be read.
    """

    hid_seconds: float | None
    quartz_seconds: float | None
    logins: tuple[Login, ...] | None
    terminals: Mapping[str, float] = {}
    locked: bool | None = None
    watching: tuple[str, ...] = ()
    lid_closed: bool | None = None
    helpers: tuple[SessionReading, ...] = ()
    faults: tuple[str, ...] = ()


def combine(facts: MacFacts) -> Reading:
    """Return what is known of the owner."""
    logins = facts.logins or ()
    hands = {"HIDIdleTime": facts.hid_seconds, "Quartz": facts.quartz_seconds}
    hands |= {f"terminal {name}": seconds for name, seconds in facts.terminals.items()}
    hands |= {one.source: one.idle_seconds for one in facts.helpers}
    known = {name: seconds for name, seconds in hands.items() if seconds is not None}
    least = min(known.values(), default=None)
    unknown = _unknown(facts)
    if unknown and (least is None or least >= 1.0):
        least = None
    words = [one.full_screen for one in facts.helpers]
    return Reading(
        bool(logins) if facts.logins is not None else None,
        least,
        sources=(*(f"{name} {seconds:.0f} s" for name, seconds in known.items()), _count(logins)),
        faults=(*facts.faults, *unknown),
        locked=_locked(facts, logins),
        remote=any(one.host for one in logins) if facts.logins is not None else None,
        watching=tuple(dict.fromkeys((*facts.watching, *(what for one in facts.helpers for what in one.watching)))),
        full_screen=True if True in words else (False if facts.logins == () or False in words else None),
        lid_closed=facts.lid_closed is True,
    )


def _unknown(facts: MacFacts) -> list[str]:
    """Why idle time can't be known, for each kind of session that nothing tells of."""
    if facts.logins is None:
        return ["logins: got none, expected to read them"]
    found = []
    if facts.hid_seconds is None:
        found.append("HIDIdleTime: got nothing, expected the idle time of keyboard and mouse")
    found += [
        f"session of {one.user}: got no terminal {one.line}, expected one to look at"
        for one in facts.logins
        if one.line != _CONSOLE and one.line not in facts.terminals
    ]
    return found


def _locked(facts: MacFacts, logins: Sequence[Login]) -> bool | None:
    """A session on a terminal can't be locked; our own word, or none, holds for the console."""
    if not logins:
        return None
    if any(one.line != _CONSOLE for one in logins) or any(one.locked is False for one in facts.helpers):
        return False
    return facts.locked


def _count(logins: Sequence[Login]) -> str:
    remote = sum(bool(one.host) for one in logins)
    return f"utmpx: {counted(len(logins), 'session')}" + (f", {remote} remote" if remote else "")


_KEEP_AWAKE = {
    "PreventUserIdleDisplaySleep": "a program that keeps the screen on",
    "NoDisplaySleepAssertion": "a program that keeps the screen on",
}


def watching_of(assertions: Mapping[str, int]) -> tuple[str, ...]:
    """Return who keeps the screen on, from the levels of power assertions by type."""
    return tuple(dict.fromkeys(said for name, said in _KEEP_AWAKE.items() if assertions.get(name, 0) > 0))


class PowerSource(msgspec.Struct, frozen=True):
    """One power source: its charge, and what counts as full."""

    current: int
    full: int


def battery_of(providing: str | None, sources: Sequence[PowerSource]) -> tuple[bool | None, float | None]:
    """Return whether the computer runs on battery, and its charge in percent; None: unknown, or there is none."""
    on_battery = {"AC Power": False, "Battery Power": True, "UPS Power": True}.get(providing or "")
    full = sum(one.full for one in sources)
    return on_battery, 100 * sum(one.current for one in sources) / full if full > 0 else None


def pressure_of(level: int | None) -> float | None:
    """Return memory pressure in percent for the kernel's levels normal (1), warning (2) and critical (4)."""
    return {1: 0.0, 2: 50.0, 4: 100.0}.get(level or 0)
