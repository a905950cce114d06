"""An owner who does as told: by a file (the demo, another process) or by method calls (tests).

The file holds one word, or JSON for anything between:

    present                                      somebody sits here: logged in, idle 0 for as long as the word stands
    away                                         nobody is logged in, and nobody was here for a day
    {"logged_in": true, "idle_seconds": 600}     somebody is logged in and was last seen 600 s before this was written
    {"logged_in": true}                          … and it is not known when they were last seen
    {"logged_in": true, "idle_seconds": 900, "locked": true, "machine": {"on_battery": true, "battery_percent": 40}}
                                                 … their screen is locked, and the laptop runs on battery

Rules:
- As with the real drivers, what can't be read is a fault and counts as busy: no file, an unknown word, bad JSON.
- `set_presence` replaces the file in one step; other writers may write it in place.
- What the file doesn't say of the machine is read from the real one (`machine`).
- A change is noticed as soon as the kernel tells us (inotify, well under a millisecond); where it can't, we look at
  the file every 50 ms.
"""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from deskgrid.model.policy import Machine
from deskgrid.model.presence import Ending, Reading, SessionReading
from deskgrid.model.values.outside import read_json
from deskgrid.presence.helpers import HelperWords, Word
from deskgrid.presence.inotify import ENTRIES, IN_CLOSE_WRITE, Inotify, open_inotify
from deskgrid.presence.listener import Listener

POLL_SECONDS = 0.05
_MAX_BYTES = 4096
_DAY_SECONDS = 86400.0
_FOR_EVER = float("inf")


