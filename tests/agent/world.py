"""One desktop in a simulated world: a virtual clock, the real loop, the fakes that ship, a line that misbehaves.

`Time` runs what is due in order. `Line` carries reports to an `Office` and answers back: in order, or as a test wants.
The office keeps the wire's promises as a coordinator does, with lists in place of a database.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from deskgrid.agent.inbox import Answered, Item, LinkDown, Sense
from deskgrid.agent.leases import LeaseFile
from deskgrid.agent.loop import Loop
from deskgrid.agent.ports import Ports
from deskgrid.core.desktop.inputs import Ticked
from deskgrid.hypervisor.fake import FakeDesktop, FakeHypervisor
from deskgrid.hypervisor.fake_guest import GuestBehaviour
from deskgrid.images.fake import FakeStore
from deskgrid.model.desktop import Transition, VmReport
from deskgrid.model.image import ImageFacts, ImageRef
from deskgrid.model.instance import InstanceData
from deskgrid.model.lease import Lease, Size
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.model.reason import Reason
from deskgrid.presence.fake import AWAY, PRESENT, FakePresence, Owner
from deskgrid.wire.messages import Answer, Order, Report

START = datetime(2026, 3, 3, 20, 0, tzinfo=UTC)
IMAGE = ImageRef("its-sl6", "a" * 64)
FACTS = ImageFacts(IMAGE, GIB, 4 * GIB)
ROOMY = Machine(8, 16 * GIB, 14 * GIB, 100 * GIB)
SMALL = Size(1, GIB)
DEFAULT, GUEST = Policy(), GuestBehaviour()
SECRET = "s3cret-token"


class Time:
    """A clock that moves only when told, and what is to happen when."""

    def __init__(self) -> None:
        self.at = START
        self._number = itertools.count()
        self._plans: list[tuple[datetime, int, Callable[[], object]]] = []

    def now(self) -> datetime:
        return self.at

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        heapq.heappush(self._plans, (self.at + timedelta(seconds=seconds), next(self._number), call))

    def pass_(self, seconds: float) -> None:
        end = self.at + timedelta(seconds=seconds)
        while self._plans and self._plans[0][0] <= end:
            self.at, _, call = heapq.heappop(self._plans)
            call()
        self.at = end


class Office:
    """What a coordinator promises on the wire. skew: its clock minus the desktop's."""

    def __init__(self, time: Time, skew: timedelta = timedelta(0)) -> None:
        self.time, self.skew = time, skew
        self.wanted: dict[str, Lease] = {}
        self.reports: list[Report] = []
        self.ended: list[VmReport] = []
        self.story: list[Transition] = []
        self.shown: set[str] = set()
        self.newest: dict[str, int] = {}
        self.renewed: dict[str, str] = {}
        self.lease_seconds = 300.0
        self.report_seconds = 20.0

    def now(self) -> datetime:
        return self.time.now() + self.skew

    def want(self, vm_id: str = "vm-1", size: Size = SMALL) -> None:
        now = self.now()
        self.wanted[vm_id] = Lease(vm_id, "desk-1", IMAGE, size, now, now, Reason("demand", "A job waits."))

    def answer(self, report: Report) -> Answer:
        """Take in and answer, as often and in whatever order reports come."""
        self.reports.append(report)
        fresh = report.sequence > self.newest.get(report.incarnation, 0)
        if fresh:
            self.newest[report.incarnation] = report.sequence
            self.shown |= {vm.vm_id for vm in report.vms}
        for vm in report.ended:
            self.wanted.pop(vm.vm_id, None)
            if vm.vm_id not in {known.vm_id for known in self.ended}:
                self.ended.append(vm)
        self.story += [line for line in report.story if line not in self.story]
        return Answer(
            to=report.sequence,
            now=self.now(),
            orders=tuple(self._order(lease, report) for lease in self.wanted.values()),
            next_report_seconds=self.report_seconds,
            acknowledged=tuple(vm.vm_id for vm in report.ended),
            story_count=len(report.story),
        )

    def _order(self, lease: Lease, report: Report) -> Order:
        lease = msgspec.structs.replace(lease, until=self.now() + timedelta(seconds=self.lease_seconds))
        if lease.vm_id in self.shown:
            return Order(lease, token=self.renewed.get(lease.vm_id, ""))
        data = InstanceData(lease.vm_id, IMAGE.name, "desk-1", "head:9618", SECRET, "grid", 1, 1024)
        return Order(lease, data)

    def states(self, vm_id: str = "vm-1") -> list[str]:
        """The states that the recorded story tells, without what is only noted."""
        return [line.state for line in self.story if line.vm_id == vm_id and line.event not in ("joined", "stopped")]


