"""What Windows' calls return, made plain: ticks that wrap, bytes of structures, sessions of people; pure.

Sources: GetLastInputInfo (winuser.h), WTS_SESSION_INFOW, WTS_CONNECTSTATE_CLASS, WTSINFOEXW (wtsapi32.h),
QUERY_USER_NOTIFICATION_STATE (shellapi.h), SYSTEM_POWER_STATUS (winbase.h), NLM_CONNECTION_COST (netlistmgr.h),
NET_LUID (ifdef.h) and IF_TYPE_* (ipifcons.h), EXECUTION_STATE (winnt.h).
"""

import struct
from enum import IntEnum

import msgspec

_TICKS = 1 << 32
_AHEAD_MS = 60_000
"""An input that came between two calls lies so little ahead of the clock at most."""


def idle_seconds_of(tick_ms: int, last_input_ms: int) -> float:
    """Return how long ago the last input was.

    Both are counts of milliseconds in 32 bits that begin again after 49.7 days. Whoever is away for longer looks like
    somebody who was here a little while ago, once in 49.7 days.
    """
    since_ms = (tick_ms - last_input_ms) % _TICKS
    return 0.0 if since_ms > _TICKS - _AHEAD_MS else since_ms / 1000


class Connect(IntEnum):
    """WTS_CONNECTSTATE_CLASS."""

    ACTIVE = 0
    CONNECTED = 1  # the login screen
    CONNECT_QUERY = 2
    SHADOW = 3
    DISCONNECTED = 4
    IDLE = 5
    LISTEN = 6
    RESET = 7
    DOWN = 8
    INIT = 9


class RawSession(msgspec.Struct, frozen=True):
    """One row of WTSEnumerateSessions, with what could be asked about it.

    station: "Console", "RDP-Tcp#3", "" when disconnected. user: None: we may not know. lock_flag: WTSINFOEX's, or None.
    """

    id: int
    station: str
    state: int
    user: str | None
    lock_flag: int | None = None


class WindowsSession(msgspec.Struct, frozen=True):
    """A session of a person. attended: a screen and a keyboard are joined to it. locked: None: unknown."""

    id: int
    attended: bool
    remote: bool
    locked: bool | None


_NOBODY = frozenset({Connect.LISTEN, Connect.RESET, Connect.DOWN, Connect.INIT})
_SERVICES = 0
_LOCK, _UNLOCK = 0, 1


def people(rows: tuple[RawSession, ...]) -> tuple[WindowsSession, ...]:
    """Return the sessions of people among all sessions.

    Not session 0 (services) and none that only listens. A name that we may not ask counts as a person's, except at a
    login screen. A session that is disconnected can be used only after logging on to it again, so it counts as locked.
    """
    found = []
    for row in rows:
        if row.id == _SERVICES or row.state in _NOBODY or row.user == "":
            continue
        if row.user is None and row.state in (Connect.CONNECTED, Connect.CONNECT_QUERY):
            continue
        attended = row.state not in (Connect.DISCONNECTED, Connect.IDLE)
        locked = {_LOCK: True, _UNLOCK: False}.get(-1 if row.lock_flag is None else row.lock_flag)
        found.append(
            WindowsSession(row.id, attended, attended and not _at_console(row.station), locked if attended else True)
        )
    return tuple(found)


def _at_console(station: str) -> bool:
    return station.casefold() == "console"


def lock_flag_of(info: bytes) -> int | None:
    """Return SessionFlags of a WTSINFOEXW of level 1; None when it is of another level, or unknown (-1)."""
    if len(info) < 20:
        return None
    level, _, _, _, flag = struct.unpack_from("<IIIIi", info)
    return flag if level == 1 and flag in (_LOCK, _UNLOCK) else None


class Showing(IntEnum):
    """QUERY_USER_NOTIFICATION_STATE."""

    NOT_PRESENT = 1  # screen saver, locked, another user's session is shown
    BUSY = 2  # a program fills the screen, or presentation settings
    D3D_FULL_SCREEN = 3
    PRESENTATION = 4
    ACCEPTS = 5
    QUIET_TIME = 6  # the first hour after an upgrade or the first logon
    APP = 7  # a Windows Store app: it filled the screen on Windows 8, it may not today


def full_screen_of(state: int) -> bool | None:
    """Whether a program fills the screen; None: this value does not tell."""
    if state in (Showing.BUSY, Showing.D3D_FULL_SCREEN, Showing.PRESENTATION):
        return True
    return False if state in (Showing.NOT_PRESENT, Showing.ACCEPTS, Showing.QUIET_TIME) else None


_ES_DISPLAY_REQUIRED = 0x2


def watching_of(execution_state: int) -> tuple[str, ...]:
    """Who keeps the screen on. Windows tells an account without privileges only that somebody does."""
    return ("a program that keeps the screen on",) if execution_state & _ES_DISPLAY_REQUIRED else ()


class WindowsPower(msgspec.Struct, frozen=True):
    """on_battery: None: unknown. percent: None: unknown, or there is no battery."""

    on_battery: bool | None
    percent: float | None


_UNKNOWN, _NO_BATTERY = 255, 128


def power_of(ac_line: int, battery_flag: int, percent: int) -> WindowsPower:
    """Return what SYSTEM_POWER_STATUS says: a computer without a battery never runs on one."""
    if battery_flag != _UNKNOWN and battery_flag & _NO_BATTERY:
        return WindowsPower(False, None)
    on_battery = {0: True, 1: False}.get(ac_line)
    return WindowsPower(on_battery, float(percent) if percent <= 100 else None)


_COST_UNRESTRICTED = 0x1
_COST_LIMITED = 0x2 | 0x4 | 0x10000 | 0x40000 | 0x80000  # fixed, variable, over the limit, roaming, near the limit


def metered_of(cost: int) -> bool | None:
    """Whether NLM_CONNECTION_COST says that traffic costs; None: unknown."""
    if cost & _COST_LIMITED:
        return True
    return False if cost & _COST_UNRESTRICTED else None


_RADIO = frozenset({71, 243, 244})  # IF_TYPE_IEEE80211, IF_TYPE_WWANPP, IF_TYPE_WWANPP2


def wireless_of(luid: int) -> bool:
    """Whether an interface is a radio: the upper 16 bits of its NET_LUID are its type."""
    return luid >> 48 in _RADIO
