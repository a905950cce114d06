"""A hypervisor without virtual machines: keeps the contract under any clock, real or simulated.

Rules:
- Time comes from outside: `now()` says it, `later(seconds, call)` comes back. Nothing happens between two calls.
- Events are never emitted inside a command, always from a later call, in the order in which things happened.
- A guest's time stands still while its VM is paused.
- What a guest does is data: one `GuestBehaviour` for each image, and a default.
- The VMs belong to a `FakeDesktop`, not to the driver: a driver may die, and the next one finds them by `observe`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial

from deskgrid.core.commands import Kill, Pause, Renew, Resume, ToVm, Vacate
from deskgrid.core.events import (
    Alive,
    FromHypervisor,
    Gone,
    GuestLeft,
    Happened,
    Joined,
    Paused,
    Started,
    StartFailed,
)
from deskgrid.hypervisor.contract import Emit
from deskgrid.hypervisor.fake_guest import GuestBehaviour, GuestTime, Later, Now
from deskgrid.wire.keeper import SILENCE_SECONDS_MAX, Observed, VmSpec

SILENCE_SECONDS = 4.0


class FakeVm:
    """One VM. stage: "starting", "running" or "over"."""

    def __init__(self, spec: VmSpec, behaviour: GuestBehaviour, time: GuestTime, started_at: datetime) -> None:
        self.spec = spec
        self.behaviour = behaviour
        self.started_at = started_at
        self.stage = "starting"
        self.accelerator = ""
        self.paused = self.confined = self.ran = self.alive = self.left = self.asked = False
        self.driver: FakeHypervisor | None = None
        self.unheard: list[FromHypervisor] = []
        self.time = time
        self.token = spec.instance.token

    @property
    def id(self) -> str:
        """Its id, for life."""
        return self.spec.vm_id


class FakeDesktop:
    """The machine that VMs run on; outlives drivers. accelerators: what it offers, best first."""

    def __init__(self, accelerators: tuple[str, ...] = ("fake",)) -> None:
        self.accelerators = accelerators
        self.known_good: set[str] = set()
        self.distrusted: set[str] = set()
        self.vms: dict[str, FakeVm] = {}
        self.ended: set[str] = set()
        self.heard_at = self.quiet_until = datetime.min.replace(tzinfo=UTC)
        self.cpus: int | None = None

    def usable(self) -> tuple[str, ...]:
        """The accelerators that are not distrusted; the last one never is."""
        *better, last = self.accelerators
        return (*(name for name in better if name not in self.distrusted), last)


class FakeHypervisor:
    """Runs pretended VMs; see `contract.Hypervisor` for what each method promises."""

    name = "fake"

    def __init__(
        self,
        emit: Emit,
        later: Later,
        now: Now,
        *,
        desktop: FakeDesktop | None = None,
        behaviours: Mapping[str, GuestBehaviour] | None = None,
        default: GuestBehaviour | None = None,
        silence_seconds: float | None = SILENCE_SECONDS,
    ) -> None:
        """Start nothing.

        Args:
            emit: takes the events.
            later: calls back after so many seconds; its answer is not used.
            now: the time, aware.
            desktop: where the VMs live; give the same one to the next driver.
            behaviours: by image name. default: of all other images.
            silence_seconds: VMs end after this time without a heartbeat; None: never (long simulations).
        """
        self._emit = emit
        self._later = later
        self._now = now
        self.desktop = desktop if desktop is not None else FakeDesktop()
        self.desktop.heard_at = now()
        self._behaviours = behaviours if behaviours is not None else {}
        self._default = default if default is not None else GuestBehaviour()
        self._silence_seconds = silence_seconds
        self._closed = False

    # -- commands ---------------------------------------------------------------------------------------------

    def start(self, spec: VmSpec) -> None:
        """Start a VM. Events: Started, then Alive, Joined; or StartFailed."""
        if self._closed or spec.vm_id in self.desktop.vms or spec.vm_id in self.desktop.ended:
            return
        behaviour = self._behaviours.get(spec.image.ref.name, self._default)
        vm = FakeVm(spec, behaviour, GuestTime(self._later, self._now), self._now())
        vm.driver = self
        self.desktop.vms[vm.id] = vm
        self.heartbeat()
        if self._silence_seconds is not None:
            self._later(self._silence_seconds, partial(self._watch, vm, self._silence_seconds))
        self._later(vm.behaviour.start_seconds, partial(self._started, vm))

    def order(self, vm_id: str, command: ToVm) -> None:
        """Pass a command on to a VM."""
        vm = self.desktop.vms.get(vm_id)
        if vm is None or vm.stage == "over" or self._closed:
            return
        match command:
            case Pause():
                vm.paused = True
                self._stop(vm)
            case Resume():
                vm.paused = vm.confined = False
                self._obey_limit(vm)
            case Vacate():
                self._vacate(vm)
            case Renew(token):
                vm.token = token
            case Kill():
                self._end(vm, Gone(True, "it was ended as ordered"), vm.behaviour.kill_seconds)

    def _stop(self, vm: FakeVm) -> None:
        vm.time.stop()
        if vm.ran:
            self._tell(vm, Paused(0.0))

    def limit(self, cpus: int) -> None:
        """All VMs together run on at most so many cores from now on."""
        if self._closed or cpus == self.desktop.cpus:
            return
        self.desktop.cpus = cpus
        for vm in self.desktop.vms.values():
            if vm.stage != "over":
                self._obey_limit(vm)

    def _obey_limit(self, vm: FakeVm) -> None:
        if self._may_run(vm):
            self._go_on(vm)
        elif not vm.paused:
            self._stop(vm)

    def _may_run(self, vm: FakeVm) -> bool:
        return not vm.paused and (vm.confined or self.desktop.cpus != 0)

    def _vacate(self, vm: FakeVm) -> None:
        vm.paused, vm.confined = False, True
        self._go_on(vm)
        if not vm.alive:
            self._leaves(vm, GuestLeft("asked", "it had not come up yet, so there was nothing to vacate"))
        elif not vm.asked and vm.behaviour.leave_seconds is not None:
            vm.asked = True
            left = GuestLeft("asked", "it has vacated its jobs")
            vm.time.plan(vm.behaviour.leave_seconds, partial(self._leaves, vm, left))

    def proven(self) -> frozenset[str]:
        """The accelerators on which a guest has lived."""
        return frozenset(self.desktop.known_good)

    def prove(self, accelerator: str) -> None:
        """A guest has lived on it."""
        self.desktop.known_good.add(accelerator)

    def distrust(self, accelerator: str) -> None:
        """Do not use it again on this desktop."""
        self.desktop.distrusted.add(accelerator)

    def heartbeat(self) -> None:
        """Tell all VMs that the agent is alive."""
        if not self._closed:
            self.desktop.heard_at = self.desktop.quiet_until = self._now()

    def hand_over(self, seconds: float) -> None:
        """The agent is about to be replaced: VMs wait `seconds` for the next one."""
        if not self._closed:
            self.desktop.quiet_until = self._now() + timedelta(seconds=min(max(seconds, 0.0), SILENCE_SECONDS_MAX))

    def cpu_seconds(self) -> dict[str, float]:
        """One processor for as long as a VM is there, as the fake has no other."""
        now = self._now()
        return {vm.id: (now - vm.started_at).total_seconds() for vm in self.desktop.vms.values()}

    def observe(self) -> list[Observed]:
        """The VMs that run now; attaches to them."""
        self.heartbeat()
        running = list(self.desktop.vms.values())
        for vm in running:
            if vm.driver is not self:
                vm.driver = self
                if vm.unheard:
                    self._later(0.0, partial(self._deliver, vm))
        return [
            Observed(
                vm_id=vm.id,
                image=vm.spec.image.ref,
                size=vm.spec.size,
                desktop=vm.spec.instance.desktop,
                started_at=vm.started_at,
                accelerator=vm.accelerator,
                paused=not self._may_run(vm),
                alive=vm.alive,
            )
            for vm in running
            if vm.stage != "over"
        ]

    def close(self) -> None:
        """Let go of all VMs without ending them."""
        self._closed = True
        for vm in self.desktop.vms.values():
            if vm.driver is self:
                vm.driver = None

    # -- what VMs do ------------------------------------------------------------------------------------------

    def _started(self, vm: FakeVm) -> None:
        if vm.stage != "starting":
            return
        behaviour = vm.behaviour
        if behaviour.start_fault is not None:
            self._end(vm, StartFailed(behaviour.start_fault, "it could not be started"), 0.0)
            return
        vm.stage = "running"
        vm.accelerator = self.desktop.usable()[0]
        if behaviour.alive_after_seconds is not None and vm.accelerator not in behaviour.silent_on:
            vm.time.plan(behaviour.alive_after_seconds, partial(self._comes_alive, vm))
        if behaviour.ends_after_seconds is not None:
            gone = Gone(False, behaviour.ends_with)
            vm.time.plan(behaviour.ends_after_seconds, partial(self._end, vm, gone, 0.0))
        self._go_on(vm)

    def _go_on(self, vm: FakeVm) -> None:
        if not self._may_run(vm) or vm.stage != "running":
            return
        if not vm.ran:
            vm.ran = True
            self._tell(vm, Started(vm.accelerator))
        vm.time.go()

    def _comes_alive(self, vm: FakeVm) -> None:
        vm.alive = True
        self._tell(vm, Alive())
        if vm.behaviour.join_seconds is not None:
            vm.time.plan(vm.behaviour.join_seconds, partial(self._joins, vm))

    def _joins(self, vm: FakeVm) -> None:
        self._tell(vm, Joined())
        if vm.behaviour.leaves_after_seconds is not None:
            left = GuestLeft(vm.behaviour.leaves_as, "it left by itself")
            vm.time.plan(vm.behaviour.leaves_after_seconds, partial(self._leaves, vm, left))

    def _leaves(self, vm: FakeVm, event: GuestLeft) -> None:
        if not vm.left:
            vm.left = True
            self._tell(vm, event)

    def _end(self, vm: FakeVm, last: Gone | StartFailed, seconds: float) -> None:
        if vm.stage == "over":
            return
        vm.stage = "over"
        vm.time.end()
        self._later(seconds, partial(self._bury, vm, last))

    def _bury(self, vm: FakeVm, last: Gone | StartFailed) -> None:
        self.desktop.ended.add(vm.id)
        self._tell(vm, last)

    def _tell(self, vm: FakeVm, event: FromHypervisor) -> None:
        """Emit an event soon, or tell the next driver."""
        vm.unheard.append(event)
        self._later(0.0, partial(self._deliver, vm))

    def _deliver(self, vm: FakeVm) -> None:
        if vm.driver is None:
            return
        unheard, vm.unheard = vm.unheard, []
        for event in unheard:
            if isinstance(event, Gone | StartFailed):
                self.desktop.vms.pop(vm.id, None)
            vm.driver._emit(Happened(vm.id, event))

    def _watch(self, vm: FakeVm, silence_seconds: float) -> None:
        """End a VM that nobody tends; forget one whose end nobody wants to hear."""
        if self.desktop.vms.get(vm.id) is not vm:
            return
        until = max(self.desktop.heard_at + timedelta(seconds=silence_seconds), self.desktop.quiet_until)
        left_seconds = (until - self._now()).total_seconds()
        if left_seconds > 0:
            self._later(min(left_seconds, silence_seconds), partial(self._watch, vm, silence_seconds))
        elif vm.stage == "over":
            if vm.driver is None:
                del self.desktop.vms[vm.id]
        else:
            self._end(vm, Gone(False, "its agent was silent for too long"), vm.behaviour.kill_seconds)
            self._later(silence_seconds, partial(self._watch, vm, silence_seconds))
