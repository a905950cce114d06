"""What the operator's API says: one schema for the service and its client.

Times are UTC. No secrets but a new enrolment token.
"""

from datetime import datetime
from typing import Any

import msgspec

from deskgrid.model.desktop import Availability, Room, VmReport
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.inventory import Inventory
from deskgrid.model.lease import Size
from deskgrid.model.plan import Shortage, Want
from deskgrid.model.pool import OfflineAd
from deskgrid.model.reason import Reason
from deskgrid.model.values.names import Name


class StoryLine(msgspec.Struct, frozen=True):
    """One line of a VM's story.

    at: when, by the coordinator's clock. told_at: as its source told it. source: "coordinator" or a desktop's name.
    state: the VM's state after it. id: its number, growing; 0 while it is not recorded.
    """

    vm_id: str
    at: datetime
    told_at: datetime
    source: str
    state: str
    event: str
    sentence: str
    id: int = 0


class DesktopInventory(msgspec.Struct, frozen=True):
    """What a desktop is made of, and when it said so."""

    desktop: str
    at: datetime
    inventory: Inventory


class DesktopView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A desktop. reported_at, availability and what follows: of its last report, if it has reported.

    state: what it is, in a word: "available", "in use", "waiting", "silent". skew_seconds: its clock minus the
    coordinator's. inventory: what it is made of, as it last said.
    unknown: fields of its report that this version does not know.
    """

    name: Name
    enrolled_at: datetime
    state: str = ""
    revoked_at: datetime | None = None
    reported_at: datetime | None = None
    silent: bool = True
    availability: Availability | None = None
    room: Room | None = None
    cpus: int = 0
    memory_bytes: int = 0
    images: tuple[ImageRef, ...] = ()
    vms: tuple[VmReport, ...] = ()
    leases: tuple[Name, ...] = ()
    system: str = ""
    agent_version: str = ""
    skew_seconds: float = 0.0
    reason: Reason | None = None
    warnings: tuple[Reason, ...] = ()
    unknown: dict[str, Any] = {}
    inventory: DesktopInventory | None = None


class VmView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A VM that lives. state: as its desktop reports it, "ordered" before that. jobs: ids, as the collector tells."""

    vm_id: Name
    desktop: Name
    image: ImageRef
    size: Size
    state: str
    granted_at: datetime
    until: datetime
    reason: Reason
    joined_at: datetime | None = None
    claimed: bool = False
    withdrawn: Reason | None = None
    accelerator: str = ""
    jobs: tuple[str, ...] = ()


class GridStatus(msgspec.Struct, frozen=True):
    """The service as a whole, with the last cycle's values. unknown parts of HTCondor are named in pool_faults."""

    version: str
    started_at: datetime
    cycle_at: datetime
    desktops: int
    reporting: int
    available: int
    held_reports: int
    vms: int
    joined: int
    images: tuple[ImageFacts, ...]
    ads: tuple[OfflineAd, ...]
    wants: tuple[Want, ...] | None
    shortages: tuple[Shortage, ...]
    pool_faults: tuple[str, ...]
    last_line: int
    ca_fingerprint: str
    image_problems: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class ImageView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A version of an image, as its repository lists it.

    offered: jobs that name it get this one. latest: its signers say so. refused: why it may not start. signers: who has
    signed it. size_bytes: what a desktop fetches of it, at most. held_by: desktops that have it. running: its VMs.
    wanted: waiting jobs that name it, told at the version that is offered, or else at the latest.
    """

    project: str
    image: Name
    version: str
    digest: str
    offered: bool = False
    latest: bool = False
    refused: Reason | None = None
    signers: tuple[str, ...] = ()
    memory_bytes: int = 0
    disk_bytes: int = 0
    size_bytes: int = 0
    held_by: int = 0
    running: int = 0
    wanted: int = 0


class ImageList(msgspec.Struct, frozen=True):
    """All versions of all images. until: nothing new starts after that without news. problems: to be looked at."""

    versions: tuple[ImageView, ...]
    problems: tuple[str, ...] = ()
    until: datetime | None = None


class MakeToken(msgspec.Struct, frozen=True):
    """Ask for an enrolment token. lifetime_seconds: at most 90 days. uses: how many desktops it may enrol."""

    lifetime_seconds: float = 86400.0
    uses: int = 1


class MadeToken(msgspec.Struct, frozen=True):
    """A new enrolment token: said once. ca_fingerprint: what an agent must find at this coordinator."""

    token: str
    id: str
    expires_at: datetime
    uses: int
    ca_fingerprint: str

    def __repr__(self) -> str:
        return f"MadeToken(id={self.id!r}, token=<secret>)"


class Because(msgspec.Struct, frozen=True):
    """Why the operator does something."""

    reason: str = ""


class Done(msgspec.Struct, frozen=True):
    """It was done. sentence: what."""

    sentence: str


class Events(msgspec.Struct, frozen=True):
    """New lines of all stories. last: ask for what comes after this number next."""

    lines: tuple[StoryLine, ...]
    last: int


class Healthy(msgspec.Struct, frozen=True):
    """The service answers. version: of deskgrid. protocol: of reports."""

    version: str
    protocol: int
