"""Runs an agent on this desktop: makes the drivers, turns the loop, ends when told to.

Rules, told first:
- Never as root. One agent per state folder (a lock that ends with the process).
- SIGTERM and SIGINT ask every VM to leave and end the agent when they are gone; a second signal ends it at once, and
  the VMs' keepers end them within 5 s.
"""

import logging
import os
import queue
import secrets
import signal
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from deskgrid.agent.clock import Clock, calendar, steady_clock, utc_now
from deskgrid.agent.files import ca_file, credential_file, status_file
from deskgrid.agent.leases import LeaseFile
from deskgrid.agent.link import HttpsLink
from deskgrid.agent.loop import Around, Item, Loop, Sense, Stop, Tick
from deskgrid.agent.machine import read_machine
from deskgrid.agent.settings import AgentSettings
from deskgrid.agent.status import status_of, write_status
from deskgrid.core.desk import Desk
from deskgrid.host.files import Locked, locked
from deskgrid.hypervisor.contract import Hypervisor
from deskgrid.images.store import FolderStore
from deskgrid.model.reason import Reason
from deskgrid.presence.contract import Presence

log = logging.getLogger("deskgrid.agent")
LAST_WORD_SECONDS = 3.0
STATUS_EVERY = timedelta(seconds=30)
"""The status is written when something has changed, and so often for its figures: the owner's disk is the owner's."""


class AgentError(Exception):
    """The agent cannot run here. The message says why and what to do."""


def run(settings: AgentSettings, wall: Clock = utc_now) -> None:
    """Run until SIGTERM or SIGINT.

    Args: wall: the desktop's wall clock; it may be wrong.
    Raises: AgentError: as root, not enrolled, or a second agent on the same state folder.
    """
    credential = check(settings)
    try:
        with locked(settings.state / "agent.lock", wait=False):
            _Running(settings, credential, wall).until_stopped()
    except Locked:
        raise AgentError(
            f"{settings.state}: another agent runs with this state folder; there can be only one"
        ) from None


def check(settings: AgentSettings) -> str:
    """Whether an agent may run here: not as root, with a folder of its own, enrolled. Returns: its credential. SECRET.

    Raises: AgentError.
    """
    if os.geteuid() == 0:
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


class _Due:
    """A fake driver's timer has rung: its call belongs to the loop's thread."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call


class _Running:
    """An agent with its real drivers, between start and stop."""

    def __init__(self, settings: AgentSettings, credential: str, wall: Clock) -> None:
        self.settings, self.wall = settings, wall
        self.inbox: queue.SimpleQueue[Item | _Due] = queue.SimpleQueue()
        self.presence = _presence(settings)
        self.hypervisor, faults = _hypervisor(settings, self.inbox)
        self.signals = 0
        self.told: object = None
        self.told_at = wall()
        around = Around(
            now=steady_clock(wall),
            wall=wall,
            local=calendar(settings.zone),
            read_presence=self.presence.read,
            read_machine=lambda: read_machine(settings.state),
            hypervisor=self.hypervisor,
            store=FolderStore(settings.images, settings.state / "checked-images.json"),
            link=HttpsLink(settings.coordinator, ca_file(settings.state), settings.desktop, credential, self.inbox.put),
            aside=self._aside,
            leases=LeaseFile(settings.state / "leases.json"),
            faults=faults,
            changed=self._changed,
        )
        self.loop = Loop(
            around,
            settings.policy,
            settings.desktop,
            f"{wall():%Y%m%dT%H%M%S}-{secrets.token_hex(4)}",
            hold_seconds=settings.hold_seconds,
            sense_seconds=settings.sense_seconds,
            sense_seconds_at_rest=settings.sense_seconds_at_rest,
        )

    def until_stopped(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        self.presence.watch(lambda: self.inbox.put(Sense()))
        log.info("agent of %s runs, pid %d, hypervisor %s", self.settings.desktop, os.getpid(), self.hypervisor.name)
        try:
            while not (self.signals > 1 or (self.loop.desk.finishing and not self.loop.desk.vms)):
                self.loop.turn(self._next(self.loop.next_turn()))
            self._last_word()
        finally:
            self.presence.close()
            self.hypervisor.close()

    def _next(self, at: datetime) -> Item:
        wait = (at - self.loop.around.now()).total_seconds()
        return self._take(max(0.0, wait)) or Tick()

    def _take(self, seconds: float) -> Item | None:
        try:
            item = self.inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(item, _Due):
            item.call()
            return None
        return item

    def _last_word(self) -> None:
        """Let the last report, which says that the VMs have ended, arrive."""
        end = self.loop.around.now().timestamp() + LAST_WORD_SECONDS
        while self.loop.desk.ended and self.loop.around.now().timestamp() < end and self.signals < 2:
            if (item := self._take(0.2)) is not None:
                self.loop.turn(item)

    def _signalled(self, number: int, frame: object) -> None:
        self.signals += 1
        self.inbox.put(Stop(Reason("agent-stops", "The agent of this desktop was told to stop.")))

    def _aside(self, work: Callable[[], Item]) -> None:
        threading.Thread(target=lambda: self.inbox.put(work()), daemon=True).start()

    def _changed(self, desk: Desk) -> None:
        now = self.loop.around.now()
        told = [reason.name for reason in desk.availability.refusals], [(vm.id, vm.state) for vm in desk.vms.values()]
        if told != self.told or now - self.told_at > STATUS_EVERY:
            self.told, self.told_at = told, now
            status = status_of(self.settings.desktop, os.getpid(), self.wall(), desk)
            write_status(status_file(self.settings.state), status)


def _presence(settings: AgentSettings) -> Presence:
    kind, _, path = settings.presence.partition(":")
    if kind == "file":
        from deskgrid.presence.fake import FakePresence

        return FakePresence(Path(path))
    from deskgrid.presence.linux import LinuxPresence

    return LinuxPresence()


def _hypervisor(
    settings: AgentSettings, inbox: "queue.SimpleQueue[Item | _Due]"
) -> tuple[Hypervisor, Callable[[], tuple[Reason, ...]]]:
    if settings.hypervisor == "fake":
        return _fake_hypervisor(inbox.put, lambda call: inbox.put(_Due(call))), tuple
    from deskgrid.hypervisor.qemu import QemuHypervisor

    driver = QemuHypervisor(settings.state, inbox.put, idle_class=settings.idle_class)
    return driver, tuple


def _fake_hypervisor(emit: Callable[[Item], None], due: Callable[[Callable[[], None]], None]) -> Hypervisor:
    """Pretended VMs in this process, for tests and a first look: quick ones, which end with the agent."""
    from deskgrid.hypervisor.fake import FakeHypervisor, GuestBehaviour

    def later(seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, due, (call,))
        timer.daemon = True
        timer.start()

    quick = GuestBehaviour(start_seconds=0.2, alive_after_seconds=1.5, join_seconds=0.5, leave_seconds=0.2)
    return FakeHypervisor(emit, later, utc_now, default=quick)
