"""What images take on a desktop's disk, counted now and then."""

import os
import time
from contextlib import suppress
from pathlib import Path

EVERY_SECONDS = 60.0


class Weighed:
    """The disk space of a folder of images; a file that is linked several times counts once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bytes, self._at = 0, -EVERY_SECONDS

    def bytes(self) -> int:
        """What was counted last, at most a minute ago."""
        now = time.monotonic()
        if now - self._at >= EVERY_SECONDS:
            self._bytes, self._at = self._count(), now
        return self._bytes

    def _count(self) -> int:
        seen: dict[int, int] = {}
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with suppress(OSError):
                    found = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118
                    seen[found.st_ino] = found.st_blocks * 512
        return sum(seen.values())
