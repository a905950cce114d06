"""Is the network of a Windows desktop metered, and is it wireless?

Rules:
- Metered is asked of the Network List Manager, by COM through its function table: one interface, one method.
- Wireless is asked of the routing table: the interface by which the whole internet would be reached, and its type. No
  packet is sent. A virtual private network is an interface of its own and hides the radio beneath it.
- None: unknown; OSError is kept inside, since a computer without a network is no fault.

Sources: INetworkCostManager::GetCost (netlistmgr.h), CoCreateInstance (combaseapi.h), GetBestInterface (iphlpapi.h),
ConvertInterfaceIndexToLuid (netioapi.h).
"""

import ctypes
import threading
from ctypes import POINTER, byref, c_int, c_long, c_uint32, c_uint64, c_void_p
from uuid import UUID

from deskgrid.presence.windows.calls import function
from deskgrid.presence.windows.values import metered_of, wireless_of

_LIST_MANAGER = UUID("dcb00c01-570f-4a9b-8d69-199fdba5723b")
_COST_MANAGER = UUID("dcb00008-570f-4a9b-8d69-199fdba5723b")
_ALL_CONTEXTS, _MULTITHREADED = 0x17, 0
_RELEASE, _GET_COST = 2, 3  # places in INetworkCostManager's function table
_EVERYWHERE = 0x08080808
"""Any public IPv4 address, only to look up its route."""


def metered() -> bool | None:
    """Whether traffic costs, by the machine's preferred connection; None: unknown."""
    found: list[bool | None] = [None]

    def ask() -> None:
        try:
            found[0] = _ask()
        except OSError:
            found[0] = None

    # COM belongs to a thread: a short one of our own leaves no trace in the caller's.
    thread = threading.Thread(target=ask, name="network-cost", daemon=True)
    thread.start()
    thread.join(2.0)
    return found[0]


def _ask() -> bool | None:
    initialize = function("ole32", "CoInitializeEx", c_long, c_void_p, c_uint32)
    if initialize(None, _MULTITHREADED) < 0:
        return None
    try:
        manager = c_void_p()
        create = function("ole32", "CoCreateInstance", c_long, c_void_p, c_void_p, c_uint32, c_void_p, c_void_p)
        if create(_guid(_LIST_MANAGER), None, _ALL_CONTEXTS, _guid(_COST_MANAGER), byref(manager)) < 0:
            return None
        table = ctypes.cast(manager, POINTER(POINTER(c_void_p))).contents
        try:
            cost = c_uint32()
            get = ctypes.CFUNCTYPE(c_long, c_void_p, c_void_p, c_void_p)(table[_GET_COST])
            return metered_of(cost.value) if get(manager, byref(cost), None) >= 0 else None
        finally:
            ctypes.CFUNCTYPE(c_uint32, c_void_p)(table[_RELEASE])(manager)
    finally:
        function("ole32", "CoUninitialize", None)()


def _guid(guid: UUID) -> "ctypes.Array[ctypes.c_char]":
    return ctypes.create_string_buffer(guid.bytes_le, 16)


def wireless() -> bool | None:
    """Whether the way to the internet begins at a radio; None: there is none, or unknown."""
    try:
        index, luid = c_uint32(), c_uint64()
        if function("iphlpapi", "GetBestInterface", c_int, c_uint32, c_void_p)(_EVERYWHERE, byref(index)) != 0:
            return None
        convert = function("iphlpapi", "ConvertInterfaceIndexToLuid", c_int, c_uint32, c_void_p)
        return wireless_of(luid.value) if convert(index.value, byref(luid)) == 0 else None
    except OSError:
        return None
