"""What the agent tells on its own desktop: to those who ask over the local socket, and in one small file for when it
is not there to be asked."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.core.desktop.state import AgentState, reports
from deskgrid.host.system import sandbox
from deskgrid.host.system.files import write_atomic
from deskgrid.model.values.outside import read_json
from deskgrid.model.wish import Wish
from deskgrid.wire.local import Gift, Status


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
