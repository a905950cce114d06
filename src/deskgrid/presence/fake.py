"""An owner who does as told: by a file (the demo, another process) or by method calls (tests).

The file holds one word, or JSON for anything between:

    present                                      somebody sits here: logged in, idle 0 for as long as the word stands
    away                                         nobody is logged in, and nobody was here for a day
    {"logged_in": true, "idle_seconds": 600}     somebody is logged in and was last seen 600 s before this was written
    {"logged_in": true}                          … and it is not known when they were last seen

Rules, told first:
- As with the real drivers, what can't be read is a fault and counts as busy: no file, an unknown word, bad JSON.
- `set_presence` replaces the file in one step; other writers may write it in place.
- A change is told as soon as the kernel tells us (inotify, well under a millisecond); where it can't, we look at
  the file every 50 ms.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from deskgrid.model.presence import Reading
from deskgrid.presence.inotify import ENTRIES, IN_CLOSE_WRITE, Inotify, open_inotify
from deskgrid.presence.listener import Listener

POLL_SECONDS = 0.05
_MAX_BYTES = 4096
_DAY_SECONDS = 86400.0


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the fake is told.

    logged_in: somebody has a session; None: unknown.
    present: the owner is at the keyboard: idle 0 until told otherwise.
    idle_seconds: since the last sign of the owner when this was said; grows from then; None: unknown.
    """

    logged_in: bool | None = None
    present: bool = False
    idle_seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None


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
        return word or msgspec.json.decode(text, type=Owner)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(
            f"presence: got {content[:80]!r} ({error}), expected present, away or "
            '{"logged_in": true, "idle_seconds": 600}'
        ) from None


class FakePresence:
    """A presence driver whose owner is told what to do.

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
        self._seen: object = self._mark()
        self._inotify: Inotify | None = None
        self._listener: Listener | None = None

    def set(self, owner: Owner) -> None:
        """Make the owner do this from now on (when no file drives it); tells whoever watches."""
        self._said = (owner, self._clock())
        if self._listener is not None:
            self._listener.wake()

    def read(self) -> Reading:
        """What is known now."""
        if self._path is None:
            owner, at = self._said
            return _reading(owner, self._clock() - at, "fake")
        try:
            with self._path.open("rb") as file:
                content, at = file.read(_MAX_BYTES), os.fstat(file.fileno()).st_mtime
            return _reading(parse(content), self._clock() - at, f"fake: {self._path.name}")
        except OSError as error:
            fault = f"presence {self._path}: got {error.strerror}, expected a file that says present or away"
        except ValueError as error:
            fault = str(error).replace("presence:", f"presence {self._path}:", 1)
        return Reading(None, None, faults=(fault,))

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

    def _mark(self) -> object:
        """What changes whenever the owner is told something."""
        if self._path is None:
            return self._said
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


def _reading(owner: Owner, age_seconds: float, source: str) -> Reading:
    if owner.present:
        return Reading(owner.logged_in, 0.0, (f"{source}: present",))
    if owner.idle_seconds is None:
        return Reading(owner.logged_in, None, (source,), (f"{source}: not told when the owner was last here",))
    idle_seconds = owner.idle_seconds + max(0.0, age_seconds)
    return Reading(owner.logged_in, idle_seconds, (f"{source}: {idle_seconds:.0f} s",))
