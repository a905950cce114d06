"""A window that nobody sees, on a thread of its own: Windows tells it of power, sessions and the end, and of input.

Rules:
- It is a top-level window that is never shown. A message-only window would not do: it gets no broadcasts, so neither
  sleep nor the end of the session.
- Input is listened to (raw input, in the background) only while that was asked for: the first message stops it, and
  100 ms later it listens again. What was typed is never asked for, only that something was.
- Input to a program of higher integrity is hidden from raw input. So last input is looked at once a second besides, and
  every 150 ms where raw input can't be had, and every 5 s, without raw input, while no virtual machine runs.
- What can't be registered is a fault, and the rest goes on. Session messages are asked for again every 30 s: early
  after the start of Windows their service isn't there yet.

Sources: RegisterPowerSettingNotification, RegisterRawInputDevices, WM_INPUT (winuser.h),
WTSRegisterSessionNotification (wtsapi32.h), "MessageWindow Features: Message-Only Windows".
"""

import ctypes
import itertools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ctypes import byref, c_int, c_ssize_t, c_uint16, c_uint32, c_void_p, c_wchar_p, wintypes

from deskgrid.presence.windows.calls import WINDOW_PROCEDURE, failed, function
from deskgrid.presence.windows.events import (
    PBT_POWERSETTINGCHANGE,
    SETTING_HEAD_BYTES,
    SETTING_MAX_BYTES,
    SETTINGS,
    WM_POWERBROADCAST,
    WM_QUERYENDSESSION,
    Noticed,
    What,
    decode,
)

FAST_MS, SLOW_MS, LAZY_MS, REST_MS = 150, 1000, 5000, 100
_AGAIN_SECONDS = 30.0
_WM_DESTROY, _WM_CLOSE, _WM_INPUT, _WM_TIMER, _WM_LISTEN = 0x2, 0x10, 0xFF, 0x113, 0x8001
_WS_POPUP, _WS_EX_TOOLWINDOW, _WS_EX_NOACTIVATE = 0x80000000, 0x80, 0x08000000
_LOOK_TIMER, _REST_TIMER = 1, 2
_RIDEV_REMOVE, _RIDEV_INPUTSINK = 0x1, 0x100
_ALL_SESSIONS = 1
_HANDS = ((1, 2), (1, 6), (0xD, 2), (0xD, 4))  # HID usages: mouse, keyboard, pen, touch screen
_names = itertools.count()
_log = logging.getLogger(__name__)


class WindowClass(ctypes.Structure):
    """WNDCLASSW."""

    _fields_ = (
        ("style", c_uint32),
        ("procedure", WINDOW_PROCEDURE),
        ("class_extra", c_int),
        ("window_extra", c_int),
        ("instance", c_void_p),
        ("icon", c_void_p),
        ("cursor", c_void_p),
        ("background", c_void_p),
        ("menu", c_wchar_p),
        ("name", c_wchar_p),
    )


class RawInputDevice(ctypes.Structure):
    """RAWINPUTDEVICE."""

    _fields_ = (("page", c_uint16), ("usage", c_uint16), ("flags", c_uint32), ("window", c_void_p))


class Guid(ctypes.Structure):
    """GUID, as bytes."""

    _fields_ = (("bytes", ctypes.c_ubyte * 16),)


