"""What the agent tells on its own desktop: one small file, whole at any time, for `deskgrid agent status`."""

from datetime import datetime
from pathlib import Path

import msgspec

from deskgrid.core.desk import Desk
from deskgrid.core.desk import reports as vm_reports
from deskgrid.host.files import write_atomic
from deskgrid.model.desktop import Availability, Room, VmReport
from deskgrid.model.reason import Reason


class Status(msgspec.Struct, frozen=True):
    """What runs here and why, or why nothing does. go_on: why running VMs must stop, or None."""

    desktop: str
    pid: int
    at: datetime
    availability: Availability
    room: Room
    vms: tuple[VmReport, ...]
    sources: tuple[str, ...]
    go_on: Reason | None = None
    reached_at: datetime | None = None
    link_fault: str = ""


def write_status(path: Path, status: Status) -> None:
    """Write the status. A full disk loses it silently: the next one comes."""
    try:
        write_atomic(path, msgspec.json.encode(status), 0o644)
    except OSError:
        return


def read_status(path: Path) -> Status | None:
    """Read the last status, or None when no agent has written one here."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except (OSError, msgspec.DecodeError):
        return None


def status_of(desktop: str, pid: int, at: datetime, desk: Desk) -> Status:
    """The status of a desk."""
    return Status(
        desktop, pid, at, desk.availability, desk.room, vm_reports(desk), desk.sensed.reading.sources, desk.go_on
    )
