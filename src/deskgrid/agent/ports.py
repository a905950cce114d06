"""All that an agent's loop touches: a desktop gives it threads and drivers, a simulated campus a virtual clock."""

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import msgspec

from deskgrid.agent.inbox import Item
from deskgrid.agent.leases import LeaseFile
from deskgrid.core.desktop.state import AgentState
from deskgrid.hypervisor.contract import Hypervisor
from deskgrid.images.contract import ImageStore
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Report


class Link(Protocol):
    """The way to the coordinator. Never blocks; what comes of a report arrives as Answered or LinkDown."""

    def say(self, report: Report) -> None:
        """Send a report. A newer one may overtake an older one that is still held open."""


class Ports(msgspec.Struct, frozen=True):
    """What a loop is made with.

    now: the steady clock. wall: the wall clock. local: the owner's calendar. read_presence, read_machine: quick reads.
    aside: runs something slow elsewhere; what it returns is put into the inbox. leases: the file of leases.
    faults: what makes this desktop unfit, asked at each sensing. rules: another policy than before, or None; asked at
    each sensing. changed: hears of every change. pace: whether virtual machines run, or may soon.
    neighbour_port: where parts of images are given to neighbours; 0: nowhere.
    ready_to_end: all that the computer's announced sleep or shutdown had to wait for is done.
    """

    now: Callable[[], datetime]
    wall: Callable[[], datetime]
    local: Callable[[], datetime]
    read_presence: Callable[[], Reading]
    read_machine: Callable[[Policy], Machine]
    hypervisor: Hypervisor
    store: ImageStore
    link: Link
    aside: Callable[[Callable[[], Item]], None]
    leases: LeaseFile
    faults: Callable[[], tuple[Reason, ...]] = tuple
    rules: Callable[[], Policy | None] = lambda: None
    changed: Callable[[AgentState], None] = lambda state: None
    pace: Callable[[bool], None] = lambda running: None
    ready_to_end: Callable[[], None] = lambda: None
    neighbour_port: Callable[[], int] = lambda: 0
