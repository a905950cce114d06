"""What Windows tells a window about power and sessions, and what follows from it; pure.

    message -> decode -> Noticed -> follow -> WindowsState

Rules:
- The first value of a setting is where things stand; only a change is news.
- News are told to the agent at once. Some of them are a sign of the owner (`touched_at`): the user is present again,
  somebody logs on, unlocks, connects, opens the lid. The others (the plug pulled, a lock by a timer) are not.
- Somebody asked whether the session may end: that is a shutdown until it is taken back.

Sources (learn.microsoft.com, Win32): WM_POWERBROADCAST, POWERBROADCAST_SETTING and "Power Setting GUIDs" (winuser.h,
winnt.h), WM_WTSSESSION_CHANGE (winuser.h), WM_QUERYENDSESSION, WM_ENDSESSION.
"""

import struct
from enum import StrEnum
from uuid import UUID

import msgspec

from deskgrid.model.presence import Ending

WM_QUERYENDSESSION, WM_ENDSESSION, WM_POWERBROADCAST, WM_WTSSESSION_CHANGE = 0x11, 0x16, 0x218, 0x2B1
PBT_APMSUSPEND, PBT_APMRESUMESUSPEND, PBT_APMRESUMEAUTOMATIC, PBT_POWERSETTINGCHANGE = 0x4, 0x7, 0x12, 0x8013
SETTING_HEAD_BYTES, SETTING_MAX_BYTES = 20, 64


class What(StrEnum):
    """What a message is about."""

    GLOBAL_PRESENCE = "global-presence"  # USER_ACTIVITY_PRESENCE over all sessions; only session 0 gets it
    SESSION_PRESENCE = "session-presence"  # the same for our own session
    POWER_SOURCE = "power-source"  # SYSTEM_POWER_CONDITION
    BATTERY = "battery"  # percent
    LID = "lid"  # 0: closed
    SESSION = "session"  # value: WTS_* of WM_WTSSESSION_CHANGE
    SUSPEND = "suspend"
    RESUME = "resume"  # value 1: somebody is there
    QUERY_END = "query-end"
    END = "end"  # value 0: the end was taken back


SETTINGS: dict[What, UUID] = {
    What.GLOBAL_PRESENCE: UUID("786e8a1d-b427-4344-9207-09e70bdcbea9"),
    What.SESSION_PRESENCE: UUID("3c0f4548-c03f-4c4d-b9f2-237ede686376"),
    What.POWER_SOURCE: UUID("5d3e9a59-e9d5-4b00-a6bd-ff34ff516548"),
    What.BATTERY: UUID("a7ad8041-b45a-4cae-87a3-eecbb468a9e1"),
    What.LID: UUID("ba3e0f4d-b817-4094-a2d1-d56379e6a0f3"),
}
_BY_GUID = {guid.bytes_le: what for what, guid in SETTINGS.items()}
_PRESENT, _NOT_PRESENT, _INACTIVE = 0, 1, 2

CONSOLE_CONNECT, CONSOLE_DISCONNECT, REMOTE_CONNECT, REMOTE_DISCONNECT = 1, 2, 3, 4
LOGON, LOGOFF, LOCK, UNLOCK, REMOTE_CONTROL = 5, 6, 7, 8, 9
_BY_A_HAND = frozenset({CONSOLE_CONNECT, REMOTE_CONNECT, LOGON, LOGOFF, UNLOCK, REMOTE_CONTROL})


class Noticed(msgspec.Struct, frozen=True):
    """One message, understood. session: the one it is about, for SESSION."""

    what: What
    value: int = 0
    session: int = 0


class UserPresence(msgspec.Struct, frozen=True):
    """What Windows last said about users. since: when, in seconds of the steady clock."""

    here: bool
    since: float


class WindowsState(msgspec.Struct, frozen=True):
    """Where things stand after all messages so far; None: not told yet.

    touched_at: the last sign of an owner, in seconds of the steady clock. locks: sessions and whether they are locked.
    on_battery, battery_percent: a change is news; the agent then reads power with the machine.
    """

    everywhere: UserPresence | None = None
    own: UserPresence | None = None
    on_battery: bool | None = None
    battery_percent: int | None = None
    lid_open: bool | None = None
    locks: tuple[tuple[int, bool], ...] = ()
    ending: Ending | None = None
    touched_at: float | None = None


