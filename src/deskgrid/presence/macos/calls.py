"""The calls to macOS that presence needs, as thin as can be; nothing here decides. Never run on a Mac.

Rules:
- Frameworks are loaded on first use by their full paths, so the module can be imported anywhere.
- What is copied or created is released here. A call that fails raises OSError with its name, or answers None where
  macOS does so for "there is none".

Sources: developer.apple.com, the header is named at each call; Core Foundation's "Create Rule".
"""

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_bool, c_char_p, c_double, c_int, c_long, c_size_t, c_uint32, c_void_p
from functools import cache
from typing import Any

from deskgrid.presence.macos.values import UTMPX_BYTES, Login, PowerSource, login_of

_FRAMEWORK = "/System/Library/Frameworks/{0}.framework/{0}"
_UTF8, _SINT64, _LONGEST = 0x08000100, 4, 1024
_ANY_INPUT, _COMBINED_SESSION = 0xFFFFFFFF, 0
_POINTERS = (c_void_p,)


@cache
def library(name: str) -> Any:
    """Load a framework, or ("System") the C library."""
    path = "/usr/lib/libSystem.B.dylib" if name == "System" else _FRAMEWORK.format(name)
    return ctypes.CDLL(path)


@cache
def function(framework: str, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function with its types set. Raises: OSError when this macOS lacks it."""
    try:
        found = library(framework)[name]
    except AttributeError:
        raise OSError(f"{name}: not in this macOS' {framework}") from None
    found.restype, found.argtypes = result, arguments
    return found


def _foundation(name: str, result: Any, *arguments: Any) -> Any:
    return function("CoreFoundation", name, result, *arguments)


@contextmanager
def _held(thing: int | None) -> Iterator[int | None]:
    """Release what was created or copied."""
    try:
        yield thing
    finally:
        if thing:
            _foundation("CFRelease", None, c_void_p)(thing)


@contextmanager
def _string(text: str) -> Iterator[int | None]:
    create = _foundation("CFStringCreateWithCString", c_void_p, c_void_p, c_char_p, c_uint32)
    with _held(create(None, text.encode(), _UTF8)) as made:
        yield made


def _is(thing: int, kind: str) -> bool:
    type_id = _foundation("CFGetTypeID", c_size_t, c_void_p)(thing)
    return bool(type_id == _foundation(f"{kind}GetTypeID", c_size_t)())


def _plain(thing: int | None) -> int | bytes | str | bool | None:
    """CFNumber, CFBoolean, CFData or CFString as Python has it; None for anything else."""
    if not thing:
        return None
    if _is(thing, "CFBoolean"):
        return bool(_foundation("CFBooleanGetValue", c_bool, c_void_p)(thing))
    if _is(thing, "CFNumber"):
        number = ctypes.c_int64()
        done = _foundation("CFNumberGetValue", c_bool, c_void_p, c_long, c_void_p)(thing, _SINT64, byref(number))
        return number.value if done else None
    if _is(thing, "CFData"):
        size = _foundation("CFDataGetLength", c_long, c_void_p)(thing)
        return ctypes.string_at(_foundation("CFDataGetBytePtr", c_void_p, c_void_p)(thing), size)
    if _is(thing, "CFString"):
        text = ctypes.create_string_buffer(_LONGEST)
        get = _foundation("CFStringGetCString", c_bool, c_void_p, c_void_p, c_long, c_uint32)
        return text.value.decode(errors="replace") if get(thing, text, _LONGEST, _UTF8) else None
    return None


def _value(dictionary: int, key: str) -> int | bytes | str | bool | None:
    with _string(key) as name:
        return _plain(_foundation("CFDictionaryGetValue", c_void_p, c_void_p, c_void_p)(dictionary, name))


def registry(service: str, key: str) -> int | bytes | str | bool | None:
    """IOServiceMatching, IOServiceGetMatchingService, IORegistryEntryCreateCFProperty (IOKitLib.h)."""
    matching = function("IOKit", "IOServiceMatching", c_void_p, c_char_p)(service.encode())
    entry = function("IOKit", "IOServiceGetMatchingService", c_uint32, c_uint32, c_void_p)(0, matching)
    if not entry:
        raise OSError(f"IOServiceGetMatchingService: got no {service}")
    try:
        with _string(key) as name:
            create = function(
                "IOKit", "IORegistryEntryCreateCFProperty", c_void_p, c_uint32, c_void_p, c_void_p, c_uint32
            )
            with _held(create(entry, name, None, 0)) as found:
                return _plain(found)
    finally:
        function("IOKit", "IOObjectRelease", c_int, c_uint32)(entry)


def quartz_seconds() -> float:
    """CGEventSourceSecondsSinceLastEventType (CGEventSource.h): any input, in our own session, remote control too."""
    call = function("CoreGraphics", "CGEventSourceSecondsSinceLastEventType", c_double, c_int, c_uint32)
    return float(call(_COMBINED_SESSION, _ANY_INPUT))


def session_locked() -> bool | None:
    """CGSessionCopyCurrentDictionary (CGSession.h): None outside a graphical session.

    The key of the lock isn't documented; it is missing while the screen isn't locked.
    """
    with _held(function("CoreGraphics", "CGSessionCopyCurrentDictionary", c_void_p)()) as session:
        return None if not session else _value(session, "CGSSessionScreenIsLocked") in (True, 1)


def logins() -> tuple[Login, ...]:
    """setutxent, getutxent, endutxent (utmpx.h). They keep one place in the process: call from one thread at a time."""
    function("System", "setutxent", None)()
    found = []
    try:
        while entry := function("System", "getutxent", c_void_p)():
            if (login := login_of(ctypes.string_at(entry, UTMPX_BYTES))) is not None:
                found.append(login)
    finally:
        function("System", "endutxent", None)()
    return tuple(found)


def assertions() -> dict[str, int]:
    """IOPMCopyAssertionsStatus (IOPMLib.h): the level of each type of assertion that keeps something awake."""
    status = c_void_p()
    code = int(function("IOKit", "IOPMCopyAssertionsStatus", c_int, c_void_p)(byref(status)))
    if code != 0:
        raise OSError(f"IOPMCopyAssertionsStatus: got 0x{code & 0xFFFFFFFF:08x}")
    found = {}
    with _held(status.value) as dictionary:
        for name in ("PreventUserIdleDisplaySleep", "NoDisplaySleepAssertion"):
            level = _value(dictionary, name) if dictionary else None
            found[name] = int(level) if isinstance(level, int) else 0
    return found


def power() -> tuple[str | None, tuple[PowerSource, ...]]:
    """IOPSCopyPowerSourcesInfo, IOPSGetProvidingPowerSourceType, IOPSCopyPowerSourcesList,
    IOPSGetPowerSourceDescription (IOPowerSources.h, IOPSKeys.h)."""
    with _held(function("IOKit", "IOPSCopyPowerSourcesInfo", c_void_p)()) as blob:
        if not blob:
            raise OSError("IOPSCopyPowerSourcesInfo: got nothing")
        providing = _plain(function("IOKit", "IOPSGetProvidingPowerSourceType", c_void_p, c_void_p)(blob))
        with _held(function("IOKit", "IOPSCopyPowerSourcesList", c_void_p, c_void_p)(blob)) as rows:
            sources = tuple(_sources(blob, rows)) if rows else ()
    return (providing if isinstance(providing, str) else None), sources


def _sources(blob: int, rows: int) -> Iterator[PowerSource]:
    describe = function("IOKit", "IOPSGetPowerSourceDescription", c_void_p, c_void_p, c_void_p)
    at = _foundation("CFArrayGetValueAtIndex", c_void_p, c_void_p, c_long)
    for index in range(_foundation("CFArrayGetCount", c_long, c_void_p)(rows)):
        if not (described := describe(blob, at(rows, index))):
            continue
        current, full = _value(described, "Current Capacity"), _value(described, "Max Capacity")
        if isinstance(current, int) and isinstance(full, int):
            yield PowerSource(current, full)


def pressure_level() -> int | None:
    """sysctlbyname("kern.memorystatus_vm_pressure_level") (sysctl.h)."""
    level, size = c_int(), c_size_t(ctypes.sizeof(c_int))
    call = function("System", "sysctlbyname", c_int, c_char_p, c_void_p, POINTER(c_size_t), c_void_p, c_size_t)
    return (
        level.value if call(b"kern.memorystatus_vm_pressure_level", byref(level), byref(size), None, 0) == 0 else None
    )
