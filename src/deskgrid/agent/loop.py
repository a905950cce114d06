"""The agent's loop: one inbox, one writer of state.

Rules, told first:
- `turn` takes one item, asks `core.desk.advance` what it means, and carries the commands out. It is the only place
  that changes the agent's state, and it never waits: drivers answer later, through the inbox.
- What the loop is driven by is passed in (clocks, drivers, link, a way to run something aside), so that the same
  loop runs on a desktop with threads and in a simulated campus with a virtual clock.
- The owner first: an item that tells of the owner is sensed and obeyed before anything is reported.
"""

import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

import msgspec

from deskgrid import __version__
from deskgrid.agent.leases import LeaseFile
from deskgrid.core.desk import (
    Act,
    Desk,
    Finishing,
    Happened,
    Input,
    Noted,
    Sensed,
    Ticked,
    Told,
    advance,
    begin,
    next_due,
    unsaid,
)
from deskgrid.core.desk import reports as vm_reports
from deskgrid.core.vm import Command, Event, Kind, Vm, adopt
from deskgrid.hypervisor import contract as hv
from deskgrid.images.contract import ImageError, ImageStore
from deskgrid.model.desktop import Fault
from deskgrid.model.image import ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Answer, Report

log = logging.getLogger("deskgrid.agent")

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 60.0


class Link(Protocol):
    """The way to the coordinator. Never blocks; what comes of a report arrives as Answered or LinkDown."""

    def say(self, report: Report) -> None:
        """Send a report. A newer one may overtake an older one that is still held open."""


class Sense(msgspec.Struct, frozen=True):
    """Look at the owner now: a driver saw a sign, or it is time."""


class Fetched(msgspec.Struct, frozen=True):
    """The image of a VM is here, or it is not: then error says why."""

    vm_id: str
    error: str = ""


class Answered(msgspec.Struct, frozen=True):
    """The coordinator answered."""

    answer: Answer


class LinkDown(msgspec.Struct, frozen=True):
    """The coordinator could not be asked, or refused. to: the report's sequence."""

    to: int
    sentence: str


class Stop(msgspec.Struct, frozen=True):
    """The agent is to end: ask every VM to leave."""

    reason: Reason


class Tick(msgspec.Struct, frozen=True):
    """Nothing came; time passed."""


Item = Sense | Fetched | Answered | LinkDown | Stop | Tick | hv.Event


class Around(msgspec.Struct, frozen=True):
    """All that a loop touches.

    now: the steady clock. local: the owner's calendar. read_presence, read_machine: quick reads.
    aside: runs something slow elsewhere; what it returns is put into the inbox.
    faults: what makes this desktop unfit, asked at each sensing. leases: the file of leases. wall: the wall clock.
    """

    now: Callable[[], datetime]
    wall: Callable[[], datetime]
    local: Callable[[], datetime]
    read_presence: Callable[[], Reading]
    read_machine: Callable[[], Machine]
    hypervisor: hv.Hypervisor
    store: ImageStore
    link: Link
    aside: Callable[[Callable[[], Item]], None]
    leases: LeaseFile
    faults: Callable[[], tuple[Reason, ...]] = tuple
    changed: Callable[[Desk], None] = lambda desk: None


