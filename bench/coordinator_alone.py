"""The real coordinator service with a pool in memory, in a process of its own. Run by its text, with copies of what
BESIDE names: it imports nothing else but deskgrid.

Arguments: the settings' path, and a file with the name of the image that jobs wait for without end; it may change.
"""

import sys
from pathlib import Path

from deskgrid.coordinator.service import run, utc_now
from deskgrid.coordinator.settings import read_settings
from deskgrid.model.pool import PoolSnapshot
from tests.pool import fake, fake_world
from tests.pool.fake import FakePool

BESIDE = (fake, fake_world)
JOBS = 1000


class Crowded(FakePool):
    """Each question is a negotiation. wanted: the file."""

    def __init__(self, wanted: Path) -> None:
        super().__init__(utc_now)
        self._wanted, self._image = wanted, ""
        self._jobs: tuple[str, ...] = ()

    def snapshot(self) -> PoolSnapshot:
        """See Pool.snapshot."""
        image = self._wanted.read_text() if self._wanted.exists() else ""
        if image != self._image:
            for job in self._jobs:
                self.remove(job)
            self._image, self._jobs = image, self.submit(image, JOBS) if image else ()
        self.negotiate()
        return super().snapshot()


def main(settings: str, wanted: str) -> None:
    """Run until SIGTERM; say the address when it listens."""
    run(read_settings(Path(settings)), Crowded(Path(wanted)), lambda at: print(at.url, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
