"""What deskgrid says to HTCondor and hears from it, as values."""

from datetime import datetime

import msgspec

from deskgrid.model.image import Attribute
from deskgrid.model.lease import Size
from deskgrid.model.values.names import Name

ON_SERVER = {7: "scheduler", 9: "grid", 12: "local"}
"""JobUniverse numbers of jobs that run on the submit server, not in a slot. DAGMan is in the scheduler universe."""

NOT_SERVED = {1: "standard", 4: "pvm", 6: "pvmd", 8: "mpi", 10: "java", 11: "parallel", 13: "vm"}
"""JobUniverse numbers of jobs that our machines don't run."""


class OfflineAd(msgspec.Struct, frozen=True, order=True):
    """One machine that the fleet could start now: one per image and VM size (`Offline = true` in the collector).

    disk_bytes: what a job finds free. says: what else the machine will say of itself, as its image's trial boot told.
    """

    image: Name
    size: Size
    disk_bytes: int
    says: tuple[Attribute, ...] = ()


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
        """What tells it from other groups."""
        return group_key(self.schedd, self.autocluster, self.vm_name)


def group_key(schedd: str, autocluster: int | None, vm_name: str | None) -> str:
    """What tells a group of jobs from others, also from one that forged its autocluster's number."""
    return f"{schedd} {autocluster} {vm_name}"


class MachineAd(msgspec.Struct, frozen=True):
    """A VM of ours that the collector knows: one per VM, its slots folded together."""

    vm_id: str
    machine: str
    image: str
    desktop: str
    claimed: bool
    jobs: tuple[str, ...] = ()
    joined_at: datetime | None = None


class Foreign(msgspec.Struct, frozen=True):
    """A schedd of another pool whose jobs are matched here (it flocks): it can't be asked, its submitters' ads tell.

    idle: how many of its jobs wait, whether or not they name an image.
    """

    schedd: str
    idle: int


class PoolSnapshot(msgspec.Struct, frozen=True):
    """What HTCondor said in one cycle. Each part is None when it could not be read: unknown is not empty.

    foreign: schedds that flock here; their jobs are not in `idle`. limiting: schedds whose HTCondor offers a user a
    bounded number of matches in one cycle unless its settings say otherwise (25.11 and later).
    """

    at: datetime
    matches: tuple[Match, ...] | None
    idle: tuple[JobGroup, ...] | None
    machines: tuple[MachineAd, ...] | None
    faults: tuple[str, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    limiting: tuple[str, ...] = ()


class Job(msgspec.Struct, frozen=True):
    """One job as its schedd describes it.

    status is HTCondor's JobStatus number (1 idle, 2 running, 4 completed, 5 held). universe: its JobUniverse number
    (5 vanilla). container: it wants one. vm_name: as the job gave it; named_by_text: whether that is a text, as it must
    be. remote_host: where it runs. last_host: where it ran before.
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
    last_host: str | None = None
    last_match_at: datetime | None = None
    starts: int = 0
    universe: int = 5
    container: bool = False
    named_by_text: bool = True
    disk_kib: int = 0
