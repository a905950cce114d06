"""The file of VMs that have ended: HTCondor's collector takes no ad of theirs, whatever token they hold.

Rules:
- One line for each, as HTCondor reads its maps. The collector reads the file at its start and at condor_reconfig,
  if its time has changed: so each writing gives it a later time, in whole seconds.
- A line is kept for longer than any token lives, and then goes.
"""

import os
import threading
import time
from pathlib import Path

from deskgrid.host.system.files import write_atomic

KEEP_SECONDS = 86_400 + 3600
"""No token of a VM is valid for longer than a day (`guest.token_seconds`)."""


class EndedVms:
    """The file. Used from several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def add(self, vm_id: str) -> bool:
        """Name one more. Returns: whether it was not there. Raises: OSError."""
        with self._lock:
            now = int(time.time())
            known = self._read()
            if vm_id in known:
                return False
            kept = {name: at for name, at in known.items() if now - at < KEEP_SECONDS} | {vm_id: now}
            before = self._path.stat().st_mtime_ns // 10**9 if known else 0
            write_atomic(self._path, "".join(f"* {name} {at}\n" for name, at in kept.items()).encode(), 0o644)
            later = max(now, before + 1)
            os.utime(self._path, (later, later))
            return True

    def _read(self) -> dict[str, int]:
        try:
            rows = [line.split() for line in self._path.read_text().splitlines()]
        except FileNotFoundError:
            return {}
        return {row[1]: int(row[2]) for row in rows if len(row) == 3 and row[2].isascii() and row[2].isdigit()}
