"""What comes into the agent's inbox, and what a driver's word means for a VM."""

import msgspec

from deskgrid.core.desktop.advance import Happened, Input, Noted
from deskgrid.core.events import Event, Kind
from deskgrid.hypervisor import contract as hv
from deskgrid.model.desktop import Fault
from deskgrid.model.inventory import Inventory
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish
from deskgrid.wire.messages import Answer


class Sense(msgspec.Struct, frozen=True):
    """Look at the owner now: a driver saw a sign, or it is time."""


class Asked(msgspec.Struct, frozen=True):
    """What the accounts of this computer ask of the grid now; Ask.RESUME: nothing any more."""

    wish: Wish


class Fetched(msgspec.Struct, frozen=True):
    """A VM of its image may start, or may not: then error says why, and fault whose it is."""

    vm_id: str
    error: str = ""
    fault: Fault = Fault.DESKTOP


class Answered(msgspec.Struct, frozen=True):
    """The coordinator answered."""

    answer: Answer


class LinkDown(msgspec.Struct, frozen=True):
    """The coordinator could not be asked, or refused. to: the report's sequence."""

    to: int
    sentence: str


class Looked(msgspec.Struct, frozen=True):
    """What this computer is made of; None: it could not be found out."""

    inventory: Inventory | None


class Stop(msgspec.Struct, frozen=True):
    """The agent is to end: ask every VM to leave."""

    reason: Reason


class HandOver(msgspec.Struct, frozen=True):
    """The agent is to make way for a newer one, which finds the VMs again within so long."""

    seconds: float


class Tick(msgspec.Struct, frozen=True):
    """Nothing came; time passed."""


Item = Sense | Asked | Fetched | Answered | LinkDown | Looked | Stop | HandOver | Tick | hv.Event


def of_vm(item: Fetched | hv.Event) -> Input:
    """What happened to a VM, or only belongs into its story."""
    match item:
        case hv.Joined():
            return Noted(item.vm_id, "joined", "Its guest has started HTCondor's daemons.")
        case hv.Paused():
            return Noted(item.vm_id, "stopped", f"Its processors stand still after {item.milliseconds:.1f} ms.")
        case _:
            return Happened(item.vm_id, vm_event(item))


def vm_event(item: Fetched | hv.Started | hv.StartFailed | hv.Waiting | hv.Alive | hv.GuestLeft | hv.Gone) -> Event:
    """What a driver's event means in the table of `core/desktop/vm.py`."""
    match item:
        case Fetched() if item.error:
            return Event(Kind.FETCH_FAILED, Reason("fetch-failed", item.error), fault=item.fault)
        case Fetched():
            return Event(Kind.FETCHED, Reason("fetched", "Its image may start."))
        case hv.Started():
            reason = Reason("started", f"Its processors run, on {item.accelerator}.")
            return Event(Kind.STARTED, reason, accelerator=item.accelerator)
        case hv.StartFailed():
            return Event(Kind.START_FAILED, Reason("start-failed", item.sentence), fault=Fault(item.fault))
        case hv.Waiting():
            return Event(Kind.WAITING, Reason("waiting", f"It waits for data of its image: {item.sentence}"))
        case hv.Alive():
            return Event(Kind.ALIVE, Reason("alive", "Its guest has given its first sign of life."))
        case hv.GuestLeft():
            fault = Fault.IMAGE if item.cause == "failed" else Fault.NONE
            return Event(Kind.LEFT, Reason(f"guest-{item.cause}", item.sentence), fault=fault)
        case hv.Gone():
            return Event(Kind.GONE, Reason("gone" if item.clean else "died", item.sentence))
