"""The agent's loop: one inbox, one writer of state.

Rules:
- `turn` takes one item, enters `core/desktop/advance.py` once with all that has come in, and carries the commands out.
  It is the only place that changes the agent's state, and it never waits: drivers answer later, through the inbox.
- What the loop is driven by is passed in (`agent/ports.py`), so that the same loop runs on a desktop with threads and
  in a simulated campus with a virtual clock.
- The owner first: what is sensed is obeyed before anything else that has come in, and before anything is reported.
- The system waits with an announced sleep or shutdown until no VM runs, or has nothing more to lose.
"""

import logging
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

import msgspec

from deskgrid.agent.history import History
from deskgrid.agent.inbox import Answered, Item, LinkDown, Looked, Sense
from deskgrid.agent.ports import Ports
from deskgrid.agent.report_session import ReportSession
from deskgrid.core.commands import CancelFetch, Command, Distrust, Fetch, Kill, Prove, Renew, Start
from deskgrid.core.desktop.advance import advance
from deskgrid.core.desktop.inputs import Doubted, HandingOver, Input, Ordered, Ruled, Sensed, Ticked
from deskgrid.core.desktop.state import begin, next_due, unsaid
from deskgrid.core.desktop.vm import Vm, adopt
from deskgrid.core.events import Fetched, FetchFailed, Happened, StartFailed
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
from deskgrid.wire.keeper import VmSpec
from deskgrid.wire.messages import Order

log = logging.getLogger("deskgrid.agent")


