"""On Windows, everything of a VM in a job object that ends with the process that made it, and out of the owner's way.

    job = JobObject()                                         # in the VM's keeper, before it starts anything
    job.join()
    qemu = subprocess.Popen(argv, creationflags=QUIET)  # in the idle class from its first instant, without a window
    reins = JobObject(idle=True)                              # inside the first one: only for QEMU
    reins.take(qemu.pid)
    faults = reins.limit(share=0.5, memory_bytes=4 << 30) + stand_back(qemu.pid)

Rules:
- The process that keeps a VM joins the job before it starts anything: so no child and no grandchild can be outside,
  not even for an instant. When it ends, however that ends, the last handle is closed and Windows ends the rest.
- The keeper itself stays in the normal class and outside the inner job: it must be quick when the owner comes.
- An idle job holds all in it in the idle priority class; nobody in it can raise it again.
- EcoQoS asks for the efficient cores and clocks. It, the share of the processors and the limit of memory may be missing
  (before Windows 10 1709, on a server, in Wine): then the call's failure is returned as a fault, and all goes on.
- I/O priority: the background mode can be set only by a process for itself, and QEMU doesn't; the idle class has to do.

Sources: CreateJobObjectW (jobapi2.h), JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JOBOBJECT_CPU_RATE_CONTROL_INFORMATION,
JOBOBJECT_BASIC_ACCOUNTING_INFORMATION (winnt.h), SetProcessInformation, PROCESS_POWER_THROTTLING_STATE
(processthreadsapi.h).
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p, c_wchar_p
from functools import cache
from typing import Any

import msgspec

_BASIC_ACCOUNTING, _EXTENDED_LIMIT, _CPU_RATE = 1, 9, 15
_PRIORITY_CLASS, _JOB_MEMORY, _KILL_ON_CLOSE = 0x20, 0x200, 0x2000
_IDLE_PRIORITY_CLASS = 0x40
_RATE_ENABLE, _RATE_HARD_CAP = 0x1, 0x4
_POWER_THROTTLING, _EXECUTION_SPEED = 4, 0x1
_JOB_QUERY = 0x4
_MAY_TERMINATE, _MAY_SET_QUOTA, _MAY_SET = 0x1, 0x100, 0x200
QUIET = _IDLE_PRIORITY_CLASS | 0x08000000
"""Creation flags: the idle priority class, and no console window (CREATE_NO_WINDOW)."""


class JobUsage(msgspec.Struct, frozen=True):
    """What all processes of a job have used so far, those that have ended included. active: those that still run."""

    cpu_seconds: float
    active: int


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION, its inner structures laid out flat."""

    _fields_ = (
        ("process_time", c_int64),
        ("job_time", c_int64),
        ("flags", c_uint32),
        ("working_set_min", c_size_t),
        ("working_set_max", c_size_t),
        ("active_processes", c_uint32),
        ("affinity", c_size_t),
        ("priority_class", c_uint32),
        ("scheduling_class", c_uint32),
        ("io", c_uint64 * 6),
        ("process_memory", c_size_t),
        ("job_memory", c_size_t),
        ("process_memory_peak", c_size_t),
        ("job_memory_peak", c_size_t),
    )


