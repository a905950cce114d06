"""A tiny simulated driver: processes with CPUs, that answers, fails, is silent, answers late or says things twice.

It keeps the contract of `hypervisor/contract.py`: Pause and Kill stop the CPUs whatever happened before; a stuck
process needs a second Kill to give its memory back; what was ordered to start may come up after the order to end it.
"""

import dataclasses
from enum import StrEnum

from deskgrid.core.commands import Command, Fetch, Kill, Pause, Resume, Start, Vacate
from deskgrid.core.desktop.inputs import Act
from deskgrid.core.events import Alive, AnyEvent, Event, Fetched, Gone, GuestLeft, Started, StartFailed
from deskgrid.model.desktop import Fault

from .values import event


class Temper(StrEnum):
    """How the start of a VM will go."""

    GOOD = "good"
    SILENT = "silent"  # it runs, and never says so
    LATE = "late"  # it comes up only when it says so, whatever was ordered meanwhile
    FAILS = "fails"
    NOTHING = "nothing"  # no process, no word


@dataclasses.dataclass
class Process:
    """What there is of a VM on the machine."""

    cpus_run: bool = True
    confined: bool = False
    kills: int = 0


class Driver:
    """Carries commands out. `said`: events to be heard, by VM; `seen`: every order ever given."""

    def __init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.tempers: dict[str, Temper] = {}
        self.stuck: set[str] = set()
        self.said: list[tuple[str, AnyEvent]] = []
        self.seen: list[tuple[str, type[Command]]] = []

    def obey(self, act: Act) -> None:
        vm_id, process = act.vm_id, self.processes.get(act.vm_id)
        self.seen.append((vm_id, type(act.command)))
        match act.command:
            case Fetch():
                self._say(vm_id, Fetched)
            case Start():
                self._start(vm_id)
            case Pause() if process:
                process.cpus_run = False
            case Resume() if process:
                process.cpus_run, process.confined = True, False
            case Vacate() if process:
                process.cpus_run, process.confined = True, True
                self._say(vm_id, GuestLeft)
            case Kill() if process:
                process.cpus_run = False
                process.kills += 1
                if process.kills > 1 or vm_id not in self.stuck:
                    self.die(vm_id)

    def _start(self, vm_id: str) -> None:
        temper = self.tempers.get(vm_id, Temper.GOOD)
        if temper in (Temper.GOOD, Temper.SILENT):
            self.processes[vm_id] = Process()
        if temper in (Temper.GOOD, Temper.LATE):
            self._say(vm_id, Started, accelerator="kvm")
            self._say(vm_id, Alive)
        if temper is Temper.FAILS:
            self._say(vm_id, StartFailed, fault=Fault.DESKTOP)

    def heard(self, vm_id: str, told: AnyEvent) -> None:
        """An event is on its way to the agent; what comes up late comes up now."""
        if isinstance(told, Started) and self.tempers.get(vm_id) is Temper.LATE and vm_id not in self.processes:
            self.processes[vm_id] = Process()
            self.tempers[vm_id] = Temper.GOOD

    def die(self, vm_id: str) -> None:
        """Nothing of it is left."""
        del self.processes[vm_id]
        self._say(vm_id, Gone)

    def _say(self, vm_id: str, kind: type[Event], **more: object) -> None:
        self.said.append((vm_id, event(kind, **more)))
