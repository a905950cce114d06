"""The owner's hands, and Windows' own: input by SendInput, messages by SendMessage to the driver's window."""

import ctypes
import struct
from ctypes import c_int, c_ssize_t, c_uint32, c_void_p, wintypes

from deskgrid.presence.windows.calls import function
from deskgrid.presence.windows.events import (
    PBT_POWERSETTINGCHANGE,
    WM_POWERBROADCAST,
    WM_WTSSESSION_CHANGE,
    What,
    encode_setting,
)
from deskgrid.presence.windows.presence import WindowsPresence

_MOUSE, _KEYBOARD, _MOVE, _KEY_UP = 0, 1, 1, 2
_INPUT_BYTES = 40  # sizeof(INPUT), 64 bits


def move_mouse() -> None:
    """A bumped mouse."""
    _send(struct.pack("<I4xiiIII4xQ", _MOUSE, 1, 0, 0, _MOVE, 0, 0))


def press_key() -> None:
    """One key, down and up."""
    for flags in (0, _KEY_UP):
        _send(struct.pack("<I4xHHIIQ8x", _KEYBOARD, 0x41, 0, flags, 0, 0))


def _send(content: bytes) -> None:
    assert len(content.ljust(_INPUT_BYTES, b"\0")) == _INPUT_BYTES
    buffer = ctypes.create_string_buffer(content.ljust(_INPUT_BYTES, b"\0"), _INPUT_BYTES)
    sent = function("user32", "SendInput", c_uint32, c_uint32, c_void_p, c_int)(1, buffer, _INPUT_BYTES)
    assert sent == 1


def send(driver: WindowsPresence, message: int, wparam: int = 0, lparam: int = 0) -> int:
    """Send the driver's window a message, as Windows does; returns its answer."""
    call = function("user32", "SendMessageW", c_ssize_t, c_void_p, c_uint32, wintypes.WPARAM, wintypes.LPARAM)
    return int(call(driver.window, message, wparam, lparam))


def setting(driver: WindowsPresence, what: What, value: int) -> int:
    """A power setting has this value now."""
    buffer = ctypes.create_string_buffer(encode_setting(what, value))
    return send(driver, WM_POWERBROADCAST, PBT_POWERSETTINGCHANGE, ctypes.addressof(buffer))


def session(driver: WindowsPresence, event: int, number: int = 1) -> int:
    """Something happens to a session."""
    return send(driver, WM_WTSSESSION_CHANGE, event, number)
