"""The leases of running VMs, on disk: what an agent that was killed needs to go on with its VMs. No secrets."""

from datetime import timedelta
from pathlib import Path

import msgspec

from deskgrid.host.files import write_atomic
from deskgrid.model.lease import Lease

_REWRITE_AFTER = timedelta(seconds=60)


class LeaseFile:
    """`leases.json` in the agent's state folder; rewritten when the set changes or a renewal is worth it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: dict[str, Lease] = {}

    def read(self) -> dict[str, Lease]:
        """The leases by VM id; empty when there is no file. A file that is not ours to read counts as empty."""
        try:
            leases = msgspec.json.decode(self._path.read_bytes(), type=list[Lease])
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return {}
        return {lease.vm_id: lease for lease in leases}

    def keep(self, leases: dict[str, Lease]) -> None:
        """Make the file say `leases`, if it says something else by much. Raises: OSError when the disk is full."""
        same = leases.keys() == self._written.keys()
        if same and all(abs(leases[i].until - self._written[i].until) < _REWRITE_AFTER for i in leases):
            return
        write_atomic(self._path, msgspec.json.encode(list(leases.values())), 0o600)
        self._written = dict(leases)
