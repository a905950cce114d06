"""What deskgrid says to HTCondor and hears from it, as values."""

from datetime import datetime

import msgspec

from deskgrid.model.lease import Size
from deskgrid.model.names import Name


class OfflineAd(msgspec.Struct, frozen=True, order=True):
    """One machine that the fleet could start now: one per image and VM size (`Offline = true` in the collector)."""

    image: Name
    size: Size
    disk_bytes: int


class Match(msgspec.Struct, frozen=True):
    """The negotiator matched `count` idle jobs of one autocluster with an offline ad (`OfflineMatches`)."""

    image: Name
    size: Size
    schedd: str
    autocluster: int
    count: int
    matched_at: datetime


class JobGroup(msgspec.Struct, frozen=True):
    """Idle jobs of one schedd that are the same to the negotiator (one autocluster), those that name an image.

    vm_name is the name as the job gave it, not validated: any text.
    """

    schedd: str
    autocluster: int
    vm_name: str
    cpus: int
    memory_mb: int
    idle: int

    @property
    def key(self) -> str:
        """What tells it from other groups: "schedd autocluster"."""
        return f"{self.schedd} {self.autocluster}"


class Machine(msgspec.Struct, frozen=True):
    """A VM of ours that the collector knows: one per VM, its slots folded together."""

    vm_id: str
    machine: str
    image: str
    desktop: str
    claimed: bool
    jobs: tuple[str, ...] = ()
    joined_at: datetime | None = None


class PoolSnapshot(msgspec.Struct, frozen=True):
    """What HTCondor said in one cycle. Each part is None when it could not be read: unknown is not empty."""

    at: datetime
    matches: tuple[Match, ...] | None
    idle: tuple[JobGroup, ...] | None
    machines: tuple[Machine, ...] | None
    faults: tuple[str, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """One job as its schedd describes it.

    status is HTCondor's JobStatus number (1 idle, 2 running, 4 completed, 5 held).
    """

    id: str
    owner: str
    status: int
    vm_name: str | None
    cpus: int
    memory_mb: int
    requirements: str
    autocluster: int | None = None
    schedd: str = ""
    hold_reason: str | None = None
    remote_host: str | None = None
    last_match_at: datetime | None = None
    starts: int = 0
