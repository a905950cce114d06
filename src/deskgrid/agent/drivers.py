"""The drivers of this desktop's agent, chosen by its settings; each is imported only when it is the one."""

import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from deskgrid.agent.clock import Clock, utc_now
from deskgrid.agent.inbox import Item
from deskgrid.agent.settings import AgentSettings, ca_file
from deskgrid.hypervisor.contract import Hypervisor
from deskgrid.images.contract import ImageStore
from deskgrid.model.policy import Machine, Policy
from deskgrid.presence.contract import SystemPresence

ReadMachine = Callable[[Policy], Machine]


class TimerRang:
    """A fake driver's timer has rung: its call belongs to the loop's thread."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call


Inbox = queue.SimpleQueue[Item | TimerRang]


class _Machine(Protocol):
    def read(self, policy: Policy) -> Machine: ...


def presence_of(settings: AgentSettings) -> tuple[SystemPresence, ReadMachine]:
    """What tells of the owner, and what reads the machine."""
    kind, _, path = settings.presence.partition(":")
    presence: SystemPresence
    if kind == "file":
        from deskgrid.presence.fake import FakePresence

        fake = presence = FakePresence(Path(path))
        reader = _machine(settings, fake.metered)
        return presence, lambda policy: fake.machine(reader.read(policy))
    presence = _own_presence()
    reader = _machine(settings, presence.metered)
    return presence, reader.read


def _own_presence() -> SystemPresence:
    """That of the system that we run on; docs/platforms.md says on which it ran."""
    if sys.platform == "win32":
        from deskgrid.presence.windows.presence import WindowsPresence

        return WindowsPresence()
    if sys.platform == "darwin":
        from deskgrid.presence.macos.presence import MacPresence

        return MacPresence()
    from deskgrid.presence.linux.presence import LinuxPresence

    return LinuxPresence()


def _machine(settings: AgentSettings, metered: Callable[[], bool | None]) -> _Machine:
    if sys.platform == "win32":
        from deskgrid.presence.machine import windows

        return windows.WindowsMachine(settings.state, metered=metered)
    if sys.platform == "darwin":
        from deskgrid.presence.machine import macos

        return macos.MacMachine(settings.state)
    from deskgrid.presence.machine import linux

    return linux.LinuxMachine(settings.state, metered=metered)


def hypervisor_of(settings: AgentSettings, inbox: Inbox) -> Hypervisor:
    """What runs virtual machines; what happens to them goes to the inbox."""
    if settings.hypervisor == "fake":
        return _fake_hypervisor(inbox.put, lambda call: inbox.put(TimerRang(call)))
    from deskgrid.hypervisor.qemu.driver import QemuHypervisor

    return QemuHypervisor(settings.state, inbox.put, idle_class=settings.idle_class)


def store_of(settings: AgentSettings, policy: Callable[[], Policy], wall: Clock) -> ImageStore:
    """This desktop's images; for pretended virtual machines, pretended ones."""
    if settings.hypervisor == "fake":
        from deskgrid.images.fake import FakeStore

        return FakeStore(settings.store, anything=True)
    from deskgrid.images.desktop import Allowance, DesktopStore, Origins
    from deskgrid.images.trust.values import TrustConfiguration

    def allowance() -> Allowance:
        now = policy()
        return Allowance(now.images_bytes, now.disk_floor_bytes, now.download_bytes_per_second)

    repository = settings.repository_url
    ours = repository.startswith(settings.coordinator)
    place = TrustConfiguration(
        settings.state / "trust",
        settings.root,
        repository,
        certificates=ca_file(settings.state) if ours else None,
    )
    return DesktopStore(Origins(settings.store, place, (repository,)), allowance, wall)


def _fake_hypervisor(emit: Callable[[Item], None], due: Callable[[Callable[[], None]], None]) -> Hypervisor:
    """Pretended VMs in this process, for tests and a first look: quick ones, which end with the agent."""
    from deskgrid.hypervisor.fake import FakeHypervisor
    from deskgrid.hypervisor.fake_guest import GuestBehaviour

    def later(seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, due, (call,))
        timer.daemon = True
        timer.start()

    quick = GuestBehaviour(start_seconds=0.2, alive_after_seconds=1.5, join_seconds=0.5, leave_seconds=0.2)
    return FakeHypervisor(emit, later, utc_now, default=quick)