class Loop:
    """One desktop's agent."""

    def __init__(
        self,
        ports: Ports,
        policy: Policy,
        desktop: str,
        incarnation: str,
        *,
        wish: Wish | None = None,
        hold_seconds: float = 25.0,
        sense_seconds: float = 1.0,
        sense_seconds_at_rest: float = 5.0,
        heartbeat_seconds: float = 1.0,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Args: wish: what the owner asked for in an earlier life of this agent."""
        self.ports = ports
        self._sense = sense_seconds, sense_seconds_at_rest
        self._heartbeat = timedelta(seconds=heartbeat_seconds)
        self._open: dict[str, ImageRef] = {}
        self._orders: dict[str, Order] = {}
        self._renewed: dict[str, str] = {}
        self._paced: bool | None = None
        self._ending: Ending | None = None
        self._unread = ""
        self._policy = policy
        now = ports.now()
        self.handed_over = False
        self.session = ReportSession(ports, incarnation, hold_seconds, jitter)
        vms = self._found(policy, now)
        self.state = begin(desktop, policy, self._look(), now, vms, wish, ports.hypervisor.proven())
        self.history = History(self.state)
        ports.hypervisor.limit(self.state.standing.cpus)
        self._decide((self.state.sensed,), now)  # VMs that were found obey the owner at once
        self.session.write(self.state)

    # -- what drives it -------------------------------------------------------------------------------------------

    def turn(self, item: Item) -> None:
        """Take one item from the inbox."""
        now = self.ports.now()
        before = self.state
        if not self.handed_over:  # it would take back the announced silence
            self.ports.hypervisor.heartbeat()
        self._decide(tuple(self._inputs(item, now)), now)
        self._settle()
        if before is not self.state:
            self._remember()
            self.ports.changed(self.state)
        if unsaid(before, self.state) or self.ports.now() >= self.session.due:
            self.session.write(self.state)

    def next_turn(self) -> datetime:
        """When `turn` must be called at the latest."""
        times = [self._next_look(), self.session.due]
        if (due := next_due(self.state)) is not None:
            times.append(due)
        if self.state.vms:
            times.append(self.ports.now() + self._heartbeat)
        return min(times)

    def _next_look(self) -> datetime:
        return self._sensed_at + timedelta(seconds=self._sense[0 if self.state.vms else 1])

    # -- from an item to inputs -----------------------------------------------------------------------------------

    def _inputs(self, item: Item, now: datetime) -> Iterator[Input]:
        """What an item means; before it a fresh look, when one is due or must be."""
        begins = isinstance(item, Answered) and any(
            order.lease.vm_id not in self.state.vms for order in item.answer.orders
        )
        if isinstance(item, Sense) or begins or now >= self._next_look():  # nothing starts by an old reading
            if (policy := self.ports.rules()) is not None:
                self._policy = policy
                yield Ruled(policy)
            yield self._look()
        match item:
            case Answered():
                yield self._answered(item, now)
            case LinkDown():
                self.session.unheard(item, now)
            case Looked():
                yield self._learned(item.inventory)
            case HandingOver():
                self.handed_over = True
                self.ports.hypervisor.hand_over(item.seconds)
                yield item
            case Sense():
                pass
            case _:
                yield item

    def _look(self) -> Sensed:
        ports = self.ports
        self._sensed_at = ports.now()
        machine, refusals = self._machine()
        return Sensed(ports.read_presence(), machine, ports.local(), (*refusals, *ports.faults()))

    def _machine(self) -> tuple[Machine, tuple[Reason, ...]]:
        """The computer's resources. What can't be read, for whatever cause, is a refusal and never the agent's end."""
        before, self._unread = self._unread, ""
        try:
            return self.ports.read_machine(self._policy), ()
        except Exception as error:
            refusal = unread(error)
        self._unread = refusal.reading
        if self._unread != before:
            log.warning("this computer's resources can't be read: %s", self._unread)
        return UNREAD, (refusal,)

    def _learned(self, inventory: Inventory | None) -> Input:
        """What this computer is made of: told to the coordinator, and no VM has to find out what a trial has."""
        if inventory is None:
            return Ticked()
        self.session.enclose(inventory)
        bad = (trial.accelerator for trial in inventory.trials if trial.verdict in (Verdict.SLOW, Verdict.HANGS))
        return Doubted(tuple(bad))

    def _found(self, policy: Policy, now: datetime) -> list[Vm]:
        """The VMs of an earlier life of this agent: those with a lease go on, the others are ended."""
        leases = self.ports.leases.read(now)
        vms = []
        for seen in self.ports.hypervisor.observe():
            lease = leases.get(seen.vm_id)
            if lease is None or lease.until <= now:
                self.ports.hypervisor.order(seen.vm_id, Kill())
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

    def _answered(self, item: Answered, now: datetime) -> Ordered:
        answer = item.answer
        story_until = self.session.heard(answer, now, self.state)
        leases = []
        for order in answer.orders:
            if order.instance is not None and order.lease.vm_id not in self.state.vms:
                self._orders[order.lease.vm_id] = order
            if order.token and order.lease.vm_id in self.state.vms:
                self._renew(order.lease.vm_id, order.token)
            if order.lease.vm_id in self._orders or order.lease.vm_id in self.state.vms:
                leases.append(order.lease)
        return Ordered(answer.to, answer.now, tuple(leases), answer.acknowledged, story_until)

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
            self.ports.hypervisor.order(vm_id, Renew(token))

    # -- from decisions to drivers --------------------------------------------------------------------------------

    def _decide(self, given: tuple[Input, ...], now: datetime) -> None:
        before = self.state
        self.state, acts = advance(before, given, now)
        self.history.add(before, given, now, self.state)
        for line in self.state.story[max(0, before.story_from + len(before.story) - self.state.story_from) :]:
            log.info("%s %s: %s", line.vm_id, line.state, line.sentence)
        if before.standing.cpus != self.state.standing.cpus:
            self.ports.hypervisor.limit(self.state.standing.cpus)
        for act in acts:
            self._perform(act.vm_id, act.command)
        self._orders = {vm_id: order for vm_id, order in self._orders.items() if vm_id in self.state.vms}
        for gone in before.vms.keys() - self.state.vms.keys():
            self._renewed.pop(gone, None)
            if (image := self._open.pop(gone, None)) is not None:
                self.ports.store.close(image)

    def _perform(self, vm_id: str, command: Command) -> None:
        match command:
            case Fetch(lease):
                self.ports.aside(partial(self._fetch, lease, self._orders[vm_id].image))
            case Start(lease):
                self._start(lease)
            case Prove(accelerator):
                self.ports.hypervisor.prove(accelerator)
            case Distrust(accelerator):
                self.ports.hypervisor.distrust(accelerator)
            case CancelFetch():
                pass
            case _:
                self.ports.hypervisor.order(vm_id, command)

    def _fetch(self, lease: Lease, grant: ImageGrant | None) -> Happened:
        try:
            self.ports.store.fetch(lease.image, grant)
        except ImageError as error:
            return Happened(lease.vm_id, FetchFailed(str(error), error.whose))
        except OSError as error:
            return Happened(lease.vm_id, FetchFailed(f"image {lease.image.name}: {error.strerror or error}"))
        return Happened(lease.vm_id, Fetched())

    def _start(self, lease: Lease) -> None:
        """Start it; its secrets go to the driver and are forgotten here."""
        order = self._orders.pop(lease.vm_id)
        assert order.instance is not None, "only orders with instance data are kept"
        try:
            image = self.ports.store.open(lease.image, order.image)
        except ImageError as error:
            self.ports.aside(partial(Happened, lease.vm_id, StartFailed(error.whose, str(error))))
            return
        self._open[lease.vm_id] = lease.image
        spec = VmSpec(lease.vm_id, image, lease.size, order.instance, self.state.policy.vm_disk_bytes)
        self.ports.hypervisor.start(spec)

    # -- what follows from it all ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Tell how closely to watch, and let the computer sleep or shut down when nothing stands in its way."""
        state, ports = self.state, self.ports
        if self._paced is not (running := bool(state.vms)):
            self._paced = running
            ports.pace(running)
        ending = state.sensed.reading.ending
        quiet = all(ending is Ending.SLEEP and vm.state is VmState.PAUSED for vm in state.vms.values())
        if ending is None:
            self._ending = None
        elif quiet and self._ending is not ending:
            self._ending = ending
            ports.ready_to_end()

    def _remember(self) -> None:
        try:
            self.ports.leases.keep({vm.id: vm.lease for vm in self.state.vms.values()}, self.ports.now())
        except OSError as error:
            log.warning("the leases could not be kept on disk: %s", error.strerror)
