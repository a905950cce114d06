"""What the agent tells on its own desktop: to those who ask over the local socket, and in one small file for when it
is not there to be asked."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.agent.owner.usage import Gift
from deskgrid.core.desktop.state import AgentState, reports
from deskgrid.host.system import sandbox
from deskgrid.host.system.files import write_atomic
from deskgrid.model.desktop import Availability, Room, VmReport
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.model.values.moment import Moment
from deskgrid.model.values.numbers import Bytes, Cpus, Pid, Total
from deskgrid.model.values.outside import read_json
from deskgrid.model.wish import Wish


class Status(msgspec.Struct, frozen=True):
    """What runs here and why, or why nothing does.

    at: when this was so. go_on: why running VMs must stop, or None. sources: how the owner is seen; presence_faults:
    what could not be read of them. reached_at: when the coordinator last answered; link_fault: why it does not.
    wish: what accounts of this computer ask of the grid. faults: what is wrong with policy, wish or other files here.
    gift: what this desktop gave. cpus, memory_bytes: the computer's.
    cpu: by VM id, how many processors it uses now, where that is known. policy: what holds here. wall: what holds a
    guest that breaks out of its machine. zone: IANA name of the zone whose wall clock it goes by; empty: the computer's
    own.
    """

    desktop: str
    pid: Pid
    at: Moment
    availability: Availability
    room: Room
    vms: tuple[VmReport, ...]
    sources: tuple[str, ...]
    go_on: Reason | None = None
    reached_at: Moment | None = None
    link_fault: str = ""
    presence_faults: tuple[str, ...] = ()
    wish: Wish | None = None
    faults: tuple[str, ...] = ()
    gift: Gift | None = None
    cpus: Cpus = 0
    memory_bytes: Bytes = 0
    cpu: dict[str, Total] = {}
    policy: Policy | None = None
    wall: Reason | None = None
    zone: str = ""


def write_status(path: Path, status: Status) -> None:
    """Write the status. A full disk loses it silently: the next one comes."""
    try:
        write_atomic(path, msgspec.json.encode(status), 0o644)
    except OSError:
        return


def read_status(path: Path) -> Status | None:
    """Read the last status, or None when no agent has written one here."""
    try:
        return read_json(path.read_bytes(), type=Status)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None


def status_of(
    desktop: str,
    pid: int,
    at: datetime,
    state: AgentState,
    *,
    wish: Wish | None = None,
    faults: tuple[str, ...] = (),
    gift: Gift | None = None,
    cpu: Mapping[str, float] | None = None,
    reached_at: datetime | None = None,
    link_fault: str = "",
    zone: str = "",
) -> Status:
    """The status of an agent. What its state does not tell is given beside it; see `Status`."""
    reading, machine = state.sensed.reading, state.sensed.machine
    return Status(
        desktop,
        pid,
        at,
        state.availability,
        state.room,
        reports(state),
        reading.sources,
        state.standing.refusal,
        reached_at,
        link_fault,
        reading.faults,
        wish,
        faults,
        gift,
        machine.cpus,
        machine.memory_bytes,
        dict(cpu or {}),
        state.policy,
        sandbox.wall(),
        zone,
    )
