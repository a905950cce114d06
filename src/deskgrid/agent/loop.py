"""The agent's loop: one inbox, one writer of state.

Rules, told first:
- `turn` takes one item, asks `core.desk.advance` what it means, and carries the commands out. It is the only place
  that changes the agent's state, and it never waits: drivers answer later, through the inbox.
- What the loop is driven by is passed in (`agent/ports.py`), so that the same loop runs on a desktop with threads and
  in a simulated campus with a virtual clock.
- The owner first: an item that tells of the owner is sensed and obeyed before anything is reported.
- The system waits with an announced sleep or shutdown until no VM runs, or has nothing more to lose.
"""

import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import msgspec

from deskgrid.agent.inbox import Answered, Asked, Fetched, HandOver, Item, LinkDown, Looked, Sense, Stop, Tick, of_vm
from deskgrid.agent.ports import Around
from deskgrid.agent.report_session import Letters
from deskgrid.core.desktop.advance import (
    Act,
    Finishing,
    HandingOver,
    Input,
    Ruled,
    Sensed,
    Ticked,
    Told,
    Wished,
    advance,
    begin,
    next_due,
    unsaid,
)
from deskgrid.core.desktop.vm import Command, Vm, adopt
from deskgrid.hypervisor import contract as hv
from deskgrid.images.contract import ImageError
from deskgrid.model.desktop import VmState
from deskgrid.model.image import ImageGrant, ImageRef
from deskgrid.model.inventory import Inventory, Verdict
from deskgrid.model.lease import Lease
from deskgrid.model.policy import Machine, Policy
from deskgrid.model.presence import Ending
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Wish
from deskgrid.presence.contract import UNREAD, unread
from deskgrid.wire.messages import Order

log = logging.getLogger("deskgrid.agent")
_UPGRADE = Reason("agent-upgrade", "The agent of this desktop makes way for a newer one.")