class Line:
    """A `Link` to the office.

    fate: for each report, the delays in seconds after which it arrives (none: it is lost; two: it comes twice),
    and the delay of each answer (none: lost).
    """

    def __init__(self, time: Time, office: Office, put: Callable[[Item], None]) -> None:
        self.time, self.office, self.put = time, office, put
        self.down = ""
        self.fate: Callable[[Report], tuple[Iterable[float], Iterable[float]]] = lambda report: ((0.01,), (0.01,))
        self.said: list[Report] = []

    def say(self, report: Report) -> None:
        decoded = msgspec.json.decode(msgspec.json.encode(report), type=Report)
        self.said.append(decoded)
        if self.down:
            sentence = self.down
            self.time.later(0.02, lambda: self.put(LinkDown(report.sequence, sentence)))
            return
        there, back = self.fate(report)
        there, back = tuple(there), tuple(back)
        for delay in there:
            self.time.later(delay, lambda: self._arrive(decoded, back))
        if not there or not back:
            self.time.later(30.0, lambda: self.put(LinkDown(report.sequence, "no answer in time")))

    def _arrive(self, report: Report, back: tuple[float, ...]) -> None:
        answer = msgspec.json.decode(msgspec.json.encode(self.office.answer(report)), type=Answer)
        for delay in back:
            self.time.later(delay, lambda: self.put(Answered(answer)))


class World:
    """A desktop and all that is around it."""

    def __init__(
        self,
        folder: Path,
        policy: Policy = DEFAULT,
        guest: GuestBehaviour = GUEST,
        owner: Owner = AWAY,
        held: Iterable[ImageFacts] = (FACTS,),
        skew: timedelta = timedelta(0),
        accelerators: tuple[str, ...] = ("fake",),
        store: type[FakeStore] = FakeStore,
        **settings: object,
    ) -> None:
        self.folder, self.policy, self.guest, self.settings = folder, policy, guest, settings
        self.time = Time()
        self.office = Office(self.time, skew)
        self.presence = FakePresence(owner=owner, clock=lambda: self.time.now().timestamp())
        self.machine = ROOMY
        self.iron = FakeDesktop(accelerators)
        self.store = store(folder / "images", held, fetchable=(FACTS,))
        self.fetch_seconds = 0.5
        self.faults: tuple[Reason, ...] = ()
        self.incarnation = 0
        self.changes = 0
        self.more: dict[str, Any] = {}
        self.wake()

    def wake(self) -> None:
        """A new life of the agent; the machine and its VMs are what they were."""
        self.incarnation += 1
        life = self.incarnation

        def put(item: Item) -> None:
            self.time.later(0.0, lambda: self._turn(item, life))

        self.hypervisor = FakeHypervisor(put, self.time.later, self.time.now, desktop=self.iron, default=self.guest)
        self.line = Line(self.time, self.office, put)
        surroundings: dict[str, Any] = {
            "now": self.time.now,
            "wall": self.time.now,
            "local": self.time.now,
            "read_presence": self.presence.read,
            "read_machine": lambda policy: self.machine,
            "hypervisor": self.hypervisor,
            "store": self.store,
            "link": self.line,
            "aside": lambda work: self.time.later(self.fetch_seconds, lambda: put(work())),
            "leases": LeaseFile(self.folder / "leases.json", lambda: self.time.at.timestamp()),
            "faults": lambda: self.faults,
            "changed": self._changed,
        }
        ports = Ports(**{**surroundings, **self.more})
        more = {"jitter": lambda: 1.0, "hold_seconds": 0.0, **self.settings}
        self.loop = Loop(ports, self.policy, "desk-1", f"life-{life}", **more)
        self.put = put
        self._alarm(life)

    def die(self) -> None:
        """kill -9 of the agent."""
        self.incarnation += 1
        self.hypervisor.close()

    def owner(self, owner: Owner) -> None:
        """The owner comes or goes, and the driver tells at once."""
        self.presence.set(owner)
        self.put(Sense())

    def comes(self) -> None:
        self.owner(PRESENT)

    def goes(self) -> None:
        self.owner(AWAY)

    def pass_(self, seconds: float) -> None:
        self.time.pass_(seconds)

    def running(self, vm_id: str = "vm-1") -> bool:
        """Whether the VM's processors run."""
        vm = self.iron.vms.get(vm_id)
        return vm is not None and vm.stage == "running" and not vm.paused

    def there(self, vm_id: str = "vm-1") -> bool:
        """Whether anything of the VM is left."""
        vm = self.iron.vms.get(vm_id)
        return vm is not None and vm.stage != "over"

    def up(self, vm_id: str = "vm-1") -> None:
        """Want a VM and let it come up."""
        self.office.want(vm_id)
        self.pass_(60.0)
        assert self.loop.state.vms[vm_id].state == "running"

    def _turn(self, item: Item, life: int) -> None:
        if life == self.incarnation:
            self.loop.turn(item)
            self._alarm(life)

    def _alarm(self, life: int) -> None:
        at = self.loop.next_turn()
        self._next = at
        self.time.later(max(0.0, (at - self.time.now()).total_seconds()), lambda: self._ring(at, life))

    def _ring(self, at: datetime, life: int) -> None:
        if life == self.incarnation and at == self._next:
            self._turn(Ticked(), life)

    def _changed(self, state: object) -> None:
        self.changes += 1
