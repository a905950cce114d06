"""What a desktop allows, one row per setting, and what is known of the machine when it is asked.

Rules:
- A policy is put together from layers: built-in, grid, group, desktop, owner (`core/policy/layers.py`). The grid may
  set anything; each layer after it may only tighten. What is tighter is said here, setting by setting, by `Tighter`.
- Units are in the names.
"""

from collections.abc import Iterator
from datetime import date
from enum import StrEnum
from typing import Annotated, get_args, get_type_hints

import msgspec

from deskgrid.model.hours import Hours, window
from deskgrid.model.values.moment import FIRST, LAST
from deskgrid.model.values.numbers import Bytes, Cpus, Span

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


class Meaning(msgspec.Struct, frozen=True):
    """What stands beside a setting's type: what is tighter, the chapter of the manual, and what it means."""

    tighter: Tighter
    chapter: str
    help: str


class SettingRow(msgspec.Struct, frozen=True):
    """One setting: its key, and what stands beside it in `Policy`."""

    name: str
    tighter: Tighter
    chapter: str
    help: str


LESS, MORE, NO, YES, ADDED, FIXED = Tighter


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When and how much, one field a setting. The defaults are the built-in layer.

    They are those of the original grid at Syracuse (with somebody logged in never from 7:00 to 17:00, and only when
    idle), and reserves for the system.
    """

    zone: Annotated[str, Meaning(FIXED, "hours", "IANA name of the calendar's time zone; empty: the desktop's own")] = (
        ""
    )
    closed: Annotated[
        tuple[Hours, ...],
        Meaning(
            ADDED, "hours", 'hours in which nothing runs while somebody is logged in, such as "Mon-Fri 07:00-17:00"'
        ),
    ] = ("07:00-17:00",)
    closed_nobody: Annotated[
        tuple[Hours, ...], Meaning(ADDED, "hours", "hours in which nothing runs even with nobody logged in")
    ] = ()
    days_off: Annotated[
        tuple[date, ...], Meaning(FIXED, "hours", "days on which `closed` does not hold: nobody works")
    ] = ()
    days_closed: Annotated[
        tuple[date, ...], Meaning(ADDED, "hours", "days on which nothing runs at all, such as those of examinations")
    ] = ()
    idle_seconds: Annotated[
        Seconds,
        Meaning(MORE, "presence", "time without a sign of an owner before a VM starts, with somebody logged in"),
    ] = 600.0
    idle_seconds_nobody: Annotated[Seconds, Meaning(MORE, "presence", "the same with nobody logged in")] = 300.0
    resume_seconds: Annotated[
        Seconds, Meaning(MORE, "presence", "time without a sign of an owner before a paused VM goes on")
    ] = 15.0
    locked_is_away: Annotated[bool, Meaning(NO, "presence", "a locked session counts as nobody logged in")] = False
    remote_sessions: Annotated[
        bool, Meaning(NO, "presence", "VMs may run while somebody is logged in from elsewhere")
    ] = True
    watching_is_use: Annotated[
        bool, Meaning(YES, "presence", "a program that keeps the screen awake (a film, a talk) counts as use")
    ] = True
    full_screen: Annotated[bool, Meaning(NO, "presence", "VMs may run while a program fills the screen")] = False
    quiet_programs: Annotated[
        tuple[Program, ...],
        Meaning(ADDED, "presence", "names of programs that must not be disturbed: while one runs, no VM does"),
    ] = ()
    lid_closed: Annotated[bool, Meaning(NO, "power", "VMs may run while a laptop's lid is closed")] = False
    on_battery: Annotated[bool, Meaning(NO, "power", "VMs may run on battery")] = False
    battery_min_percent: Annotated[
        Percent, Meaning(MORE, "power", "least charge of a battery, when there is one, whether it is in use or not")
    ] = 30.0
    metered: Annotated[bool, Meaning(NO, "network", "VMs may run while the network is metered")] = False
    wireless: Annotated[bool, Meaning(NO, "network", "VMs may run while the network is wireless")] = True
    download_bytes_per_second: Annotated[
        int,
        msgspec.Meta(ge=10_000, le=1 << 40),
        Meaning(
            LESS,
            "network",
            "what the image of each VM may take of the network, and the same for all that neighbours are given",
        ),
    ] = 12_500_000
    neighbours: Annotated[
        bool,
        Meaning(
            NO,
            "network",
            "while VMs may run, it gives parts of images to desktops of its subnet, and asks them; then it listens",
        ),
    ] = False
    others_cpu_max: Annotated[
        Share, Meaning(LESS, "load", "share of all processors that other programs may use; above it, VMs make way")
    ] = 0.5
    others_cpu_seconds: Annotated[Seconds, Meaning(LESS, "load", "… for this time")] = 60.0
    memory_reserve_bytes: Annotated[Bytes, Meaning(MORE, "memory", "left to the system when a VM starts, always")] = (
        2 * GIB
    )
    memory_reserve_share: Annotated[
        Share, Meaning(MORE, "memory", "the same as a share of all memory; the larger of both holds")
    ] = 0.0
    memory_short_bytes: Annotated[
        Bytes, Meaning(MORE, "memory", "with less available than this, VMs end at once, newest first")
    ] = 1 * GIB
    memory_pressure_max: Annotated[
        Percent,
        Meaning(LESS, "memory", "percent of time that programs may wait for memory before VMs end, newest first"),
    ] = 10.0
    disk_floor_bytes: Annotated[Bytes, Meaning(MORE, "disk", "free disk that stays free")] = 5 * GIB
    vm_disk_bytes: Annotated[
        int, msgspec.Meta(ge=1 << 20, le=1 << 60), Meaning(LESS, "disk", "what one VM may write at most")
    ] = 20 * GIB
    images_bytes: Annotated[
        Bytes, Meaning(LESS, "disk", "what images may take on this disk at most; then the least recently used go")
    ] = 200 * GIB
    max_vms: Annotated[int, msgspec.Meta(ge=0, le=64), Meaning(LESS, "limits", "VMs at a time")] = 4
    cpu_share: Annotated[
        Share,
        Meaning(
            LESS,
            "limits",
            "share of the processors for all VMs together: whole ones, rounded down, but one at least unless it is 0",
        ),
    ] = 0.75
    max_vms_in_use: Annotated[
        int,
        msgspec.Meta(ge=0, le=64),
        Meaning(LESS, "limits", "VMs that may run on while somebody uses the computer; 0: none"),
    ] = 0
    cpu_share_in_use: Annotated[
        Share, Meaning(LESS, "limits", "share of the processors for those, counted in the same way")
    ] = 0.25
    boot_delay_seconds: Annotated[
        Seconds, Meaning(MORE, "starts", "time after the start of the computer without a start")
    ] = 120.0
    start_spacing_seconds: Annotated[Seconds, Meaning(MORE, "starts", "least time between two starts here")] = 5.0
    start_offset_seconds: Annotated[
        Seconds, Meaning(MORE, "starts", "each desktop waits a time of its own, at most this, before the first start")
    ] = 60.0
    grace_seconds: Annotated[
        Grace, Meaning(LESS, "leaving", "how long a VM stays paused before it leaves, while memory is ample")
    ] = 300.0

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


def _rows() -> Iterator[SettingRow]:
    for name, hint in get_type_hints(Policy, include_extras=True).items():
        (beside,) = (one for one in get_args(hint)[1:] if isinstance(one, Meaning))
        yield SettingRow(name, beside.tighter, beside.chapter, beside.help)


ROWS: tuple[SettingRow, ...] = tuple(_rows())
"""The settings in the order of the manual and of `deskgrid policy show`."""


class Machine(msgspec.Struct, frozen=True):
    """The desktop's resources at one moment. None: unknown; where the policy asks for it, unknown counts against VMs.

    memory_available_bytes: what could be had without paging.
    memory_pressure: percent of the last 10 s in which some process of others waited for memory.
    others_cpu: share of all processors (0 to 1) that others than the grid have used since the last reading.
    on_battery, battery_percent: None and None without a battery; None and a number: not known whether it is in use.
    programs: those of the policy's `quiet_programs` that run. up_seconds: since the computer has started.
    """

    cpus: Cpus
    memory_bytes: Bytes
    memory_available_bytes: Bytes
    disk_free_bytes: Bytes
    memory_pressure: Percent | None = None
    others_cpu: Share | None = None
    on_battery: bool | None = False
    battery_percent: Percent | None = None
    metered: bool | None = False
    wireless: bool | None = False
    programs: tuple[str, ...] = ()
    up_seconds: Span | None = None
