"""What others move from one version of an image to the next: zchunk, casync, and the whole by zstd.

Rules, told first
- Each peer has the three files that a machine needs: disk, kernel, initial RAM disk.
- What a peer makes of a file is kept in the cache, by the file's sum: making it takes minutes.
- A peer's own client fetches over the slow link, from the same web server as ours; what it does then is not timed, but
  casync looks for chunks in the old file while it fetches.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.link import Web
from deskgrid.images.manifest import DISK, INITRD, KERNEL

FILES = (DISK, KERNEL, INITRD)
_MOST_SECONDS = 420.0
Say = Callable[[str], None]


class Moved(msgspec.Struct, frozen=True):
    """What a fetch took. bytes: that the server sent, headers included."""

    name: str
    bytes: int
    seconds: float
    requests: int


class Peers:
    """The peers' files in the cache, below a folder that the web server serves as /peers."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder, self._say = folder, say
        folder.mkdir(parents=True, exist_ok=True)

    def make(self, *images: Path) -> None:
        """Make what is not there yet, and remove what is there of others. images: folders of built images."""
        ours = {image.name[:16] for image in images}
        stale = [path for path in self._folder.iterdir() if path.is_file() and path.name[:16] not in ours]
        if stale:
            shutil.rmtree(self._folder / "castr", ignore_errors=True)
            for path in (*stale, *self._folder.glob("*.caibx")):
                path.unlink(missing_ok=True)
        for image in images:
            for file in FILES:
                self._once(image, file, "zck", "zchunk", ["zck", "-o", "{out}", "{file}"])
                self._once(image, file, "zst", "zstd", ["zstd", "-q", "-3", "-T2", "-o", "{out}", "{file}"])
                store = f"--store={self._folder / 'castr'}"
                self._once(image, file, "caibx", "casync", ["casync", "make", store, "{out}", "{file}"])

    def fetch(self, web: Web, first: Path, second: Path) -> list[Moved]:
        """Fetch the second version with each client that is installed."""
        found = []
        for name, program, ask in (
            ("zchunk", "zckdl", self._zchunk),
            ("casync", "casync", self._casync),
            ("zstd", "curl", self._whole),
        ):
            if shutil.which(program) is None:
                continue
            self._say(f"{name} fetches")
            with tempfile.TemporaryDirectory(prefix="deskgrid-bench-", dir=self._folder) as work:
                before, began = web.sent(), time.monotonic()
                for file in FILES:
                    argv = ask(f"{web.url}/peers", first, second, file)
                    subprocess.run(argv, cwd=work, check=True, capture_output=True, timeout=_MOST_SECONDS)
                seconds = time.monotonic() - began
            after = web.sent()
            found.append(Moved(name, after.bytes - before.bytes, seconds, after.requests - before.requests))
            self._say(f"{name}: {found[-1].bytes / 1e6:.1f} MB in {seconds:.1f} s, {found[-1].requests} requests")
        return found

    def download(self, web: Web, image: Path) -> float:
        """Fetch the whole image as zstd. Returns: seconds."""
        began = time.monotonic()
        for file in FILES:
            with tempfile.TemporaryDirectory(prefix="deskgrid-bench-", dir=self._folder) as work:
                argv = self._whole(f"{web.url}/peers", image, image, file)
                subprocess.run(argv, cwd=work, check=True, capture_output=True, timeout=_MOST_SECONDS)
        return time.monotonic() - began

    def size(self, image: Path, suffix: str = "zst") -> int:
        """How long a peer's files of an image are."""
        return sum(self._place(image, file, suffix).stat().st_size for file in FILES)

    def _zchunk(self, url: str, first: Path, second: Path, file: str) -> list[str]:
        old, new = self._place(first, file, "zck"), self._place(second, file, "zck")
        return ["zckdl", "-s", str(old), f"{url}/{new.name}"]

    def _casync(self, url: str, first: Path, second: Path, file: str) -> list[str]:
        new = self._place(second, file, "caibx")
        return [
            "casync",
            "extract",
            f"--store={url}/castr",
            f"--seed={first / file}",
            f"{url}/{new.name}",
            f"new-{file}",
        ]

    def _whole(self, url: str, first: Path, second: Path, file: str) -> list[str]:
        return ["curl", "-sSf", "-o", file, f"{url}/{self._place(second, file, 'zst').name}"]

    def _once(self, image: Path, file: str, suffix: str, name: str, argv: list[str]) -> None:
        place = self._place(image, file, suffix)
        if place.exists() or shutil.which(argv[0]) is None:
            return
        self._say(f"{name} packs {file} of {image.name[:12]}…")
        half = place.with_name(f"half-{place.name}")
        half.unlink(missing_ok=True)
        words = [word.format(out=half, file=image / file) for word in argv]
        subprocess.run(words, check=True, capture_output=True, timeout=900)
        half.rename(place)

    def _place(self, image: Path, file: str, suffix: str) -> Path:
        return self._folder / f"{image.name[:16]}-{file}.{suffix}"
