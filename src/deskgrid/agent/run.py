"""Runs an agent on this desktop: makes the drivers, turns the loop, ends when told to.

Rules:
- Never as root. One agent per state folder (a lock that ends with the process).
- SIGTERM and SIGINT ask every VM to leave and end the agent when they are gone; a second signal ends it at once, and
  the VMs' keepers end them within 5 s. SIGUSR1 makes way for a newer agent: VMs run on until it finds them.
"""

import logging
import os
import queue
import secrets
import signal
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.agent.clock import Clock, calendar, steady_clock, utc_now
from deskgrid.agent.drivers import Inbox, TimerRang, hypervisor_of, presence_of, store_of
from deskgrid.agent.inbox import Item, Looked, Sense
from deskgrid.agent.leases import LeaseFile
from deskgrid.agent.link import HttpsLink
from deskgrid.agent.loop import Loop
from deskgrid.agent.neighbour import Neighbour
from deskgrid.agent.owner.server import LocalServer
from deskgrid.agent.owner.socket import RUN_FOLDER, LocalError, listening_place
from deskgrid.agent.owner.status import status_of, write_status
from deskgrid.agent.owner.usage import UsageBook
from deskgrid.agent.owner.wishes import WishBook
from deskgrid.agent.policy.files import PolicyFiles
from deskgrid.agent.ports import Ports
from deskgrid.agent.settings import AgentSettings, ca_file, credential_file, dump_file, status_file
from deskgrid.core.desktop.inputs import Finishing, HandingOver, Ticked, Wished
from deskgrid.core.desktop.state import AgentState, reports
from deskgrid.core.policy.layers import combine
from deskgrid.host.doctor.inventory import read_inventory
from deskgrid.host.system.files import write_atomic
from deskgrid.host.system.locks import Locked, locked
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.wire.local import Status

log = logging.getLogger("deskgrid.agent")
LAST_WORD_SECONDS = 3.0
HAND_OVER_SECONDS = 60.0
INVENTORY_AFTER_SECONDS = 60.0
USED_EVERY = timedelta(seconds=5)
STATUS_EVERY = timedelta(seconds=30)
"""The status is written when something has changed, and so often for its figures: the owner's disk is the owner's."""


class AgentError(Exception):
    """The agent cannot run here. The message says why and what to do."""


def run(
    settings: AgentSettings, file: Path | None = None, wall: Clock = utc_now, settled: Callable[[], None] = lambda: None
) -> None:
    """Run until SIGTERM or SIGINT.

    Args: file: that the settings come from; its policy is read again when it changes. wall: the desktop's wall clock;
        it may be wrong. settled: called when the agent is up.
    Raises: AgentError: as root, not enrolled, or a second agent on the same state folder.
    """
    credential = check(settings)
    try:
        with locked(settings.state / "agent.lock", wait=False):
            _Running(settings, file, credential, wall).until_stopped(settled)
    except Locked:
        raise AgentError(
            f"{settings.state}: another agent runs with this state folder; there can be only one"
        ) from None


def check(settings: AgentSettings) -> str:
    """Whether an agent may run here: not as root, with a folder of its own, enrolled. Returns: its credential. SECRET.

    Raises: AgentError.
    """
    if os.name == "posix" and os.geteuid() == 0:
        raise AgentError("user: got root, expected an account without privileges; the agent never runs as root")
    try:
        settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AgentError(
            f"state folder {settings.state}: {error.strerror}; expected a folder of uid {os.geteuid()}"
        ) from None
    credential = _enrolled(credential_file(settings.state))
    _enrolled(ca_file(settings.state))
    return credential


