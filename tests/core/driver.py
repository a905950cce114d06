"""A tiny simulated driver: processes with CPUs, that answers, fails, is silent, answers late or says things twice.

It keeps the contract of `hypervisor/contract.py`: PAUSE and KILL stop the CPUs whatever happened before; a stuck
process needs a second KILL to give its memory back; what was ordered to start may come up after the order to end it.
"""

import dataclasses
from enum import StrEnum

from deskgrid.core.desktop.advance import Act
from deskgrid.core.desktop.vm import Command, Event, Kind
from deskgrid.model.desktop import Fault

from .values import event

C, K = Command, Kind


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
        self.said: list[tuple[str, Event]] = []
        self.seen: list[tuple[str, Command]] = []

    def obey(self, act: Act) -> None:
        vm_id, process = act.vm_id, self.processes.get(act.vm_id)
        self.seen.append((vm_id, act.command))
        match act.command:
            case C.FETCH:
                self._say(vm_id, K.FETCHED)
            case C.START:
                self._start(vm_id)
            case C.PAUSE if process:
                process.cpus_run = False
            case C.RESUME if process:
                process.cpus_run, process.confined = True, False
            case C.VACATE if process:
                process.cpus_run, process.confined = True, True
                self._say(vm_id, K.LEFT)
            case C.KILL if process:
                process.cpus_run = False
                process.kills += 1
                if process.kills > 1 or vm_id not in self.stuck:
                    self.die(vm_id)

    def _start(self, vm_id: str) -> None:
        temper = self.tempers.get(vm_id, Temper.GOOD)
        if temper in (Temper.GOOD, Temper.SILENT):
            self.processes[vm_id] = Process()
        if temper in (Temper.GOOD, Temper.LATE):
            self._say(vm_id, K.STARTED, accelerator="kvm")
            self._say(vm_id, K.ALIVE)
        if temper is Temper.FAILS:
            self._say(vm_id, K.START_FAILED, fault=Fault.DESKTOP)

    def heard(self, vm_id: str, told: Event) -> None:
        """An event is on its way to the agent; what comes up late comes up now."""
        if told.kind is K.STARTED and self.tempers.get(vm_id) is Temper.LATE and vm_id not in self.processes:
            self.processes[vm_id] = Process()
            self.tempers[vm_id] = Temper.GOOD

    def die(self, vm_id: str) -> None:
        """Nothing of it is left."""
        del self.processes[vm_id]
        self._say(vm_id, K.GONE)

    def _say(self, vm_id: str, kind: Kind, **more: object) -> None:
        self.said.append((vm_id, event(kind, **more)))
