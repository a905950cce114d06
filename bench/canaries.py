"""Plaintext canaries: what must never lie in a file of a desktop, looked for in all of its files, running and killed.

Rules:
- Looked through are: what the desktop's account has below the folders that are named, every file of that account in the
  places for passing files (/tmp, /dev/shm and the like), and the files that its processes hold open, deleted ones too.
- Files in memory (memfd) are memory, not files. Holes of sparse files are not read. Swap is not looked at.
- What is looked for is in the clear somewhere: the image's own files, the coordinator's keys, the keeper's memory. A
  search that would not find them there is an error, not a good figure.
"""

import base64
import hashlib
import os
import random
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec
import psutil
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.figure import Figure, Load, measured
from bench.fleet import Fleet
from bench.ground import Ground
from bench.guest import MIB, OUTPUT, SECRETIVE
from bench.machine import CannotMeasure
from deskgrid.images.format.manifest import DISK, INITRD, KERNEL

NAMES = ("plaintext_canaries_found",)
SHARED = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path("/run"))
VICTIMS = ("serve", "qemu", "keeper", "agent")
DESKTOP = "canary"
_ELSEWHERE = ("images", "signers", "coordinator")
"""What is on other computers: those who build and sign, and the coordinator."""
_PIECE_BYTES = 48
_CHUNK_BYTES = 8 << 20
_DISTINCT = 24
"""So many different bytes a piece of a file must have: zeros and tables are everywhere."""


class Canary(msgspec.Struct, frozen=True):
    """What is looked for. name: what it is of."""

    name: str
    content: bytes


class Found(msgspec.Struct, frozen=True):
    """A canary in the clear."""

    name: str
    place: str


def run(ground: Ground, load: Load, victims: Sequence[str] = VICTIMS) -> list[Figure]:
    """Run a machine for each of the victims, search, kill it, search again. Raises: CannotMeasure, DemoError."""
    if os.geteuid() != 0:
        raise CannotMeasure("only root can find the key of a machine's disk, to look for it")
    since = time.time()
    fleet = Fleet(ground, SECRETIVE)
    fleet.want(SECRETIVE)
    agent = fleet.start_desktop(DESKTOP, 0, disk_mib=64)
    runs, looked_for = list[float](), set[str]()
    fleet.owner(DESKTOP, "away")
    for victim in victims:
        vm_id, qemu = fleet.machine(DESKTOP, "joined")
        overlay = overlay_of(qemu)
        ground.until(f"{vm_id} to have written", 60, partial(_grown, overlay))
        keeper = psutil.Process(qemu.ppid())
        wanted = [*_of_ground(ground, vm_id), *overlay_keys(keeper.pid, overlay)]
        found = count(wanted, _places(ground, since, agent))
        processes = {"agent": psutil.Process(agent), "keeper": keeper, "qemu": qemu, "serve": _server(keeper)}
        processes[victim].kill()
        psutil.wait_procs([qemu, keeper], timeout=30)
        found += count(wanted, _places(ground, since))
        for one in found:
            ground.say(f"{victim}: {one.name} in the clear in {one.place}")
        runs.append(len(found))
        looked_for |= {one.name for one in wanted}
        ground.say(f"{victim} killed: {len(found)} found")
    note = f"of {', '.join(sorted(looked_for))}; while it ran and after kill -9 of {', '.join(victims)}"
    return [measured(NAMES[0], runs, of=sum, note=note, load=load)]


def _grown(overlay: Path) -> bool:
    """Whether a guest has written to it."""
    return overlay.stat().st_blocks * 512 > 4 * MIB


def _of_ground(ground: Ground, vm_id: str) -> list[Canary]:
    """What this ground has in the clear, and that the search finds it there. Raises: CannotMeasure."""
    folder = ground.cast.folder
    built = next((folder / "images" / SECRETIVE.name).iterdir())
    image = [one for name in (DISK, KERNEL, INITRD) for one in pieces(f"image's {name}", built / name)]
    (key_file,) = (folder / "signers" / "project-keys").glob("*.key")
    project = key("project key", bytes.fromhex(key_file.read_text()))
    for canaries, place in ((image, built), (project, key_file.parent)):
        if {one.name for one in count(canaries, below(place))} != {one.name for one in canaries}:
            raise CannotMeasure(f"{place}: a canary that is there is not found")
    written = [Canary("job output", OUTPUT.encode()), Canary("pool token", f"fake.{vm_id}.".encode())]
    return [*image, *project, *written]


def _places(ground: Ground, since: float, agent: int | None = None) -> Iterator[Path]:
    """All files of the desktop; agent: with what its processes hold open."""
    cast = ground.cast
    for path in cast.folder.iterdir():
        if path.name not in _ELSEWHERE:
            yield from below(path) if path.is_dir() else (path,)
    yield from shared(cast.account.uid, since, but=(cast.folder,))
    if agent is not None:
        yield from held([agent, *(one.pid for one in psutil.Process(agent).children(recursive=True))])


def _server(keeper: psutil.Process) -> psutil.Process:
    """What serves the disk of a keeper's machine."""
    return next(one for one in keeper.children() if "deskgrid.images.serve.serve" in one.cmdline())


def overlay_of(qemu: psutil.Process) -> Path:
    """A machine's own disk, which has no name any more."""
    folder = Path(f"/proc/{qemu.pid}/fd")
    return next(fd for fd in folder.iterdir() if str(fd.readlink()).endswith("overlay (deleted)"))


# -- what is looked for -----------------------------------------------------------------------------------------------


