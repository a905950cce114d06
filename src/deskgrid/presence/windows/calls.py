"""The calls to Windows that presence needs, as thin as can be; nothing here decides.

Rules:
- ctypes, not pywin32: two dozen calls, no further 9 MB and no COM initialised at rest.
- 64-bit Windows only: there one calling convention serves all, so CDLL and CFUNCTYPE do.
- A call that fails raises OSError with the name of the call. What is meant by a value is said in `windows_values`.
- Libraries are loaded on first use, so the module can be imported anywhere.

Sources: learn.microsoft.com, the header is named at each call.
"""

import ctypes
import os
from ctypes import byref, c_int, c_ssize_t, c_uint32, c_uint64, c_void_p, c_wchar_p, wintypes
from functools import cache
from pathlib import Path
from typing import Any

from deskgrid.presence.windows.values import RawSession, WindowsPower, lock_flag_of, power_of

_WTS_USER_NAME, _WTS_SESSION_INFO_EX = 5, 25
_SYSTEM_EXECUTION_STATE = 16
_ACCESS_DENIED = 5


class LastInputInfo(ctypes.Structure):
    """LASTINPUTINFO."""

    _fields_ = (("size", c_uint32), ("time_ms", c_uint32))


class SessionInfo(ctypes.Structure):
    """WTS_SESSION_INFOW."""

    _fields_ = (("id", c_uint32), ("station", c_wchar_p), ("state", c_int))


class PowerStatus(ctypes.Structure):
    """SYSTEM_POWER_STATUS."""

    _fields_ = (
        ("ac_line", ctypes.c_ubyte),
        ("battery_flag", ctypes.c_ubyte),
        ("percent", ctypes.c_ubyte),
        ("saver", ctypes.c_ubyte),
        ("seconds_left", c_uint32),
        ("seconds_full", c_uint32),
    )


@cache
def library(name: str) -> Any:
    """Load one of Windows' own libraries by its full path, so never one from the current folder."""
    folder = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
    return ctypes.CDLL(str(folder / f"{name}.dll"), use_last_error=True)


def function(dll: str, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function with its types set. Raises: OSError when this Windows lacks it."""
    return _function(dll, name, result, arguments)


@cache
def _function(dll: str, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        found = library(dll)[name]
    except AttributeError:
        raise OSError(f"{name}: not in this Windows' {dll}.dll") from None
    found.restype, found.argtypes = result, arguments
    return found


def failed(call: str) -> OSError:
    """What GetLastError says of a call."""
    code = int(getattr(ctypes, "get_last_error")())  # noqa: B009 -- Windows only, so unknown to checkers elsewhere
    return OSError(code, f"{call}: {getattr(ctypes, 'FormatError')(code).strip()}")  # noqa: B009


def tick_ms() -> int:
    """GetTickCount (sysinfoapi.h): 32 bits, as last input has them."""
    return int(function("kernel32", "GetTickCount", c_uint32)())


def up_seconds() -> float:
    """GetTickCount64 (sysinfoapi.h): since the computer has started, sleep included."""
    return int(function("kernel32", "GetTickCount64", c_uint64)()) / 1000


def last_input_ms() -> int:
    """GetLastInputInfo (winuser.h): the tick of the last input in our own session."""
    info = LastInputInfo(ctypes.sizeof(LastInputInfo), 0)
    if not function("user32", "GetLastInputInfo", c_int, c_void_p)(byref(info)):
        raise failed("GetLastInputInfo")
    return int(info.time_ms)


def own_session() -> int:
    """ProcessIdToSessionId (processthreadsapi.h)."""
    session = c_uint32()
    if not function("kernel32", "ProcessIdToSessionId", c_int, c_uint32, c_void_p)(os.getpid(), byref(session)):
        raise failed("ProcessIdToSessionId")
    return session.value


def sessions() -> tuple[RawSession, ...]:
    """WTSEnumerateSessionsW (wtsapi32.h), and of each session its user and whether it is locked, where we may ask."""
    rows, count = c_void_p(), c_uint32()
    enumerate_ = function("wtsapi32", "WTSEnumerateSessionsW", c_int, c_void_p, c_uint32, c_uint32, c_void_p, c_void_p)
    if not enumerate_(None, 0, 1, byref(rows), byref(count)):
        raise failed("WTSEnumerateSessions")
    try:
        array = ctypes.cast(rows, ctypes.POINTER(SessionInfo))
        found = [(int(array[n].id), str(array[n].station or ""), int(array[n].state)) for n in range(count.value)]
    finally:
        _wts_free(rows)
    return tuple(RawSession(id_, station, state, _user(id_), _lock_flag(id_)) for id_, station, state in found)


def _wts_free(memory: c_void_p) -> None:
    function("wtsapi32", "WTSFreeMemory", None, c_void_p)(memory)


def _user(session: int) -> str | None:
    content = _about(session, _WTS_USER_NAME)
    return None if content is None else content.decode("utf-16-le", errors="replace").rstrip("\0")


def _lock_flag(session: int) -> int | None:
    content = _about(session, _WTS_SESSION_INFO_EX)
    return None if content is None else lock_flag_of(content)


def _about(session: int, what: int) -> bytes | None:
    """WTSQuerySessionInformationW (wtsapi32.h); None when we may not know: others' sessions need a right for it."""
    content, size = c_void_p(), c_uint32()
    query = function("wtsapi32", "WTSQuerySessionInformationW", c_int, c_void_p, c_uint32, c_int, c_void_p, c_void_p)
    if not query(None, session, what, byref(content), byref(size)):
        return None
    try:
        return ctypes.string_at(content, size.value) if content.value else None
    finally:
        _wts_free(content)


def notification_state() -> int:
    """SHQueryUserNotificationState (shellapi.h): what our own session's screen shows."""
    state = c_int()
    code = int(function("shell32", "SHQueryUserNotificationState", c_int, c_void_p)(byref(state)))
    if code < 0:
        raise OSError(f"SHQueryUserNotificationState: got 0x{code & 0xFFFFFFFF:08x}")
    return state.value


def execution_state() -> int:
    """CallNtPowerInformation(SystemExecutionState) (powerbase.h): what programs ask of the system, all together."""
    state = c_uint32()
    call = function("powrprof", "CallNtPowerInformation", c_int, c_int, c_void_p, c_uint32, c_void_p, c_uint32)
    status = int(call(_SYSTEM_EXECUTION_STATE, None, 0, byref(state), 4))
    if status != 0:
        raise OSError(f"CallNtPowerInformation: got status 0x{status & 0xFFFFFFFF:08x}")
    return state.value


def power() -> WindowsPower:
    """GetSystemPowerStatus (winbase.h)."""
    status = PowerStatus()
    if not function("kernel32", "GetSystemPowerStatus", c_int, c_void_p)(byref(status)):
        raise failed("GetSystemPowerStatus")
    return power_of(status.ac_line, status.battery_flag, status.percent)


WINDOW_PROCEDURE = ctypes.CFUNCTYPE(c_ssize_t, wintypes.HWND, c_uint32, wintypes.WPARAM, wintypes.LPARAM)
"""WNDPROC (winuser.h)."""
