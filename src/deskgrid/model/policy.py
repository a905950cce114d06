"""What a desktop allows, one row per setting, and what is known of the machine when it is asked.

Rules, told first:
- A policy is put together from layers: built-in, grid, group, desktop, owner (`core/layers.py`). The grid may set
  anything; each layer after it may only tighten. What is tighter is said here, setting by setting, by `Tighter`.
- Units are in the names. `ROWS` is the order of the manual and of `deskgrid policy show`.
"""

from datetime import date
from enum import StrEnum
from typing import Annotated

import msgspec

from deskgrid.model.hours import Hours, window
from deskgrid.model.moment import FIRST, LAST
from deskgrid.model.numbers import Bytes

Seconds = Annotated[float, msgspec.Meta(ge=0, le=7 * 86400)]
GRACE_SECONDS_MOST = 780.0
"""A VM that is paused for longer could lose the job that the pause is to save: its lease ends (pool/config.py)."""

Grace = Annotated[float, msgspec.Meta(ge=0, le=GRACE_SECONDS_MOST)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]
Program = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
GIB = 1 << 30


class Tighter(StrEnum):
    """What makes a value of a setting tighter than another."""

    LESS = "less"  # a smaller number
    MORE = "more"  # a larger number
    NO = "no"  # false: it is a permission
    YES = "yes"  # true: it is a duty
    ADDED = "added"  # each layer's list is added to those before it
    FIXED = "fixed"  # only the grid may set it


class Row(msgspec.Struct, frozen=True):
    """One setting: its key, what is tighter, the chapter of the manual, and what it means."""

    name: str
    tighter: Tighter
    chapter: str
    help: str


_L, _M, _N, _Y, _A, _F = Tighter.LESS, Tighter.MORE, Tighter.NO, Tighter.YES, Tighter.ADDED, Tighter.FIXED