def pieces(name: str, file: Path, many: int = 8, seed: int = 1) -> list[Canary]:
    """Pieces of a file that are nowhere else by chance, from all over it."""
    chance, found = random.Random(seed), list[Canary]()
    size = file.stat().st_size
    with file.open("rb") as source:
        for _ in range(50 * many):
            source.seek(chance.randrange(max(1, size - _PIECE_BYTES)))
            content = source.read(_PIECE_BYTES)
            if len(set(content)) >= _DISTINCT:
                found.append(Canary(name, content))
            if len(found) == many:
                return found
    raise CannotMeasure(f"{file}: it has not {many} pieces of {_PIECE_BYTES} bytes that can be told from others")


def key(name: str, content: bytes) -> list[Canary]:
    """A key as it is, as hexadecimal digits, and as base64."""
    forms = (content, content.hex().encode(), content.hex().upper().encode(), base64.b64encode(content).rstrip(b"="))
    return [Canary(name, form) for form in forms]


def overlay_keys(keeper: int, overlay: Path) -> list[Canary]:
    """The passphrase of a VM's disk, found in its keeper's memory by trying it, and the key that it opens. As root.

    Args: keeper: its process id. overlay: the file, by the descriptor of a process that has it open.
    """
    with overlay.open("rb") as file:
        start = file.read(1 << 20)
        at = start.find(b"LUKS\xba\xbe")
        if at < 0:
            raise CannotMeasure(f"{overlay}: it has no LUKS header")
        file.seek(at)
        luks = file.read(1 << 20)
    for word in set(_words(keeper)):
        if (master := _opened(luks, word)) is not None:
            return [Canary("overlay key", word), *key("overlay key", bytes.fromhex(word.decode())), *_halves(master)]
    raise CannotMeasure(f"keeper {keeper}: the key of its disk is not in its memory, or it can't be read")


def _halves(master: bytes) -> list[Canary]:
    return [Canary("overlay master key", part) for part in (master[:32], master[32:])]


def _words(pid: int) -> Iterator[bytes]:
    """What looks like a passphrase in the memory of a process."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights = line.split()[:2]
            if rights.startswith("rw"):
                begin, end = (int(number, 16) for number in span.split("-"))
                with suppress(OSError, ValueError):
                    memory.seek(begin)
                    yield from re.findall(rb"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", memory.read(end - begin))


def _opened(luks: bytes, passphrase: bytes) -> bytes | None:
    """The master key of a LUKS1 header, if this opens its first slot (LUKS On-Disk Format Specification 1.2.3)."""
    _, _, _, _, _, _, length, digest, salt, rounds, _ = struct.unpack_from(">6sH32s32s32sII20s32sI40s", luks)
    _, slot_rounds, slot_salt, offset, stripes = struct.unpack_from(">II32sII", luks, 208)
    slot_key = hashlib.pbkdf2_hmac("sha256", passphrase, slot_salt, slot_rounds, length)
    split = b""
    for sector in range(-(-length * stripes // 512)):
        place = (offset + sector) * 512
        reader = Cipher(algorithms.AES(slot_key), modes.XTS(sector.to_bytes(16, "little"))).decryptor()
        split += reader.update(luks[place : place + 512])
    mixed = bytes(length)
    for number in range(stripes):
        mixed = bytes(a ^ b for a, b in zip(mixed, split[number * length : (number + 1) * length], strict=True))
        if number < stripes - 1:
            mixed = _diffused(mixed)
    return mixed if hashlib.pbkdf2_hmac("sha256", mixed, salt, rounds, len(digest)) == digest else None


def _diffused(block: bytes) -> bytes:
    """The specification's diffusion: blocks of a hash's length, each hashed with its number."""
    parts = (block[at : at + 32] for at in range(0, len(block), 32))
    return b"".join(hashlib.sha256(struct.pack(">I", n) + part).digest()[: len(part)] for n, part in enumerate(parts))


# -- where it is looked for -------------------------------------------------------------------------------------------


def below(*folders: Path) -> Iterator[Path]:
    """All files below these folders; what the kernel shows of processes (a root tree's /proc) is none."""
    for folder in folders:
        for path, inner, files in os.walk(folder):
            inner[:] = [name for name in inner if name not in ("proc", "sys") or not Path(path, name).is_mount()]
            yield from (Path(path, name) for name in files)


def shared(uid: int, since: float, but: Sequence[Path] = ()) -> Iterator[Path]:
    """Files of an account in the places for passing files, written since (of time.time), but those below `but`."""
    for path in below(*SHARED):
        with suppress(OSError):
            facts = path.lstat()
            if facts.st_uid == uid and facts.st_mtime >= since and not any(one in path.parents for one in but):
                yield path


def held(pids: Iterable[int]) -> Iterator[Path]:
    """The files on disks that these processes hold open, deleted ones too."""
    for pid in pids:
        with suppress(OSError):
            for path in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    if path.is_file() and not str(path.readlink()).startswith("/memfd:"):
                        yield path


def count(canaries: Sequence[Canary], places: Iterable[Path]) -> list[Found]:
    """Which canaries are in which of these files, each once."""
    found: dict[Found, None] = {}
    for place in places:
        with suppress(OSError):
            if not place.is_file():
                continue
            for content in _contents(place):
                found |= {Found(one.name, _named(place)): None for one in canaries if one.content in content}
    return list(found)


def _named(place: Path) -> str:
    return f"{place} ({place.readlink()})" if place.is_symlink() else str(place)


def _contents(place: Path) -> Iterator[bytes]:
    """A file's content in parts that overlap, without its holes."""
    overlap = 4096
    with place.open("rb", buffering=0) as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # nothing but a hole is left
            if not (content := os.pread(file.fileno(), _CHUNK_BYTES, at)):
                return
            yield content
            at += len(content) - (overlap if len(content) == _CHUNK_BYTES else 0)