class MessageWindow:
    """The window; the constructor returns when it is there, or when it can't be.

    Args:
        noticed: called from the window's thread with each message that says something.
        stirred: called from it at input, and when it is time to look at what tells nobody.
    """

    def __init__(self, noticed: Callable[[Noticed], None], stirred: Callable[[bool], None]) -> None:
        self._noticed, self._stirred = noticed, stirred
        self._faults: dict[str, str] = {}
        self.handle: int | None = None
        self._name = f"deskgrid-presence-{next(_names)}"
        self._procedure = WINDOW_PROCEDURE(self._receive)  # Windows keeps no reference; we must
        self._settings: list[int] = []
        self._sessions_at: float | None = None
        self._closely = self._raw = self._closing = False
        self._there = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence-window", daemon=True)
        self._thread.start()
        self._there.wait()

    @property
    def faults(self) -> tuple[str, ...]:
        """What could not be registered."""
        gone = not self._thread.is_alive() and not self._closing and "window" not in self._faults
        return (
            *self._faults.values(),
            *(["messages of Windows: got no window any more, expected one"] if gone else []),
        )

    def listen(self, closely: bool = True) -> None:
        """Stir at input from now on: at once, or within 5 s."""
        if self.handle is not None:
            function("user32", "PostMessageW", c_int, *_MESSAGE)(self.handle, _WM_LISTEN, int(closely), 0)

    def close(self) -> None:
        """Take the window down and end its thread; may be called twice."""
        self._closing = True
        if self.handle is not None:
            function("user32", "PostMessageW", c_int, *_MESSAGE)(self.handle, _WM_CLOSE, 0, 0)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._open()
        except OSError as error:
            self._faults["window"] = f"messages of Windows: got {error}, expected a window to receive them"
            return
        finally:
            self._there.set()
        message = wintypes.MSG()
        get = function("user32", "GetMessageW", c_int, c_void_p, c_void_p, c_uint32, c_uint32)
        dispatch = function("user32", "DispatchMessageW", c_ssize_t, c_void_p)
        while get(byref(message), None, 0, 0) > 0:
            dispatch(byref(message))
        function("user32", "UnregisterClassW", c_int, c_wchar_p, c_void_p)(self._name, None)

    def _open(self) -> None:
        described = WindowClass(procedure=self._procedure, name=self._name)
        if not function("user32", "RegisterClassW", c_uint16, c_void_p)(byref(described)):
            raise failed("RegisterClass")
        create = function("user32", "CreateWindowExW", c_void_p, *_CREATE)
        style = _WS_EX_TOOLWINDOW | _WS_EX_NOACTIVATE
        self.handle = create(style, self._name, "deskgrid", _WS_POPUP, 0, 0, 0, 0, None, None, None, None)
        if not self.handle:
            raise failed("CreateWindowEx")
        self._register_settings()
        self._register_sessions()

    def _register_settings(self) -> None:
        register = function("user32", "RegisterPowerSettingNotification", c_void_p, c_void_p, c_void_p, c_uint32)
        for what, guid in SETTINGS.items():
            found = register(self.handle, byref(Guid((ctypes.c_ubyte * 16)(*guid.bytes_le))), 0)
            if found:
                self._settings.append(found)
            elif what is not What.LID:  # a desktop computer has none
                self._faults[what] = f"{what}: got {failed('RegisterPowerSettingNotification')}, expected to be told"

    def _register_sessions(self) -> None:
        self._sessions_at = None
        if function("wtsapi32", "WTSRegisterSessionNotification", c_int, c_void_p, c_uint32)(
            self.handle, _ALL_SESSIONS
        ):
            self._faults.pop(What.SESSION, None)
            return
        self._faults[What.SESSION] = f"sessions: got {failed('WTSRegisterSessionNotification')}, expected to be told"
        self._sessions_at = time.monotonic()

    def _receive(self, window: int | None, message: int, wparam: int, lparam: int) -> int:
        """The window's procedure. What it raises is lost to ctypes, so it raises nothing."""
        try:
            if self._handle(window, message, wparam, lparam):
                return 1
        except Exception:
            _log.exception("presence: a message of Windows could not be handled; taken for a sign of the owner")
            self._stirred(True)
        return int(function("user32", "DefWindowProcW", c_ssize_t, *_MESSAGE)(window, message, wparam, lparam))

    def _handle(self, window: int | None, message: int, wparam: int, lparam: int) -> bool:
        """Returns whether the message is answered (with yes)."""
        if message == _WM_INPUT:
            self._heard()
        elif message == _WM_TIMER:
            self._time(wparam)
        elif message == _WM_LISTEN:
            self._closely = bool(wparam)
            self._arm()
        elif message == _WM_CLOSE:
            if self._closing:
                self._take_down()
            return True  # anybody can ask for it: `taskkill` does
        elif message == _WM_DESTROY:
            function("user32", "PostQuitMessage", None, c_int)(0)
        elif (noticed := decode(message, wparam, lparam, _setting(message, wparam, lparam))) is not None:
            self._noticed(noticed)
            return message in (WM_POWERBROADCAST, WM_QUERYENDSESSION)
        return False

    def _heard(self) -> None:
        if self._raw:
            self._disarm()
            self._timer(_REST_TIMER, REST_MS)
            self._stirred(True)

    def _time(self, timer: int) -> None:
        if timer == _REST_TIMER:
            function("user32", "KillTimer", c_int, c_void_p, c_void_p)(self.handle, _REST_TIMER)
            self._arm()
        elif self._sessions_at is not None and time.monotonic() - self._sessions_at > _AGAIN_SECONDS:
            self._register_sessions()
        self._stirred(False)

    def _arm(self) -> None:
        """Listen to all that hands touch; look at last input as often as that is not enough."""
        if not self._closely:
            self._disarm()
            self._timer(_LOOK_TIMER, LAZY_MS)
            return
        self._raw = self._raw_input(_RIDEV_INPUTSINK, self.handle)
        self._timer(_LOOK_TIMER, SLOW_MS if self._raw else FAST_MS)

    def _disarm(self) -> None:
        if self._raw:
            self._raw = False
            self._raw_input(_RIDEV_REMOVE, None)

    def _raw_input(self, flags: int, window: int | None) -> bool:
        devices = (RawInputDevice * len(_HANDS))(*(RawInputDevice(*hand, flags, window) for hand in _HANDS))
        register = function("user32", "RegisterRawInputDevices", c_int, c_void_p, c_uint32, c_uint32)
        return bool(register(byref(devices), len(_HANDS), ctypes.sizeof(RawInputDevice)))

    def _timer(self, timer: int, milliseconds: int) -> None:
        set_timer = function("user32", "SetTimer", c_void_p, c_void_p, c_void_p, c_uint32, c_void_p)
        set_timer(self.handle, timer, milliseconds, None)

    def _take_down(self) -> None:
        self._disarm()
        for registered in self._settings:
            function("user32", "UnregisterPowerSettingNotification", c_int, c_void_p)(registered)
        function("wtsapi32", "WTSUnRegisterSessionNotification", c_int, c_void_p)(self.handle)
        window, self.handle = self.handle, None
        function("user32", "DestroyWindow", c_int, c_void_p)(window)


_MESSAGE = (c_void_p, c_uint32, wintypes.WPARAM, wintypes.LPARAM)
_CREATE = (c_uint32, c_wchar_p, c_wchar_p, c_uint32, *[c_int] * 4, *[c_void_p] * 4)


def _setting(message: int, wparam: int, lparam: int) -> bytes:
    """The bytes of a POWERBROADCAST_SETTING, where the message carries one."""
    if message != WM_POWERBROADCAST or wparam != PBT_POWERSETTINGCHANGE or not lparam:
        return b""
    with suppress(OSError):  # a pointer that leads nowhere: another program's joke
        head = ctypes.string_at(lparam, SETTING_HEAD_BYTES)
        length = int.from_bytes(head[16:20], "little")
        if length <= SETTING_MAX_BYTES:
            return ctypes.string_at(lparam, SETTING_HEAD_BYTES + length)
    return b""