def decode(message: int, wparam: int, lparam: int, setting: bytes = b"") -> Noticed | None:
    """Return what a window message says; None when it says nothing to us.

    Args:
        setting: for a change of a power setting the bytes to which lparam points: GUID, length (32 bits), data.
    """
    if message == WM_POWERBROADCAST:
        return _power(wparam, setting)
    if message == WM_WTSSESSION_CHANGE:
        return Noticed(What.SESSION, wparam, lparam & 0xFFFFFFFF)
    if message == WM_QUERYENDSESSION:
        return Noticed(What.QUERY_END)
    if message == WM_ENDSESSION:
        return Noticed(What.END, int(bool(wparam)))
    return None


def _power(event: int, setting: bytes) -> Noticed | None:
    if event == PBT_APMSUSPEND:
        return Noticed(What.SUSPEND)
    if event in (PBT_APMRESUMESUSPEND, PBT_APMRESUMEAUTOMATIC):
        return Noticed(What.RESUME, int(event == PBT_APMRESUMESUSPEND))
    if event != PBT_POWERSETTINGCHANGE or len(setting) < SETTING_HEAD_BYTES + 4:
        return None
    (length,) = struct.unpack_from("<I", setting, 16)
    what = _BY_GUID.get(setting[:16])
    if what is None or length < 4:
        return None
    return Noticed(what, struct.unpack_from("<I", setting, SETTING_HEAD_BYTES)[0])


def encode_setting(what: What, value: int) -> bytes:
    """Return the bytes of a POWERBROADCAST_SETTING, as Windows sends them."""
    return SETTINGS[what].bytes_le + struct.pack("<II", 4, value)


def follow(state: WindowsState, noticed: Noticed, now: float) -> tuple[WindowsState, bool]:
    """Return the state after a message, and whether the agent is to look now.

    Args:
        now: seconds of a steady clock.
    """
    fresh = _follow(state, noticed, now)
    if noticed.what is What.SESSION:  # always news: who is logged in must be read again
        return fresh, True
    return fresh, fresh != state and not _first(state, noticed.what)


def _first(state: WindowsState, what: What) -> bool:
    """Whether nothing was told of this setting before."""
    name = _FIELDS.get(what)
    return name is not None and getattr(state, name) is None


_FIELDS = {
    What.GLOBAL_PRESENCE: "everywhere",
    What.SESSION_PRESENCE: "own",
    What.POWER_SOURCE: "on_battery",
    What.BATTERY: "battery_percent",
    What.LID: "lid_open",
}


def _follow(state: WindowsState, noticed: Noticed, now: float) -> WindowsState:
    replace, value = msgspec.structs.replace, noticed.value
    match noticed.what:
        case What.GLOBAL_PRESENCE:
            known = _presence(state.everywhere, value, now)
            return replace(state, everywhere=known, touched_at=_touch(state, state.everywhere, known, now))
        case What.SESSION_PRESENCE:
            known = _presence(state.own, value, now)
            return replace(state, own=known, touched_at=_touch(state, state.own, known, now))
        case What.POWER_SOURCE:
            return replace(state, on_battery=value != 0)
        case What.BATTERY:
            return replace(state, battery_percent=min(value, 100))
        case What.LID:
            opened = state.lid_open is False and value != 0
            return replace(state, lid_open=value != 0, touched_at=now if opened else state.touched_at)
        case What.SESSION:
            return _session(state, noticed, now)
        case _:
            return _ending(state, noticed, now)


def _ending(state: WindowsState, noticed: Noticed, now: float) -> WindowsState:
    replace = msgspec.structs.replace
    if noticed.what is What.SUSPEND:
        return replace(state, ending=Ending.SLEEP)
    if noticed.what is What.RESUME:
        return replace(state, ending=None, touched_at=now if noticed.value else state.touched_at)
    taken_back = noticed.what is What.END and not noticed.value
    return replace(state, ending=None if taken_back else Ending.SHUTDOWN)


def _presence(before: UserPresence | None, value: int, now: float) -> UserPresence | None:
    """What the system says now; None for a value that says nothing. A repeated word keeps the time of the first."""
    if value not in (_PRESENT, _NOT_PRESENT, _INACTIVE):
        return None
    here = value == _PRESENT
    return before if before is not None and before.here == here else UserPresence(here, now)


def _touch(state: WindowsState, before: UserPresence | None, known: UserPresence | None, now: float) -> float | None:
    came = before is not None and not before.here and known is not None and known.here
    return now if came else state.touched_at


def _session(state: WindowsState, noticed: Noticed, now: float) -> WindowsState:
    locks = dict(state.locks)
    if noticed.value in (LOCK, UNLOCK):
        locks[noticed.session] = noticed.value == LOCK
    elif noticed.value in (LOGON, LOGOFF):
        locks.pop(noticed.session, None)
    touched = noticed.value in _BY_A_HAND
    return msgspec.structs.replace(
        state, locks=tuple(sorted(locks.items())), touched_at=now if touched else state.touched_at
    )
