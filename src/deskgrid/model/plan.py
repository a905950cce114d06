"""What the planner sees and what it answers."""

from datetime import datetime
from typing import Annotated

import msgspec

from deskgrid.model.desktop import Desktop, Fault
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.reason import Reason
from deskgrid.model.values.backoff import Backoff
from deskgrid.model.values.help import Help
from deskgrid.model.values.names import Name
from deskgrid.model.values.numbers import Count, Span


class PlanSettings(msgspec.Struct, frozen=True):
    """How boldly the planner acts."""

    lease_seconds: Annotated[Span, Help("how long a lease holds without being renewed")] = 300.0
    stale_seconds: Annotated[Span, Help("a desktop that is silent for this long is not counted on")] = 120.0
    match_seconds: Annotated[Span, Help("a match of the negotiator older than this is no demand")] = 180.0
    ramp: Annotated[Count, Help("new leases in one cycle")] = 20
    max_starting: Annotated[Count, Help("leases that may be on their way to the pool at once")] = 100
    join_seconds: Annotated[
        Span, Help("a VM that has not joined after this time is no longer counted as on its way")
    ] = 900.0
    settle_seconds: Annotated[
        Span, Help("a VM that has joined counts as on its way for this time, or until it is claimed")
    ] = 60.0
    backoff_seconds: Annotated[Span, Help("first wait after failures")] = 60.0
    backoff_max_seconds: Annotated[Span, Help("longest wait after failures")] = 3600.0
    desktop_vms: Annotated[Count, Help("VMs that one desktop may have, whatever room it says it has")] = 64
    desktop_starting: Annotated[Count, Help("VMs that one desktop may have on their way to the pool, likewise")] = 4
    sizes: Annotated[tuple[Size, ...], Help("the VM sizes that are offered")] = (Size(1, 1 << 30),)
    backfill: Annotated[str, Help("the image that desktops run while no job waits; empty: none", "filler")] = ""
    backfill_vms: Annotated[Count, Help("VMs of it at most", "filler_vms")] = 100

    @property
    def backoff(self) -> Backoff:
        """After failures of an image or a desktop."""
        return Backoff(self.backoff_seconds, self.backoff_max_seconds)


class Outcome(msgspec.Struct, frozen=True):
    """How one VM's start went.

    ok: it joined the pool. fault: else, whose fault it was (NONE: nobody's, such as an owner who came back).
    """

    image: Name
    desktop: Name
    at: datetime
    ok: bool
    fault: Fault = Fault.NONE


class Spent(msgspec.Struct, frozen=True):
    """A VM that has ended, and its outcome. joined_at: it was in the pool. claimed: a job has had it."""

    image: Name
    size: Size
    desktop: Name
    ended_at: datetime
    joined_at: datetime | None = None
    claimed: bool = False


class LiveLease(msgspec.Struct, frozen=True):
    """A lease that holds, and how far its VM has come. claimed: a job has had it at least once; busy: has it now."""

    lease: Lease
    joined_at: datetime | None = None
    claimed: bool = False
    busy: bool = False


class Want(msgspec.Struct, frozen=True):
    """Demand for VMs of one image and size: `vms` for `jobs` waiting jobs, before what is already on its way."""

    image: Name
    size: Size
    vms: int
    jobs: int


class Snapshot(msgspec.Struct, frozen=True):
    """All that one plan is made from: desktops, live leases, images on offer, demand, recent outcomes, ended VMs.

    wants is None when HTCondor could not be read: then nothing is granted, and nothing is taken away.
    """

    desktops: tuple[Desktop, ...]
    leases: tuple[LiveLease, ...]
    images: tuple[ImageFacts, ...]
    wants: tuple[Want, ...] | None
    outcomes: tuple[Outcome, ...] = ()
    spent: tuple[Spent, ...] = ()


class Grant(msgspec.Struct, frozen=True):
    """Start a VM: where, of what, how large, and why there."""

    desktop: Name
    image: ImageRef
    size: Size
    reason: Reason


class Shortage(msgspec.Struct, frozen=True):
    """Demand that is not met in this cycle, and why. room: for want of a desktop with room."""

    image: Name
    size: Size
    vms: int
    reason: Reason
    room: bool = False


class Plan(msgspec.Struct, frozen=True):
    """What one cycle decided. desktops: per desktop name, why it got what it got or got nothing.

    make_way: ids of backfill VMs that are to end, since jobs need their desktops.
    resting: per image name, why it is not started at all for now, since it failed.
    """

    at: datetime
    grants: tuple[Grant, ...]
    shortages: tuple[Shortage, ...]
    desktops: dict[str, Reason]
    make_way: tuple[str, ...] = ()
    resting: dict[str, Reason] = {}
