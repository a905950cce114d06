"""What can happen to a VM, as the table of its life takes it."""

from datetime import datetime
from enum import StrEnum

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.reason import Reason


class Kind(StrEnum):
    """What can happen to a VM."""

    LEASE = "lease"  # the coordinator says that it should (still) run, until a new time
    WITHDRAWN = "withdrawn"  # the coordinator no longer names it, or the agent is told to finish
    REFUSED = "refused"  # the policy says no; the VM may wait paused for a grace
    REFUSED_NOW = "refused-now"  # the policy says no, and there is no grace
    ALLOWED = "allowed"  # the policy says yes again
    SLEEPING = "sleeping"  # the computer is about to sleep; the VM may wait paused for a grace
    SHUTTING_DOWN = "shutting-down"  # the computer is about to shut down
    HANDED_OVER = "handed-over"  # this agent makes way for a newer one, which will find the VM again
    FETCHED = "fetched"  # the image is here and open
    FETCH_FAILED = "fetch-failed"
    STARTED = "started"  # its CPUs run
    START_FAILED = "start-failed"
    WAITING = "waiting"  # what it boots from has not come yet: a source is away, or slow
    ALIVE = "alive"  # first sign of life from the guest
    LEFT = "left"  # the guest has ended its jobs
    GONE = "gone"  # no process of it is left
    DUE = "due"  # the deadline of the present state has passed


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a VM.

    reason: why, carried into the VM when the event changes its course.
    until: LEASE only, the new end of the permission. grace_seconds: REFUSED and SLEEPING only.
    accelerator: STARTED only. fault: *_FAILED, LEFT, GONE and DUE, whose fault it was, if that is known.
    """

    kind: Kind
    reason: Reason
    until: datetime | None = None
    grace_seconds: float = 0.0
    accelerator: str = ""
    fault: Fault = Fault.NONE