def _enrolled(path: Path) -> str:
    """What enrolment left here. Raises: AgentError."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise AgentError(f"{path}: missing, so this desktop is not enrolled; run `deskgrid agent enrol`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AgentError(f"{path}: can't be read ({error}); run `deskgrid agent enrol` again") from None


class _Running:
    """An agent with its real drivers, between start and stop."""

    def __init__(self, settings: AgentSettings, file: Path | None, credential: str, wall: Clock) -> None:
        self.settings, self.wall = settings, wall
        state = settings.state
        self.inbox: Inbox = queue.SimpleQueue()
        self.rules = PolicyFiles(settings.policy_folder, state, file, zone=settings.zone)
        self.effective = self.rules.read() or combine(())
        self.wishes = WishBook(state / "wish.json", os.geteuid(), wall())
        self.presence, read_machine = presence_of(settings)
        self.hypervisor = hypervisor_of(settings, self.inbox)
        self.store = store_of(settings, lambda: self.effective.policy, wall)
        self.book = UsageBook(state / "usage.json", self._local)
        self.signals = 0
        self.told: object = None
        self.told_at = wall()
        self.local_fault = ""
        self.cpu: dict[str, float] = {}
        self.used: dict[str, float] = {}
        self.used_at = wall()
        self.neighbour = Neighbour(settings.store, settings.neighbour_port)
        ports = Ports(
            now=steady_clock(wall),
            wall=wall,
            local=self._local,
            read_presence=self.presence.read,
            read_machine=read_machine,
            hypervisor=self.hypervisor,
            store=self.store,
            link=HttpsLink(settings.coordinator, ca_file(state), settings.desktop, credential, self.inbox.put),
            aside=self._aside,
            leases=LeaseFile(state / "leases.json"),
            faults=self.rules.refusals,
            rules=self._rules,
            changed=self._changed,
            pace=self.presence.pace,
            ready_to_end=self.presence.ready_to_end,
            neighbour_port=lambda: self.neighbour.port,
        )
        self.loop = Loop(
            ports,
            self.effective.policy,
            settings.desktop,
            f"{wall():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
            wish=self.wishes.strongest(wall()),
            hold_seconds=settings.hold_seconds,
            sense_seconds=settings.sense_seconds,
            sense_seconds_at_rest=settings.sense_seconds_at_rest,
        )
        self.ear = LocalServer(
            listening_place(settings.local, state),
            self.wishes,
            self._status,
            lambda wish: self.inbox.put(Wished(wish)),
            self.presence.told,
            self._dump,
            wall,
        )

    def until_stopped(self, settled: Callable[[], None]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGUSR1, lambda number, frame: self.inbox.put(HandingOver(HAND_OVER_SECONDS)))
        self.presence.watch(lambda: self.inbox.put(Sense()))
        self._listen()
        self._aside(self._look_at_computer)
        log.info("agent of %s runs, pid %d, hypervisor %s", self.settings.desktop, os.getpid(), self.hypervisor.name)
        settled()
        try:
            while not self._over():
                self.loop.turn(self._next(self.loop.next_turn()))
                self.neighbour.obey(self.effective.policy, self.loop.state.availability)
            self._last_word()
        finally:
            self.neighbour.close()
            self.ear.close()
            self.rules.close()
            self.book.write()
            self.presence.close()
            self.hypervisor.close()

    def _look_at_computer(self) -> Looked:
        """Later, so that neither a computer that has just started nor a first order has to wait for it."""
        time.sleep(INVENTORY_AFTER_SECONDS)
        return Looked(read_inventory(self.settings.state))

    def _over(self) -> bool:
        state = self.loop.state
        return self.signals > 1 or self.loop.handed_over or (state.finishing is not None and not state.vms)

    def _listen(self) -> None:
        """Hear the accounts of this computer. Without it the owner can still do all that counts: use the computer."""
        try:
            self.ear.start()
        except LocalError as error:
            self.local_fault = str(error)
            log.warning("%s", error)

    def _next(self, at: datetime) -> Item:
        wait = (at - self.loop.ports.now()).total_seconds()
        return self._take(max(0.0, wait)) or Ticked()

    def _take(self, seconds: float) -> Item | None:
        try:
            item = self.inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(item, TimerRang):
            item.call()
            return None
        return item

    def _last_word(self) -> None:
        """Let the last report, which says that the VMs have ended, arrive."""
        end = self.loop.ports.now().timestamp() + LAST_WORD_SECONDS
        while self.loop.state.ended and self.loop.ports.now().timestamp() < end and self.signals < 2:
            if (item := self._take(0.2)) is not None:
                self.loop.turn(item)

    def _signalled(self, number: int, frame: object) -> None:
        self.signals += 1
        self.inbox.put(Finishing(Reason("agent-stops", "The agent of this desktop was told to stop.")))

    def _aside(self, work: Callable[[], Item]) -> None:
        threading.Thread(target=lambda: self.inbox.put(work()), daemon=True).start()

    @property
    def _zone(self) -> str:
        return self.effective.policy.zone or self.settings.zone

    def _local(self) -> datetime:
        return calendar(self._zone)()

    def _rules(self) -> Policy | None:
        """Another policy than before, or None. Asked at each sensing, so what else needs a look is looked at too."""
        self.ear.mend()
        if (effective := self.rules.read()) is None:
            return None
        self.effective = effective
        log.info("the policy has changed")
        for fault in effective.faults:
            log.warning("policy: %s", fault)
        return effective.policy

    def _changed(self, state: AgentState) -> None:
        now = self.loop.ports.now()
        if state.vms and now - self.used_at >= USED_EVERY:
            self._measure(now)
        self.book.see(reports(state), state.ended, self.used)
        told = [reason.name for reason in state.availability.refusals], [(vm.id, vm.state) for vm in state.vms.values()]
        if told != self.told or now - self.told_at > STATUS_EVERY:
            self.told, self.told_at = told, now
            status = self._status()
            write_status(status_file(self.settings.state), status)
            if self.ear.path.parent == RUN_FOLDER:  # where the owner may read it when no agent runs
                write_status(status_file(RUN_FOLDER), status)

    def _measure(self, now: datetime) -> None:
        """How many processors each VM uses now."""
        used, seconds = self.hypervisor.cpu_seconds(), (now - self.used_at).total_seconds()
        self.cpu = {vm: max(0.0, spent - self.used[vm]) / seconds for vm, spent in used.items() if vm in self.used}
        self.used, self.used_at = used, now

    def _dump(self) -> Path:
        """Write what is known and what came in of late, for who looks for a fault. Raises: OSError."""
        path = dump_file(self.settings.state)
        write_atomic(path, msgspec.json.encode(self.loop.history.dump()), 0o600)
        return path

    def _status(self) -> Status:
        """What is so now; for the loop's thread and the ear's."""
        faults = (*self.effective.faults, *(fault for fault in (self.wishes.fault, self.local_fault) if fault))
        return status_of(
            self.settings.desktop,
            os.getpid(),
            self.wall(),
            self.loop.state,
            wish=self.wishes.strongest(self.wall()),
            faults=faults,
            gift=self.book.gift(),
            cpu=self.cpu if self.loop.state.vms else {},
            reached_at=self.loop.session.reached_at,
            link_fault=self.loop.session.fault,
            zone=self._zone,
        )
