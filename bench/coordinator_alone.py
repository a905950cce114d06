"""The real coordinator service with a pool in memory, in a process of its own. Run by its text: imports only deskgrid.

Arguments: the settings' path, then names of images that jobs wait for without end.
"""

import sys
from pathlib import Path

from deskgrid.coordinator.service import run, utc_now
from deskgrid.coordinator.settings import read_settings
from deskgrid.model.pool import PoolSnapshot
from deskgrid.pool.fake import FakePool


class Crowded(FakePool):
    """Each question is a negotiation."""

    def snapshot(self) -> PoolSnapshot:
        """See Pool.snapshot."""
        self.negotiate()
        return super().snapshot()


def main(settings: str, *images: str) -> None:
    """Run until SIGTERM; say the address when it listens."""
    pool = Crowded(utc_now)
    for image in images:
        pool.submit(image, 1000)
    run(read_settings(Path(settings)), pool, lambda at: print(at.url, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