class Loop:
    """One desktop's agent."""

    def __init__(
        self,
        around: Around,
        policy: Policy,
        desktop: str,
        incarnation: str,
        *,
        hold_seconds: float = 25.0,
        sense_seconds: float = 1.0,
        sense_seconds_at_rest: float = 5.0,
        tend_seconds: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.around, self.desktop, self.incarnation = around, desktop, incarnation
        self._hold, self._sense = hold_seconds, (sense_seconds, sense_seconds_at_rest)
        self._tend = timedelta(seconds=tend_seconds)
        self._jitter = jitter
        self._sequence = 0
        self._said: dict[int, tuple[int, datetime]] = {}
        self._open: dict[str, ImageRef] = {}
        self._failures = 0
        self._instances: dict[str, InstanceData] = {}
        now = around.now()
        self._sensed_at = self._next_report = now
        self.reached_at: datetime | None = None
        self.link_fault = ""
        self.desk = begin(desktop, policy, self._look(), now, self._found(policy, now))
        self._advance(self.desk.sensed)  # VMs that were found obey the owner at once
        self._report()

    # -- what drives it -------------------------------------------------------------------------------------------

    def turn(self, item: Item) -> None:
        """Take one item from the inbox."""
        now = self.around.now()
        before = self.desk
        self.around.hypervisor.tend()
        for given in self._meaning(item, now):
            self._advance(given)
        if now >= self._sensed_at + timedelta(seconds=self._sense[0 if self.desk.vms else 1]):
            self._advance(self._look())
        self._advance(Ticked())
        if before is not self.desk:
            self._remember()
            self.around.changed(self.desk)
        if unsaid(before, self.desk) or self.around.now() >= self._next_report:
            self._report()

    def next_turn(self) -> datetime:
        """When `turn` must be called at the latest."""
        sense = self._sensed_at + timedelta(seconds=self._sense[0 if self.desk.vms else 1])
        times = [sense, self._next_report]
        if (due := next_due(self.desk)) is not None:
            times.append(due)
        if self.desk.vms:
            times.append(self.around.now() + self._tend)
        return min(times)

    # -- from items to inputs -------------------------------------------------------------------------------------

    def _meaning(self, item: Item, now: datetime) -> list[Input]:
        match item:
            case Sense():
                return [self._look()]
            case Answered():
                return [self._heard(item.answer, now)]
            case LinkDown():
                self._unheard(item, now)
            case Stop():
                return [Finishing(item.reason)]
            case Fetched():
                return [Happened(item.vm_id, _fetch_event(item))]
            case Tick():
                pass
            case hv.Joined():
                return [Noted(item.vm_id, "joined", "Its guest has started HTCondor's daemons.")]
            case hv.Paused():
                return [Noted(item.vm_id, "stopped", f"Its processors stand still after {item.milliseconds:.1f} ms.")]
            case _:
                return [Happened(item.vm_id, vm_event(item))]
        return []

    def _look(self) -> Sensed:
        around = self.around
        self._sensed_at = around.now()
        return Sensed(around.read_presence(), around.read_machine(), around.local(), around.faults())

    def _found(self, policy: Policy, now: datetime) -> list[Vm]:
        """The VMs of an earlier life of this agent: those with a lease go on, the others are ended."""
        leases = self.around.leases.read()
        vms = []
        for seen in self.around.hypervisor.observe():
            lease = leases.get(seen.vm_id)
            if lease is None or lease.until <= now:
                self.around.hypervisor.kill(seen.vm_id)
                continue
            log.info("%s found again, %s", seen.vm_id, "paused" if seen.paused else "running")
            vms.append(
                adopt(
                    lease,
                    paused=seen.paused,
                    alive=seen.alive,
                    accelerator=seen.accelerator,
                    grace_seconds=policy.grace_seconds,
                    since=seen.started_at,
                    now=now,
                )
            )
        return vms

    def _heard(self, answer: Answer, now: datetime) -> Told:
        if self.link_fault:
            log.info("the coordinator answers again")
        self.reached_at, self.link_fault, self._failures = now, "", 0
        story_from, said_at = self._said.get(answer.to, (0, now))
        self._said = {to: said for to, said in self._said.items() if to > answer.to}
        held = self._holds() and now - said_at > timedelta(seconds=self._hold / 2)
        self._next_report = now + timedelta(seconds=0 if held else max(0.1, answer.next_report_seconds))
        leases = []
        for order in answer.orders:
            if order.instance is not None:
                self._instances[order.lease.vm_id] = order.instance
            if order.lease.vm_id in self._instances or order.lease.vm_id in self.desk.vms:
                leases.append(order.lease)
        return Told(answer.to, answer.now, tuple(leases), answer.acknowledged, story_from + answer.story_count)

    def _unheard(self, down: LinkDown, now: datetime) -> None:
        self._said.pop(down.to, None)
        if down.to != self._sequence:
            return  # a newer report is on its way
        if down.sentence != self.link_fault:
            log.warning("the coordinator cannot be reached: %s", down.sentence)
        self.link_fault = down.sentence
        wait = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._next_report = now + timedelta(seconds=wait * (0.5 + 0.5 * self._jitter()))

    # -- from decisions to drivers --------------------------------------------------------------------------------

    def _advance(self, given: Input) -> None:
        before = self.desk
        self.desk, acts = advance(before, given, self.around.now())
        for line in self.desk.story[max(0, before.story_from + len(before.story) - self.desk.story_from) :]:
            log.info("%s %s: %s", line.vm_id, line.state, line.sentence)
        for act in acts:
            self._perform(act)
        self._instances = {vm_id: data for vm_id, data in self._instances.items() if vm_id in self.desk.vms}
        for gone in before.vms.keys() - self.desk.vms.keys():
            if (image := self._open.pop(gone, None)) is not None:
                self.around.store.close(image)

    def _perform(self, act: Act) -> None:
        hypervisor = self.around.hypervisor
        match act.command:
            case Command.FETCH if act.lease is not None:
                self.around.aside(partial(self._fetch, act.lease))
            case Command.START if act.lease is not None:
                self._start(act.lease)
            case Command.PAUSE:
                hypervisor.pause(act.vm_id)
            case Command.RESUME:
                hypervisor.resume(act.vm_id)
            case Command.VACATE:
                hypervisor.vacate(act.vm_id)
            case Command.KILL:
                hypervisor.kill(act.vm_id)
            case Command.DISTRUST:
                hypervisor.distrust(act.accelerator)
            case Command.CANCEL_FETCH:
                pass  # what it brings is not asked for any more, and stays in the store for the next time

    def _fetch(self, lease: Lease) -> Fetched:
        try:
            self.around.store.fetch(lease.image)
        except ImageError as error:
            return Fetched(lease.vm_id, str(error))
        except OSError as error:
            return Fetched(lease.vm_id, f"image {lease.image.name}: {error.strerror or error}")
        return Fetched(lease.vm_id)

    def _start(self, lease: Lease) -> None:
        try:
            opened = self.around.store.open(lease.image)
        except ImageError as error:
            self.around.aside(partial(hv.StartFailed, lease.vm_id, Fault.DESKTOP, str(error)))
            return
        self._open[lease.vm_id] = lease.image
        disk = hv.Disk(lease.image, opened.disk, opened.kernel, opened.initrd, opened.cmdline)
        instance = self._instances[lease.vm_id]
        self.around.hypervisor.start(hv.VmSpec(lease.vm_id, disk, lease.size, instance, self.desk.policy.vm_disk_bytes))

    # -- what is said and kept ------------------------------------------------------------------------------------

    def _holds(self) -> bool:
        """Whether a report may be held open; not after one that failed: leases are to be renewed at once then."""
        return self._hold > 0 and self.desk.availability.available and not self.link_fault

    def _report(self) -> None:
        around, desk = self.around, self.desk
        self._sequence += 1
        self._said[self._sequence] = (desk.story_from, around.now())
        wait = self._hold if self._holds() else 0.0
        self._next_report = around.now() + timedelta(seconds=wait + LAST_RETRY_SECONDS)
        around.link.say(
            Report(
                incarnation=self.incarnation,
                sequence=self._sequence,
                sent_at=around.wall(),
                availability=desk.availability,
                room=desk.room,
                cpus=desk.sensed.machine.cpus,
                memory_bytes=desk.sensed.machine.memory_bytes,
                agent_version=__version__,
                wait_seconds=wait,
                images=tuple(facts.ref for facts in around.store.held()),
                vms=vm_reports(desk),
                ended=desk.ended,
                story=desk.story,
            )
        )

    def _remember(self) -> None:
        try:
            self.around.leases.keep({vm.id: vm.lease for vm in self.desk.vms.values()})
        except OSError as error:
            log.warning("the leases could not be kept on disk: %s", error.strerror)


def _fetch_event(item: Fetched) -> Event:
    if item.error:
        return Event(Kind.FETCH_FAILED, Reason("fetch-failed", item.error), fault=Fault.DESKTOP)
    return Event(Kind.FETCHED, Reason("fetched", "Its image is here."))


def vm_event(item: hv.Started | hv.StartFailed | hv.Alive | hv.GuestLeft | hv.Gone) -> Event:
    """What a driver's event means in the table of `core/vm.py`."""
    match item:
        case hv.Started():
            reason = Reason("started", f"Its processors run, on {item.accelerator}.")
            return Event(Kind.STARTED, reason, accelerator=item.accelerator)
        case hv.StartFailed():
            return Event(Kind.START_FAILED, Reason("start-failed", item.sentence), fault=Fault(item.fault))
        case hv.Alive():
            return Event(Kind.ALIVE, Reason("alive", "Its guest has given its first sign of life."))
        case hv.GuestLeft():
            fault = Fault.IMAGE if item.cause == "failed" else Fault.NONE
            return Event(Kind.LEFT, Reason(f"guest-{item.cause}", item.sentence), fault=fault)
        case hv.Gone():
            return Event(Kind.GONE, Reason("gone" if item.clean else "died", item.sentence))
