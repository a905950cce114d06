"""The contract that every hypervisor driver keeps; `tests/contracts/test_hypervisor.py` holds the fake and QEMU to it.

Commands return at once (within milliseconds) and never raise for what the VM does; what comes of them is emitted as
events (`core/events.py`) through the `emit` callable that the driver was made with, from any thread. The order of one
VM's events is the order in which things happened to it.
"""

from collections.abc import Callable
from typing import Protocol

from deskgrid.core.commands import ToVm
from deskgrid.core.events import Happened
from deskgrid.wire.keeper import Observed, VmSpec

Emit = Callable[[Happened], None]


class Hypervisor(Protocol):
    """Runs virtual machines on this desktop.

    A driver MUST
    - take every command at any time: an unknown or ended VM, a repeated command or one out of order is no error and
      does nothing;
    - pause within 200 ms: after `Pause`, no processor of the VM runs;
    - on `Vacate`: confine the VM to one core in the idle class, let it run, and ask the guest to leave;
    - after `limit`: run all VMs of this desktop together on at most so many cores, those that start later and those
      that are found again too;
    - on `Kill`: end the VM within a second whatever the guest does, paused or not, then emit Gone;
    - leave nothing when it emits StartFailed or Gone: no process, no overlay, no socket;
    - end a VM within 5 s when nobody has called `heartbeat` for it (the agent died), later only if `hand_over` has
      announced that; and when the agent comes back in time, find it again by `observe`;
    - hold no secret in argv, environment, logs or on a disk in the clear.
    """

    name: str

    def start(self, spec: VmSpec) -> None:
        """Start a VM. Events: Started, then Alive, Joined; or StartFailed."""

    def order(self, vm_id: str, command: ToVm) -> None:
        """Pass a command on to a VM; `core/commands.py` says what comes back."""

    def limit(self, cpus: int) -> None:
        """All VMs of this desktop together run on at most so many cores from now on; before the first call: on all.

        0: none of them runs until the limit is raised, even if it is resumed meanwhile; a VM that leaves (`Vacate`)
        runs confined all the same. Events: Paused, for those that ran.
        """

    def proven(self) -> frozenset[str]:
        """The accelerators on which a guest has lived on this machine, as remembered on disk; quick."""

    def prove(self, accelerator: str) -> None:
        """A guest has lived on this accelerator: remember it."""

    def distrust(self, accelerator: str) -> None:
        """Do not use this accelerator again on this machine (remembered)."""

    def heartbeat(self) -> None:
        """Tell all VMs that the agent is alive; called at least once a second."""

    def hand_over(self, seconds: float) -> None:
        """The agent is about to be replaced: VMs wait `seconds` for the next one, at most 60 s. Then call `close`."""

    def cpu_seconds(self) -> dict[str, float]:
        """What each VM has used of processors since its start, where that is known; quick."""

    def observe(self) -> list[Observed]:
        """The VMs that run now, found from their processes; attaches to them, so that their events come here."""

    def close(self) -> None:
        """Let go of all VMs without ending them (their keepers end them in 5 s unless another driver attaches)."""