class Loop:
    """One desktop's agent."""

    def __init__(
        self,
        around: Around,
        policy: Policy,
        desktop: str,
        incarnation: str,
        *,
        wish: Wish | None = None,
        hold_seconds: float = 25.0,
        sense_seconds: float = 1.0,
        sense_seconds_at_rest: float = 5.0,
        tend_seconds: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Args: wish: what the owner asked for in an earlier life of this agent."""
        self.around = around
        self._sense = sense_seconds, sense_seconds_at_rest
        self._tend = timedelta(seconds=tend_seconds)
        self._open: dict[str, ImageRef] = {}
        self._orders: dict[str, Order] = {}
        self._renewed: dict[str, str] = {}
        self._paced: bool | None = None
        self._ending: Ending | None = None
        self._unread = ""
        self._policy = policy
        now = around.now()
        self.handed_over = False
        self.letters = Letters(around, incarnation, hold_seconds, jitter)
        self.desk = begin(desktop, policy, self._look(), now, self._found(policy, now), wish)
        around.hypervisor.limit(self.desk.standing.cpus)
        self._advance(self.desk.sensed)  # VMs that were found obey the owner at once
        self.letters.write(self.desk)

    # -- what drives it -------------------------------------------------------------------------------------------

    def turn(self, item: Item) -> None:
        """Take one item from the inbox."""
        now = self.around.now()
        before = self.desk
        if not self.handed_over:  # it would take back the announced silence
            self.around.hypervisor.tend()
        for given in self._meaning(item, now):
            self._advance(given)
        if now >= self._next_look():
            self._sense_all()
        self._advance(Ticked())
        self._settle()
        if before is not self.desk:
            self._remember()
            self.around.changed(self.desk)
        if unsaid(before, self.desk) or self.around.now() >= self.letters.due:
            self.letters.write(self.desk)

    def next_turn(self) -> datetime:
        """When `turn` must be called at the latest."""
        times = [self._next_look(), self.letters.due]
        if (due := next_due(self.desk)) is not None:
            times.append(due)
        if self.desk.vms:
            times.append(self.around.now() + self._tend)
        return min(times)

    def _next_look(self) -> datetime:
        return self._sensed_at + timedelta(seconds=self._sense[0 if self.desk.vms else 1])

    # -- from items to inputs -------------------------------------------------------------------------------------

    def _meaning(self, item: Item, now: datetime) -> list[Input]:
        match item:
            case Sense():
                self._sense_all()
            case Asked():
                return [Wished(item.wish)]
            case Answered():
                return [self._heard(item, now)]
            case LinkDown():
                self.letters.unheard(item, now)
            case Looked():
                self._learn(item.inventory)
            case Stop():
                return [Finishing(item.reason)]
            case HandOver():
                self.handed_over = True
                self.around.hypervisor.hand_over(item.seconds)
                return [HandingOver(_UPGRADE)]
            case Tick():
                pass
            case _:
                return [of_vm(item)]
        return []

    def _sense_all(self) -> None:
        """Look at the rules, then at the owner."""
        if (policy := self.around.rules()) is not None:
            self._policy = policy
            self._advance(Ruled(policy))
        self._advance(self._look())

    def _learn(self, inventory: Inventory | None) -> None:
        """What this computer is made of: told to the coordinator, and no VM has to find out what a trial has."""
        if inventory is None:
            return
        self.letters.enclose(inventory)
        for trial in inventory.trials:
            if trial.verdict in (Verdict.SLOW, Verdict.HANGS):
                self.around.hypervisor.distrust(trial.accelerator)

    def _look(self) -> Sensed:
        around = self.around
        self._sensed_at = around.now()
        machine, refusals = self._machine()
        return Sensed(around.read_presence(), machine, around.local(), (*refusals, *around.faults()))

    def _machine(self) -> tuple[Machine, tuple[Reason, ...]]:
        """The computer's resources. What can't be read, for whatever cause, is a refusal and never the agent's end."""
        before, self._unread = self._unread, ""
        try:
            return self.around.read_machine(self._policy), ()
        except Exception as error:
            refusal = unread(error)
        self._unread = refusal.reading
        if self._unread != before:
            log.warning("this computer's resources can't be read: %s", self._unread)
        return UNREAD, (refusal,)

    def _found(self, policy: Policy, now: datetime) -> list[Vm]:
        """The VMs of an earlier life of this agent: those with a lease go on, the others are ended."""
        leases = self.around.leases.read(now)
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
                    since=min(seen.started_at, now),
                    now=now,
                )
            )
        return vms

    def _heard(self, item: Answered, now: datetime) -> Told:
        answer = item.answer
        if any(order.lease.vm_id not in self.desk.vms for order in answer.orders):
            self._sense_all()  # nothing starts by an old reading
        story_until = self.letters.heard(answer, now, self.desk)
        leases = []
        for order in answer.orders:
            if order.instance is not None and order.lease.vm_id not in self.desk.vms:
                self._orders[order.lease.vm_id] = order
            if order.token and order.lease.vm_id in self.desk.vms:
                self._renew(order.lease.vm_id, order.token)
            if order.lease.vm_id in self._orders or order.lease.vm_id in self.desk.vms:
                leases.append(order.lease)
        return Told(answer.to, answer.now, tuple(leases), answer.acknowledged, story_until)

    def _renew(self, vm_id: str, token: str) -> None:
        """A newer pool token: for the guest that is there, or for the one that will be started."""
        if self._renewed.get(vm_id) == token:
            return
        self._renewed[vm_id] = token
        waiting = self._orders.get(vm_id)
        if waiting is not None and waiting.instance is not None:
            instance = msgspec.structs.replace(waiting.instance, token=token)
            self._orders[vm_id] = msgspec.structs.replace(waiting, instance=instance)
        else:
            self.around.hypervisor.renew(vm_id, token)

    # -- from decisions to drivers --------------------------------------------------------------------------------

    def _advance(self, given: Input) -> None:
        before = self.desk
        self.desk, acts = advance(before, given, self.around.now())
        for line in self.desk.story[max(0, before.story_from + len(before.story) - self.desk.story_from) :]:
            log.info("%s %s: %s", line.vm_id, line.state, line.sentence)
        if before.standing.cpus != self.desk.standing.cpus:
            self.around.hypervisor.limit(self.desk.standing.cpus)
        for act in acts:
            self._perform(act)
        self._orders = {vm_id: order for vm_id, order in self._orders.items() if vm_id in self.desk.vms}
        for gone in before.vms.keys() - self.desk.vms.keys():
            self._renewed.pop(gone, None)
            if (image := self._open.pop(gone, None)) is not None:
                self.around.store.close(image)

    def _perform(self, act: Act) -> None:
        hypervisor = self.around.hypervisor
        match act.command:
            case Command.FETCH if act.lease is not None:
                self._fetch(act.lease)
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

    def _fetch(self, lease: Lease) -> None:
        self.around.aside(partial(self._fetch_aside, lease, self._orders[lease.vm_id].image))

    def _fetch_aside(self, lease: Lease, grant: ImageGrant | None) -> Fetched:
        try:
            self.around.store.fetch(lease.image, grant)
        except ImageError as error:
            return Fetched(lease.vm_id, str(error), error.whose)
        except OSError as error:
            return Fetched(lease.vm_id, f"image {lease.image.name}: {error.strerror or error}")
        return Fetched(lease.vm_id)

    def _start(self, lease: Lease) -> None:
        """Start it; its secrets go to the driver and are forgotten here."""
        order = self._orders.pop(lease.vm_id)
        assert order.instance is not None, "only orders with instance data are kept"
        try:
            opened = self.around.store.open(lease.image, order.image)
        except ImageError as error:
            self.around.aside(partial(hv.StartFailed, lease.vm_id, error.whose, str(error)))
            return
        self._open[lease.vm_id] = lease.image
        disk = hv.Disk(lease.image, opened.disk, opened.kernel, opened.initrd, opened.cmdline, opened.served)
        self.around.hypervisor.start(
            hv.VmSpec(lease.vm_id, disk, lease.size, order.instance, self.desk.policy.vm_disk_bytes)
        )

    # -- what follows from it all ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tell how closely to watch, and let the computer sleep or shut down when nothing stands in its way."""
        desk, around = self.desk, self.around
        if self._paced is not (running := bool(desk.vms)):
            self._paced = running
            around.pace(running)
        ending = desk.sensed.reading.ending
        quiet = all(ending is Ending.SLEEP and vm.state is VmState.PAUSED for vm in desk.vms.values())
        if ending is None:
            self._ending = None
        elif quiet and self._ending is not ending:
            self._ending = ending
            around.ready_to_end()

    def _remember(self) -> None:
        try:
            self.around.leases.keep({vm.id: vm.lease for vm in self.desk.vms.values()}, self.around.now())
        except OSError as error:
            log.warning("the leases could not be kept on disk: %s", error.strerror)
