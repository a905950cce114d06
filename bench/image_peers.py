"""What others move from one version of an image to the next: zchunk, casync, and the whole by zstd.

Rules:
- Each peer has the three files that a machine needs: disk, kernel, initial RAM disk.
- What a peer makes of a file is kept in the cache, by the file's sum: making it takes minutes.
- A peer's own client fetches over the slow link, from the same web server as ours; what it does then is not timed, but
  casync looks for chunks in the old file while it fetches.
- A peer that fails, or is not installed, costs its own column, with its words, and nothing else.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.link import Web
from bench.machine import CannotMeasure
from deskgrid.images.format.manifest import DISK, INITRD, KERNEL

FILES = (DISK, KERNEL, INITRD)
_MOST_SECONDS = 420.0
_PACK_SECONDS = 900.0
Say = Callable[[str], None]


class Peer(msgspec.Struct, frozen=True):
    """One of the others. pack, fetch: its programs with arguments, in which {…} are filled in.

    For both: out and file, old and new (what it made of the first and the second version), url (of the folder), seed
    (the first version's own file) and folder (where all that was made lies).
    """

    name: str
    suffix: str
    pack: tuple[str, ...]
    fetch: tuple[str, ...]


WHOLE = Peer("zstd", "zst", ("zstd", "-q", "-3", "-T2", "-o", "{out}", "{file}"), ("curl", "-sSf", "-O", "{url}/{new}"))
PEERS = (
    Peer("zchunk", "zck", ("zck", "-o", "{out}", "{file}"), ("zckdl", "-s", "{folder}/{old}", "{url}/{new}")),
    Peer(
        "casync",
        "caibx",
        ("casync", "make", "--store={folder}/castr", "{out}", "{file}"),
        ("casync", "extract", "--store={url}/castr", "--seed={seed}", "{url}/{new}", "new"),
    ),
    WHOLE,
)


class Moved(msgspec.Struct, frozen=True):
    """What a fetch took. bytes: that the server sent, headers included. fault: why it took nothing."""

    name: str
    bytes: int = 0
    seconds: float = 0.0
    requests: int = 0
    fault: str = ""

    @property
    def told(self) -> str:
        """For a note."""
        if self.fault:
            return f"{self.name} not measured: {self.fault}"
        return f"{self.name} {self.bytes / 1e6:.1f} MB, {self.seconds:.1f} s, {self.requests} requests"


class Peers:
    """The peers' files in the cache, below a folder that the web server serves as /peers."""

    def __init__(self, folder: Path, say: Say, peers: Sequence[Peer] = PEERS) -> None:
        self._folder, self._say, self._peers = folder, say, peers
        folder.mkdir(parents=True, exist_ok=True)

    def compare(self, web: Web, first: Path, second: Path) -> list[Moved]:
        """Pack both versions and fetch the second, with each peer. first, second: folders of built images."""
        self._forget(first, second)
        return [self._one(peer, web, first, second) for peer in self._peers]

    def download(self, web: Web, image: Path) -> Moved:
        """Pack an image as zstd and fetch the whole of it. Raises: CannotMeasure."""
        moved = self._one(WHOLE, web, image, image)
        if moved.fault:
            raise CannotMeasure(f"download of the whole: {moved.fault}")
        return moved

    def size(self, image: Path) -> int:
        """How long an image is as zstd, once it was packed."""
        return sum((self._folder / _made(image, file, WHOLE)).stat().st_size for file in FILES)

    def _one(self, peer: Peer, web: Web, first: Path, second: Path) -> Moved:
        try:
            for image in (first, second):
                for file in FILES:
                    self._pack(peer, image, file)
            self._say(f"{peer.name} fetches")
            moved = self._fetch(peer, web, first, second)
        except CannotMeasure as error:
            moved = Moved(peer.name, fault=str(error))
        self._say(moved.told)
        return moved

    def _pack(self, peer: Peer, image: Path, file: str) -> None:
        place = self._folder / _made(image, file, peer)
        if place.exists():
            return
        self._say(f"{peer.name} packs {file} of {image.name[:12]}…")
        half = place.with_name(f"half-{place.name}")
        half.unlink(missing_ok=True)
        words = {"out": str(half), "file": str(image / file), "folder": str(self._folder)}
        _run([word.format(**words) for word in peer.pack], self._folder, _PACK_SECONDS)
        half.rename(place)

    def _fetch(self, peer: Peer, web: Web, first: Path, second: Path) -> Moved:
        before, began = web.sent(), time.monotonic()
        for file in FILES:
            words = {
                "old": _made(first, file, peer),
                "new": _made(second, file, peer),
                "seed": str(first / file),
                "url": f"{web.url}/peers",
                "folder": str(self._folder),
            }
            with tempfile.TemporaryDirectory(prefix="deskgrid-bench-", dir=self._folder) as work:
                _run([word.format(**words) for word in peer.fetch], Path(work), _MOST_SECONDS)
        seconds, after = time.monotonic() - began, web.sent()
        return Moved(peer.name, after.bytes - before.bytes, seconds, after.requests - before.requests)

    def _forget(self, *images: Path) -> None:
        """Remove what is there of other images; casync's chunks are shared, so then all of them."""
        ours = {image.name[:16] for image in images}
        if any(path.is_file() and path.name[:16] not in ours for path in self._folder.iterdir()):
            shutil.rmtree(self._folder)
            self._folder.mkdir()


def _made(image: Path, file: str, peer: Peer) -> str:
    return f"{image.name[:16]}-{file}.{peer.suffix}"


def _run(argv: list[str], folder: Path, most_seconds: float) -> None:
    """Run one program of a peer's. Raises: CannotMeasure with its words."""
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, timeout=most_seconds, check=False)
    except FileNotFoundError:
        raise CannotMeasure(f"{argv[0]} is not installed (`tools/system-packages --bench`)") from None
    except subprocess.TimeoutExpired:
        raise CannotMeasure(f"{argv[0]} did not end in {most_seconds:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-200:]
        raise CannotMeasure(f"{' '.join(argv[:2])} ended with code {done.returncode}: {said or 'without a word'}")
