"""What a desktop allows, and what is known of the machine when it is asked."""

from datetime import time
from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=7 * 86400)]
Bytes = Annotated[int, msgspec.Meta(ge=0)]
WallClock = Annotated[time, msgspec.Meta(tz=False)]
"""A time of day on the owner's clock: without a zone, since the zone is the desktop's."""
GIB = 1 << 30


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When and how much. The defaults are those of the original grid at Syracuse, and a reserve for the system.

    closed_from, closed_until: hours (local wall clock) in which nothing runs while somebody is logged in;
        equal values mean never closed. The window may span midnight.
    idle_seconds: no sign of an owner for so long before a VM may start, with somebody logged in.
    idle_seconds_nobody: the same when nobody is logged in.
    resume_seconds: no sign of an owner for so long before a paused VM goes on.
    grace_seconds: how long a VM stays paused before it leaves, while memory is ample.
    memory_reserve_bytes: left to the operating system, always.
    memory_short_bytes: with less available than this, VMs end at once, newest first.
    disk_floor_bytes: free disk that stays free. vm_disk_bytes: what one VM may write at most.
    max_vms, max_cpus: for all VMs together (0 CPUs: all but one).
    """

    closed_from: WallClock = time(7, 0)
    closed_until: WallClock = time(17, 0)
    idle_seconds: Seconds = 600.0
    idle_seconds_nobody: Seconds = 60.0
    resume_seconds: Seconds = 15.0
    grace_seconds: Seconds = 60.0
    memory_reserve_bytes: Bytes = 2 * GIB
    memory_short_bytes: Bytes = 1 * GIB
    disk_floor_bytes: Bytes = 5 * GIB
    vm_disk_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] = 20 * GIB
    max_vms: Annotated[int, msgspec.Meta(ge=0, le=64)] = 4
    max_cpus: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0


class Machine(msgspec.Struct, frozen=True):
    """The desktop's resources at one moment. memory_available_bytes: what could be had without paging."""

    cpus: int
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
