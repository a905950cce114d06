"""What can happen to a VM: one class each, from its keeper to the table of `core/desktop/vm.py`.

Rules:
- A hypervisor emits them, a keeper passes them on as JSON, the inbox takes them, the table is keyed by their types.
- The tag names the event in a VM's story; it is for ever.
- Each says its `reason`: why a VM changed its state, in a sentence.
"""

from datetime import datetime
from typing import ClassVar, Literal, TypeAlias

import msgspec

from deskgrid.model.desktop import Fault
from deskgrid.model.reason import Reason


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened to a VM. noted: it has a line of its own in the story, even if nothing moves."""

    noted: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Its name in stories and in the table's figure."""
        return name_of(type(self))

    @property
    def blames(self) -> Fault:
        """Whose fault it is, as far as the event itself tells."""
        return Fault.NONE


def name_of(kind: type[msgspec.Struct]) -> str:
    """The tag of an event's or a command's class."""
    return str(kind.__struct_config__.tag)


# -- what the agent decides -------------------------------------------------------------------------------------------


class Leased(Event, frozen=True, tag="lease"):
    """The coordinator says that it should (still) run. until: the lease's new end."""

    reason: Reason
    until: datetime


class Withdrawn(Event, frozen=True, tag="withdrawn"):
    """The coordinator no longer names it, its lease is over, or the agent stops."""

    reason: Reason


class Refused(Event, frozen=True, tag="refused"):
    """The policy says no; the VM may wait paused for a grace."""

    reason: Reason
    grace_seconds: float = 0.0


class RefusedNow(Event, frozen=True, tag="refused-now"):
    """The policy says no without a grace, or memory is short."""

    reason: Reason


class Allowed(Event, frozen=True, tag="allowed"):
    """The policy says yes again."""

    reason: Reason


class Sleeping(Event, frozen=True, tag="sleeping"):
    """The computer is about to sleep; the VM may wait paused for a grace."""

    reason: Reason
    grace_seconds: float = 0.0


class ShuttingDown(Event, frozen=True, tag="shutting-down"):
    """The computer is about to shut down."""

    reason: Reason


class HandedOver(Event, frozen=True, tag="handed-over"):
    """Its agent makes way for a newer one, which finds it again."""

    noted: ClassVar[bool] = True
    reason: Reason


class Due(Event, frozen=True, tag="due"):
    """The deadline of its state has passed. fault: NONE: as its state says."""

    reason: Reason
    fault: Fault = Fault.NONE

    @property
    def blames(self) -> Fault:
        """What the agent knows of earlier guests here."""
        return self.fault


# -- what its image and its hypervisor tell ---------------------------------------------------------------------------


class Fetched(Event, frozen=True, tag="fetched"):
    """Its image is here and may start."""

    @property
    def reason(self) -> Reason:
        """Why it goes on."""
        return Reason("fetched", "Its image may start.")


class FetchFailed(Event, frozen=True, tag="fetch-failed"):
    """Its image may not start, or could not be had."""

    sentence: str
    fault: Fault = Fault.DESKTOP

    @property
    def reason(self) -> Reason:
        """Why it ends."""
        return Reason("fetch-failed", self.sentence)

    @property
    def blames(self) -> Fault:
        """The image's, or the desktop's."""
        return self.fault


class Started(Event, frozen=True, tag="started"):
    """Its processors run; the guest may not be up yet. accelerator: "kvm", "tcg", … or "fake"."""

    accelerator: str

    @property
    def reason(self) -> Reason:
        """What it runs on."""
        return Reason("started", f"Its processors run, on {self.accelerator}.")


class StartFailed(Event, frozen=True, tag="start-failed"):
    """It could not be started; nothing is left behind. Comes last."""

    fault: Fault
    sentence: str

    @property
    def reason(self) -> Reason:
        """Why not."""
        return Reason("start-failed", self.sentence)

    @property
    def blames(self) -> Fault:
        """The image's, or the desktop's."""
        return self.fault


class Waiting(Event, frozen=True, tag="waiting"):
    """What it boots from has not come yet: sources are away, or slow. Said again while it lasts, until `Alive`."""

    sentence: str

    @property
    def reason(self) -> Reason:
        """What it waits for."""
        return Reason("waiting", f"It waits for data of its image: {self.sentence}")


class Alive(Event, frozen=True, tag="alive"):
    """First sign of life from the guest's own user space."""

    @property
    def reason(self) -> Reason:
        """That it is up."""
        return Reason("alive", "Its guest has given its first sign of life.")


class Joined(Event, frozen=True, tag="joined"):
    """The guest has its instance data and has started HTCondor's daemons."""

    noted: ClassVar[bool] = True

    @property
    def reason(self) -> Reason:
        """For its story."""
        return Reason("joined", "Its guest has started HTCondor's daemons.")


class Paused(Event, frozen=True, tag="stopped"):
    """None of its processors runs now. milliseconds: how long that took in the driver, from the order on."""

    noted: ClassVar[bool] = True
    milliseconds: float

    @property
    def reason(self) -> Reason:
        """For its story."""
        return Reason("stopped", f"Its processors stand still after {self.milliseconds:.1f} ms.")


class GuestLeft(Event, frozen=True, tag="left"):
    """Nothing runs in the guest any more. cause: asked by us, unused for a while, or its daemons failed."""

    cause: Literal["asked", "unused", "failed"]
    sentence: str = ""

    @property
    def reason(self) -> Reason:
        """Why it left."""
        return Reason(f"guest-{self.cause}", self.sentence)

    @property
    def blames(self) -> Fault:
        """Daemons that fail are the image's."""
        return Fault.IMAGE if self.cause == "failed" else Fault.NONE


class Gone(Event, frozen=True, tag="gone"):
    """Its processes have ended, its memory is back, its overlay is deleted. Comes exactly once, last.

    clean: it ended because we ordered it. sentence: how it ended ("QEMU was killed by signal 9").
    """

    clean: bool
    sentence: str

    @property
    def reason(self) -> Reason:
        """How it ended."""
        return Reason("gone" if self.clean else "died", self.sentence)


FromHypervisor: TypeAlias = Started | StartFailed | Waiting | Alive | Joined | Paused | GuestLeft | Gone
AnyEvent: TypeAlias = (
    Leased
    | Withdrawn
    | Refused
    | RefusedNow
    | Allowed
    | Sleeping
    | ShuttingDown
    | HandedOver
    | Due
    | Fetched
    | FetchFailed
    | FromHypervisor
)


class Happened(msgspec.Struct, frozen=True, tag=True):
    """An event, and the VM to which it happened."""

    vm_id: str
    event: AnyEvent
