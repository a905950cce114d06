"""The leases of running VMs, on disk: what an agent that was killed needs to go on with its VMs. No secrets.

How long a lease still held is kept, by the steady clock: the computer's own may have been set meanwhile. (After a start
of the computer the steady clock begins anew, and there is no VM.)
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from deskgrid.host.system.files import write_atomic
from deskgrid.host.system.steady import steady_seconds
from deskgrid.model.lease import Lease
from deskgrid.model.values.moment import Moment
from deskgrid.model.values.outside import read_json

_REWRITE_AFTER = timedelta(seconds=60)


class _Kept(msgspec.Struct, frozen=True):
    """What is in the file. at: when, by the clock of the leases; steady_seconds: by the steady one."""

    at: Moment
    steady_seconds: float
    leases: tuple[Lease, ...]


class LeaseFile:
    """`leases.json` in the agent's state folder; rewritten when the set changes or a renewal is worth it."""

    def __init__(self, path: Path, steady: Callable[[], float] = steady_seconds) -> None:
        self._path, self._steady = path, steady
        self._written: dict[str, Lease] = {}

    def read(self, now: datetime) -> dict[str, Lease]:
        """The leases by VM id; empty when there is no file. A file that is not ours to read counts as empty.

        now: by the agent's clock of today, to which the leases are moved.
        """
        try:
            kept = read_json(self._path.read_bytes(), type=_Kept)
        except (OSError, msgspec.DecodeError):
            return {}
        moved = now - kept.at - timedelta(seconds=max(0.0, self._steady() - kept.steady_seconds))
        return {lease.vm_id: _until(lease, lease.until + moved) for lease in kept.leases}

    def keep(self, leases: dict[str, Lease], now: datetime) -> None:
        """Make the file say `leases`, if it says something else by much. Raises: OSError when the disk is full."""
        same = leases.keys() == self._written.keys()
        if same and all(abs(leases[i].until - self._written[i].until) < _REWRITE_AFTER for i in leases):
            return
        write_atomic(self._path, msgspec.json.encode(_Kept(now, self._steady(), tuple(leases.values()))), 0o600)
        self._written = dict(leases)


def _until(lease: Lease, until: datetime) -> Lease:
    return msgspec.structs.replace(lease, until=until)