class Has(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the machine is said to have; see `model.policy.Machine`. Unset: as it is."""

    memory_available_bytes: int | UnsetType = UNSET
    disk_free_bytes: int | UnsetType = UNSET
    memory_pressure: float | UnsetType | None = UNSET
    others_cpu: float | UnsetType | None = UNSET
    on_battery: bool | UnsetType | None = UNSET
    battery_percent: float | UnsetType | None = UNSET
    metered: bool | UnsetType | None = UNSET
    wireless: bool | UnsetType | None = UNSET
    programs: tuple[str, ...] | UnsetType = UNSET
    up_seconds: float | UnsetType | None = UNSET


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the fake shall show.

    logged_in: somebody has a session; None: unknown.
    present: the owner is at the keyboard: idle 0 until told otherwise.
    idle_seconds: since the last sign of the owner when this was said; grows from then; None: unknown.
    locked … ending: as in `Reading`. machine: what it is said to have.
    """

    logged_in: bool | None = None
    present: bool = False
    idle_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None
    locked: bool | None = None
    remote: bool | None = False
    watching: tuple[str, ...] = ()
    full_screen: bool | None = False
    lid_closed: bool = False
    ending: Ending | None = None
    machine: Has = Has()


PRESENT = Owner(logged_in=True, present=True)
AWAY = Owner(logged_in=False, idle_seconds=_DAY_SECONDS)
WORDS = {"present": PRESENT, "away": AWAY}


def set_presence(path: Path, owner: Owner | str) -> None:
    """Tell every fake that is driven by `path`, in one step, what its owner does.

    Args:
        owner: one of the words "present", "away", or an Owner.

    Raises:
        ValueError: for a word that isn't one. OSError: when the file can't be written.
    """
    if isinstance(owner, str):
        owner = parse(owner.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    fresh.write_bytes(msgspec.json.encode(owner) + b"\n")
    fresh.chmod(0o644)
    fresh.replace(path)


def parse(content: bytes) -> Owner:
    """Return what the content of such a file says.

    Raises:
        ValueError: with what was got and what is expected.
    """
    text = content.strip()
    try:
        word = WORDS.get(text.decode())
        return word or read_json(text, type=Owner)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(
            f"presence: got {content[:80]!r} ({error}), expected present, away or "
            '{"logged_in": true, "idle_seconds": 600}'
        ) from None


class FakePresence:
    """A presence driver whose owner does as a file says.

    Args:
        path: the file that drives it; None: `set` does.
        owner: what holds until the first `set` (without a path).
        poll: look at the file every 50 ms instead of asking for inotify, as for a file on a network file system.
        clock: seconds since the epoch, for the growth of idle time.
    """

    def __init__(
        self,
        path: Path | None = None,
        owner: Owner = AWAY,
        poll: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._poll, self._clock = path, poll, clock
        self._said = (owner, clock())
        self._told = 0
        self._seen: object = self._mark()
        self._inotify: Inotify | None = None
        self._listener: Listener | None = None
        self._helpers = HelperWords()
        self.running, self.ready = True, 0
        """What `pace` was told last, and how often `ready_to_end` was called."""

    def set(self, owner: Owner) -> None:
        """Make the owner do this from now on (when no file drives it); tells whoever watches."""
        self._said = (owner, self._clock())
        if self._listener is not None:
            self._listener.wake()

    def read(self) -> Reading:
        """What is known now."""
        try:
            owner, age_seconds, source = self._owner()
        except ValueError as error:
            return Reading(None, None, faults=(str(error),))
        return _with(_reading(owner, age_seconds, source), self._helpers.words())

    def machine(self, real: Machine) -> Machine:
        """The machine with what the owner's file says in place of what is."""
        try:
            return msgspec.structs.replace(real, **_said(self._owner()[0].machine))
        except ValueError:
            return real

    def metered(self) -> bool | None:
        """Whether the network connection is metered; None: unknown."""
        try:
            said = self._owner()[0].machine.metered
        except ValueError:
            return None
        return False if said is UNSET else said

    def told(self, uid: int, reading: SessionReading | None) -> None:
        """Take what a helper in a session of this account says; None: it has gone."""
        if self._helpers.take(uid, reading):
            self._told += 1
            if self._listener is not None:
                self._listener.wake()

    def pace(self, running: bool) -> None:
        """Only kept: the fake tells of everything at once."""
        self.running = running

    def ready_to_end(self) -> None:
        """Only counted: nothing waits for it."""
        self.ready += 1

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the owner does something else."""
        self.close()
        self._seen = self._mark()
        if self._path is not None and not self._poll and (inotify := open_inotify()) is not None:
            if inotify.add(self._path.parent, ENTRIES | IN_CLOSE_WRITE):
                self._inotify = inotify
            else:
                inotify.close()
        polled = self._path is not None and self._inotify is None
        self._listener = Listener(
            [] if self._inotify is None else [self._inotify.fileno()],
            self._notice,
            lambda: POLL_SECONDS if polled else None,
            changed,
        )

    def close(self) -> None:
        """Stop watching; may be called twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None

    def _notice(self) -> bool:
        if self._inotify is not None:
            self._inotify.drain()
        before, self._seen = self._seen, self._mark()
        return self._seen != before

    def _owner(self) -> tuple[Owner, float, str]:
        """What was said, seconds ago, and by whom. Raises ValueError with the fault."""
        if self._path is None:
            owner, at = self._said
            return owner, self._clock() - at, "fake"
        try:
            with self._path.open("rb") as file:
                content, at = file.read(_MAX_BYTES), os.fstat(file.fileno()).st_mtime
            return parse(content), self._clock() - at, f"fake: {self._path.name}"
        except OSError as error:
            raise ValueError(
                f"presence {self._path}: got {error.strerror}, expected a file that says present or away"
            ) from None
        except ValueError as error:
            raise ValueError(str(error).replace("presence:", f"presence {self._path}:", 1)) from None

    def _mark(self) -> object:
        """What changes whenever the owner or a helper says something."""
        if self._path is None:
            return self._said, self._told
        try:
            status = self._path.stat()
        except OSError:
            return None, self._told
        return status.st_ino, status.st_mtime_ns, status.st_size, self._told


def _reading(owner: Owner, age_seconds: float, source: str) -> Reading:
    sources: tuple[str, ...] = (source,)
    faults: tuple[str, ...] = ()
    idle_seconds = None
    if owner.present:
        idle_seconds, sources = 0.0, (f"{source}: present",)
    elif owner.idle_seconds is None:
        faults = (f"{source}: not told when the owner was last here",)
    else:
        idle_seconds = owner.idle_seconds + max(0.0, age_seconds)
        sources = (f"{source}: {idle_seconds:.0f} s",)
    return Reading(
        owner.logged_in,
        idle_seconds,
        sources,
        faults,
        owner.locked,
        owner.remote,
        owner.watching,
        owner.full_screen,
        owner.lid_closed,
        owner.ending,
    )


def _with(reading: Reading, words: Sequence[Word]) -> Reading:
    """What helpers say besides; the fake's owner has no session that one could vouch for."""
    if not words:
        return reading
    idle = [one.idle_seconds for one in words if one.idle_seconds is not None]
    least = reading.idle_seconds if reading.idle_seconds is None else min(reading.idle_seconds, *idle, _FOR_EVER)
    return msgspec.structs.replace(
        reading,
        idle_seconds=least,
        locked=False if any(one.locked is False for one in words) else reading.locked,
        watching=(*reading.watching, *(text for one in words for text in one.watching)),
        full_screen=reading.full_screen or any(one.full_screen for one in words),
    )


def _said(machine: Has) -> dict[str, Any]:
    return {name: value for name in machine.__struct_fields__ if (value := getattr(machine, name)) is not UNSET}