class _Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION."""

    _fields_ = (
        ("user", c_int64),
        ("kernel", c_int64),
        ("user_period", c_int64),
        ("kernel_period", c_int64),
        ("page_faults", c_uint32),
        ("total", c_uint32),
        ("active", c_uint32),
        ("terminated", c_uint32),
    )


class _Throttling(ctypes.Structure):
    """PROCESS_POWER_THROTTLING_STATE."""

    _fields_ = (("version", c_uint32), ("control", c_uint32), ("state", c_uint32))


class JobFailed(Exception):
    """A job object could not be had, so nothing may be started in it."""


class JobObject:
    """A job object that ends all its processes when its last handle is closed.

    Args:
        name: under which others of the same session find it; "" for none.
        idle: hold all its processes in the idle priority class.
    Raises: JobFailed: when Windows doesn't give one with these two limits.
    """

    def __init__(self, name: str = "", idle: bool = False) -> None:
        self._idle, self._memory_bytes = idle, 0
        self.handle = _call("CreateJobObjectW", c_void_p, c_void_p, c_wchar_p)(None, name or None)
        if not self.handle:
            raise JobFailed(_said("CreateJobObject"))
        if fault := self._set_limits():
            self.close()
            raise JobFailed(fault)

    def join(self) -> None:
        """Put this process into the job. It can't leave, nor can what it starts from now on. Raises: JobFailed."""
        self._assign(_call("GetCurrentProcess", c_void_p)())

    def take(self, pid: int) -> None:
        """Put another process into the job; what it has started before stays outside. Raises: JobFailed."""
        with _opened(pid, _MAY_TERMINATE | _MAY_SET_QUOTA) as handle:
            if handle is None:
                raise JobFailed(_said(f"OpenProcess of {pid}"))
            self._assign(handle)

    def limit(self, share: float | None = None, memory_bytes: int = 0) -> tuple[str, ...]:
        """Set how much all processes of the job may use together. Returns: what Windows refused, as faults.

        Args:
            share: of all processors, above 0 and at most 1; None: no limit. memory_bytes: 0: no limit.
        """
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"share of the processors: got {share}, expected more than 0 and at most 1")
        self._memory_bytes = memory_bytes
        faults = [self._set_limits()] if memory_bytes else []
        if share is not None:
            rate = (c_uint32 * 2)(_RATE_ENABLE | _RATE_HARD_CAP, max(1, round(share * 10_000)))
            faults.append(self._set(_CPU_RATE, rate, "its share of the processors"))
        return tuple(fault for fault in faults if fault)

    def used(self) -> JobUsage | None:
        """What its processes have used so far; None: Windows does not say."""
        return _used(self.handle)

    def end(self) -> None:
        """End all its processes now, this one too if it is among them."""
        _call("TerminateJobObject", c_int, c_void_p, c_uint32)(self.handle, 1)

    def close(self) -> None:
        """Close the handle: if it is the last one, all processes of the job end."""
        handle, self.handle = self.handle, None
        if handle:
            _call("CloseHandle", c_int, c_void_p)(handle)

    def _assign(self, process: int) -> None:
        if not _call("AssignProcessToJobObject", c_int, c_void_p, c_void_p)(self.handle, process):
            raise JobFailed(_said("AssignProcessToJobObject"))

    def _set_limits(self) -> str:
        limits = _Limits(flags=_KILL_ON_CLOSE)
        if self._idle:
            limits.flags |= _PRIORITY_CLASS
            limits.priority_class = _IDLE_PRIORITY_CLASS
        if self._memory_bytes:
            limits.flags |= _JOB_MEMORY
            limits.job_memory = self._memory_bytes
        return self._set(_EXTENDED_LIMIT, limits, "its limits")

    def _set(self, kind: int, value: Any, what: str) -> str:
        call = _call("SetInformationJobObject", c_int, c_void_p, c_int, c_void_p, c_uint32)
        if call(self.handle, kind, byref(value), ctypes.sizeof(value)):
            return ""
        return _said(f"SetInformationJobObject for {what}")


def used_by(name: str) -> JobUsage | None:
    """What a named job of this session has used so far; None: there is none, or Windows does not say."""
    handle = _call("OpenJobObjectW", c_void_p, c_uint32, c_int, c_wchar_p)(_JOB_QUERY, 0, name)
    if not handle:
        return None
    try:
        return _used(handle)
    finally:
        _call("CloseHandle", c_int, c_void_p)(handle)


def _used(handle: int | None) -> JobUsage | None:
    found = _Accounting()
    call = _call("QueryInformationJobObject", c_int, c_void_p, c_int, c_void_p, c_uint32, c_void_p)
    if not call(handle, _BASIC_ACCOUNTING, byref(found), ctypes.sizeof(found), None):
        return None
    return JobUsage((found.user + found.kernel) / 1e7, found.active)


def stand_back(pid: int) -> tuple[str, ...]:
    """Put a process into the idle priority class and ask for EcoQoS. Returns: what Windows refused, as faults.

    What it starts afterwards inherits the class; EcoQoS is not promised to be inherited.
    """
    state = _Throttling(1, _EXECUTION_SPEED, _EXECUTION_SPEED)
    with _opened(pid, _MAY_SET) as handle:
        if handle is None:
            return (_said(f"OpenProcess of {pid}"),)
        faults = []
        if not _call("SetPriorityClass", c_int, c_void_p, c_uint32)(handle, _IDLE_PRIORITY_CLASS):
            faults.append(_said("SetPriorityClass"))
        try:
            call = _call("SetProcessInformation", c_int, c_void_p, c_int, c_void_p, c_uint32)
            if not call(handle, _POWER_THROTTLING, byref(state), ctypes.sizeof(state)):
                faults.append(_said("SetProcessInformation for EcoQoS"))
        except OSError as error:
            faults.append(f"EcoQoS: got {error}, expected Windows 10 1709 or later")
        return tuple(faults)


@contextmanager
def _opened(pid: int, rights: int) -> Iterator[int | None]:
    handle = _call("OpenProcess", c_void_p, c_uint32, c_int, c_uint32)(rights, 0, pid)
    try:
        yield handle or None
    finally:
        if handle:
            _call("CloseHandle", c_int, c_void_p)(handle)


def _said(call: str) -> str:
    code = int(getattr(ctypes, "get_last_error")())  # noqa: B009 -- Windows only, so unknown to checkers elsewhere
    return f"{call}: got error {code} ({getattr(ctypes, 'FormatError')(code).strip()}), expected success"  # noqa: B009


def _call(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return _cached(name, result, arguments)


@cache
def _cached(name: str, result: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    library = ctypes.CDLL("kernel32.dll", use_last_error=True)
    try:
        found = library[name]
    except AttributeError:
        raise OSError(f"{name}: not in this Windows") from None
    found.restype, found.argtypes = result, arguments
    return found
