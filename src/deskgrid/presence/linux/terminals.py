"""When was something last typed on a terminal? The access times of /dev/tty1… and /dev/pts/*.

Rules:
- Only consoles and pseudo terminals: never ttyS*, ttyACM*, ttyUSB* (modems, instruments), and not those that belong
  to the grid's own account (QEMU may open some).
- The kernel moves a terminal's access time when input is read from it, at most once in 8 s (tty_io.c,
  tty_update_time: it must not tell passwords by their rhythm). So the last key may be up to 8 s younger than it
  says: 8 s are taken off. The first key after a pause longer than that shows at once.
- From the first look on, changes count, not the clock: setting the clock makes nobody idle.
- The output of programs doesn't count (it moves the modification time), nor does a program that nobody reads from.
- A terminal that appears is a sign of somebody.
"""

import os
import re
import time
from pathlib import Path

import msgspec

GRANULARITY_SECONDS = 8.0
_CONSOLE = re.compile(r"tty[1-9]\d*\Z")


class Quiet(msgspec.Struct, frozen=True):
    """A terminal ("tty1", "pts/3"), whose it is, and for how long nobody has typed on it at least."""

    name: str
    uid: int
    idle_seconds: float


class _Terminal:
    """One terminal: its access time, and when (monotonic) the last sign on it was."""

    __slots__ = ("atime_ns", "sign_at", "uid")

    def __init__(self, atime_ns: int, uid: int, sign_at: float) -> None:
        self.atime_ns, self.uid, self.sign_at = atime_ns, uid, sign_at


class Terminals:
    """What is known of all terminals of people.

    Args:
        dev: /dev. grid_uids: accounts whose terminals aren't a person's.
    """

    def __init__(self, dev: Path, grid_uids: frozenset[int]) -> None:
        self._dev, self._grid_uids = dev, grid_uids
        self._consoles: dict[str, Path] = {}
        self._pseudo: dict[str, Path] = {}
        self._seen: dict[str, _Terminal] = {}
        self._dev_mark: int | None = None
        self._first = True
        self.faults: tuple[str, ...] = ()

    def relist(self) -> None:
        """Find out which terminals there are."""
        try:
            self._pseudo = {f"pts/{path.name}": path for path in (self._dev / "pts").iterdir() if path.name.isdecimal()}
        except OSError:
            self._pseudo = {}  # sessions that name one stay unknown
        self._list_consoles()
        for name in self._seen.keys() - self._consoles.keys() - self._pseudo.keys():
            del self._seen[name]

    def scan(self, consoles: bool = True) -> bool:
        """Look at the access times. Returns whether there was a sign of somebody since the last scan.

        Args:
            consoles: look at tty1… too, not only at pseudo terminals; each costs some microseconds.
        """
        now, wall_ns, sign = time.monotonic(), time.time_ns(), False
        for name, path in (self._consoles | self._pseudo if consoles else self._pseudo).items():
            try:
                status = path.stat()
                people = status.st_uid not in self._grid_uids
            except OSError:  # closed since we listed it
                people = False
            if not people:
                self._seen.pop(name, None)
            elif self._note(name, status, now, wall_ns):
                sign = True
        self._first = False
        return sign

    def quiet(self) -> tuple[Quiet, ...]:
        """Return how long each terminal has been quiet at least, as last scanned."""
        now = time.monotonic()
        return tuple(
            Quiet(name, seen.uid, max(0.0, now - seen.sign_at - GRANULARITY_SECONDS))
            for name, seen in self._seen.items()
        )

    @property
    def consoles(self) -> bool:
        """Whether there is a console."""
        return bool(self._consoles)

    @property
    def pseudo(self) -> bool:
        """Whether somebody has a pseudo terminal."""
        return any(name.startswith("pts/") for name in self._seen)

    def _note(self, name: str, status: os.stat_result, now: float, wall_ns: int) -> bool:
        seen = self._seen.get(name)
        if seen is None:
            age_seconds = max(0.0, (wall_ns - status.st_atime_ns) / 1e9) if self._first else 0.0
            self._seen[name] = _Terminal(status.st_atime_ns, status.st_uid, now - age_seconds)
            return not self._first
        seen.uid = status.st_uid
        if seen.atime_ns == status.st_atime_ns:
            return False
        seen.atime_ns, seen.sign_at = status.st_atime_ns, now
        return True

    def _list_consoles(self) -> None:
        """tty1…, those in use where that is known: /dev/vcsN exists for each console that the kernel made."""
        try:
            mark = self._dev.stat().st_mtime_ns
            if mark != self._dev_mark:
                paths = {path.name: path for path in self._dev.iterdir()}
                used = {f"tty{name[3:]}" for name in paths if name.startswith("vcs") and name[3:].isdecimal()}
                self._consoles = {
                    name: path for name, path in paths.items() if _CONSOLE.match(name) and (not used or name in used)
                }
                self._dev_mark = mark
            self.faults = ()
        except OSError as error:
            self._consoles, self._dev_mark = {}, None
            self.faults = (f"terminals {self._dev}: got {error.strerror}, expected a folder of devices",)