ROWS: tuple[Row, ...] = (
    Row("zone", _F, "hours", "IANA name of the calendar's time zone; empty: the desktop's own"),
    Row(
        "closed", _A, "hours", 'hours in which nothing runs while somebody is logged in, such as "Mon-Fri 07:00-17:00"'
    ),
    Row("closed_nobody", _A, "hours", "hours in which nothing runs even with nobody logged in"),
    Row("days_off", _F, "hours", "days on which `closed` does not hold: nobody works"),
    Row("days_closed", _A, "hours", "days on which nothing runs at all, such as those of examinations"),
    Row("idle_seconds", _M, "presence", "no sign of an owner for so long before a VM starts, with somebody logged in"),
    Row("idle_seconds_nobody", _M, "presence", "the same with nobody logged in"),
    Row("resume_seconds", _M, "presence", "no sign of an owner for so long before a paused VM goes on"),
    Row("locked_is_away", _N, "presence", "a locked session counts as nobody logged in"),
    Row("remote_sessions", _N, "presence", "VMs may run while somebody is logged in from elsewhere"),
    Row("watching_is_use", _Y, "presence", "a program that keeps the screen awake (a film, a talk) counts as use"),
    Row("full_screen", _N, "presence", "VMs may run while a program fills the screen"),
    Row("quiet_programs", _A, "presence", "names of programs that must not be disturbed: while one runs, no VM does"),
    Row("lid_closed", _N, "power", "VMs may run while a laptop's lid is closed"),
    Row("on_battery", _N, "power", "VMs may run on battery"),
    Row(
        "battery_min_percent", _M, "power", "least charge of a battery, when there is one, whether it is in use or not"
    ),
    Row("metered", _N, "network", "VMs may run while the network is metered"),
    Row("wireless", _N, "network", "VMs may run while the network is wireless"),
    Row(
        "download_bytes_per_second",
        _L,
        "network",
        "what the image of each VM may take of the network, and the same for all that neighbours are given",
    ),
    Row(
        "neighbours",
        _N,
        "network",
        "while VMs may run, it gives parts of images to desktops of its subnet, and asks them; then it listens",
    ),
    Row("others_cpu_max", _L, "load", "share of all processors that other programs may use; above it, VMs make way"),
    Row("others_cpu_seconds", _L, "load", "… for so long"),
    Row("memory_reserve_bytes", _M, "memory", "left to the system when a VM starts, always"),
    Row("memory_reserve_share", _M, "memory", "the same as a share of all memory; the larger of both holds"),
    Row("memory_short_bytes", _M, "memory", "with less available than this, VMs end at once, newest first"),
    Row(
        "memory_pressure_max",
        _L,
        "memory",
        "percent of time that programs may wait for memory before VMs end, newest first",
    ),
    Row("disk_floor_bytes", _M, "disk", "free disk that stays free"),
    Row("vm_disk_bytes", _L, "disk", "what one VM may write at most"),
    Row("images_bytes", _L, "disk", "what images may take on this disk at most; then the least recently used go"),
    Row("max_vms", _L, "limits", "VMs at a time"),
    Row(
        "cpu_share",
        _L,
        "limits",
        "share of the processors for all VMs together: whole ones, rounded down, but one at least unless it is 0",
    ),
    Row("max_vms_in_use", _L, "limits", "VMs that may run on while somebody uses the computer; 0: none"),
    Row("cpu_share_in_use", _L, "limits", "share of the processors for those, counted in the same way"),
    Row("boot_delay_seconds", _M, "starts", "no start for so long after the computer has started"),
    Row("start_spacing_seconds", _M, "starts", "least time between two starts here"),
    Row(
        "start_offset_seconds",
        _M,
        "starts",
        "each desktop waits a time of its own, up to so long, before the first start",
    ),
    Row("grace_seconds", _L, "leaving", "how long a VM stays paused before it leaves, while memory is ample"),
)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When and how much; `ROWS` says what each means. The defaults are the built-in layer.

    They are those of the original grid at Syracuse (with somebody logged in never from 7:00 to 17:00, and only when
    idle), and reserves for the system.
    """

    zone: str = ""
    closed: tuple[Hours, ...] = ("07:00-17:00",)
    closed_nobody: tuple[Hours, ...] = ()
    days_off: tuple[date, ...] = ()
    days_closed: tuple[date, ...] = ()
    idle_seconds: Seconds = 600.0
    idle_seconds_nobody: Seconds = 300.0
    resume_seconds: Seconds = 15.0
    locked_is_away: bool = False
    remote_sessions: bool = True
    watching_is_use: bool = True
    full_screen: bool = False
    quiet_programs: tuple[Program, ...] = ()
    lid_closed: bool = False
    on_battery: bool = False
    battery_min_percent: Percent = 30.0
    metered: bool = False
    wireless: bool = True
    download_bytes_per_second: Annotated[int, msgspec.Meta(ge=10_000, le=1 << 40)] = 12_500_000
    neighbours: bool = False
    others_cpu_max: Share = 0.5
    others_cpu_seconds: Seconds = 60.0
    memory_reserve_bytes: Bytes = 2 * GIB
    memory_reserve_share: Share = 0.0
    memory_short_bytes: Bytes = 1 * GIB
    memory_pressure_max: Percent = 10.0
    disk_floor_bytes: Bytes = 5 * GIB
    vm_disk_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 60)] = 20 * GIB
    images_bytes: Bytes = 200 * GIB
    max_vms: Annotated[int, msgspec.Meta(ge=0, le=64)] = 4
    cpu_share: Share = 0.75
    max_vms_in_use: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    cpu_share_in_use: Share = 0.25
    boot_delay_seconds: Seconds = 120.0
    start_spacing_seconds: Seconds = 5.0
    start_offset_seconds: Seconds = 60.0
    grace_seconds: Grace = 300.0

    def __post_init__(self) -> None:
        for key, days in (("days_off", self.days_off), ("days_closed", self.days_closed)):
            for number, day in enumerate(days):
                if not FIRST.year <= day.year <= LAST.year:
                    raise ValueError(f"{key}[{number}]: got {day}, expected a year from {FIRST.year} to {LAST.year}")
        for key, texts in (("closed", self.closed), ("closed_nobody", self.closed_nobody)):
            for number, text in enumerate(texts):
                try:
                    window(text)
                except ValueError as error:
                    raise ValueError(f"{key}[{number}]: {error}") from None


class Machine(msgspec.Struct, frozen=True):
    """The desktop's resources at one moment. None: unknown; where the policy asks for it, unknown counts against VMs.

    memory_available_bytes: what could be had without paging.
    memory_pressure: percent of the last 10 s in which some process of others waited for memory.
    others_cpu: share of all processors (0 to 1) that others than the grid have used since the last reading.
    on_battery, battery_percent: None and None without a battery; None and a number: not known whether it is in use.
    programs: those of the policy's `quiet_programs` that run. up_seconds: since the computer has started.
    """

    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    memory_pressure: float | None = None
    others_cpu: float | None = None
    on_battery: bool | None = False
    battery_percent: float | None = None
    metered: bool | None = False
    wireless: bool | None = False
    programs: tuple[str, ...] = ()
    up_seconds: float | None = None
