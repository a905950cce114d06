"""The owner of a Linux desktop: sessions, terminals, keyboard and mouse, and what logind and people's helpers say.

Rules:
- Sources, each a module: `logind` (over D-Bus), `sessions` (logind's files, utmp), `terminals` (access times),
  `input_devices` (/dev/input/event*, for members of group input), `told` (helpers in sessions) and, only where some
  devices may not be read, `interrupts` (weak). `combine` says what they mean together. docs/presence.md says what each
  can't see.
- One thread, asleep in epoll. Input devices, D-Bus, sessions, new terminals and new devices wake it. Access times and
  interrupt counters can't wake anybody: while virtual machines run (`pace`) and only they would tell of somebody, it
  looks at them every 150 ms, else once a second as a net under the rest. While none runs nothing has to be stopped:
  then it looks every 5 s, and rests for a second after each sign.
- What only D-Bus can tell counts as busy when it is not known, if logind should be there.
- No privileges: what this account may not read is a fault in the reading.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from deskgrid.model.presence import Reading, SessionReading
from deskgrid.model.values.text import counted
from deskgrid.presence.contract import unreadable
from deskgrid.presence.helpers import HelperWords
from deskgrid.presence.inotify import ENTRIES, IN_ATTRIB, IN_MODIFY, Inotify, open_inotify
from deskgrid.presence.linux.combine import Hands, combine
from deskgrid.presence.linux.input_devices import InputDevices
from deskgrid.presence.linux.interrupts import Interrupts
from deskgrid.presence.linux.power import lid_closed
from deskgrid.presence.linux.sessions import Logins, read_logins
from deskgrid.presence.linux.system import System
from deskgrid.presence.linux.terminals import Terminals
from deskgrid.presence.listener import REST_SECONDS, Listener

FAST_SECONDS = 0.15
SLOW_SECONDS = 1.0
ALL_SECONDS = 5.0
FIRST_ANSWERS_SECONDS = 0.3
_BARELY_SECONDS = 0.01
_FIND_SECONDS = 30.0


class Roots(msgspec.Struct, frozen=True):
    """Where the kernel, logind and the bus (run/dbus/system_bus_socket) are looked for; tests give others."""

    dev: Path = Path("/dev")
    run: Path = Path("/run")
    proc: Path = Path("/proc")
    sysfs: Path = Path("/sys")


class LinuxPresence:
    """Presence on Linux.

    Args:
        roots: where to look.
        grid_uids: accounts whose terminals and inhibitors are the grid's own; None: the account that we run as, unless
            it is root.
        patience_seconds: how long to wait for logind's first answers.
    """

    def __init__(
        self,
        roots: Roots | None = None,
        grid_uids: frozenset[int] | None = None,
        patience_seconds: float = FIRST_ANSWERS_SECONDS,
    ) -> None:
        self._roots = roots or Roots()
        if grid_uids is None:
            grid_uids = frozenset({os.geteuid()} - {0})
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._inotify: Inotify | None = None
        self._devices = InputDevices(self._roots.dev / "input")
        self._interrupts = Interrupts(self._roots.proc, self._roots.sysfs)
        self._terminals = Terminals(self._roots.dev, grid_uids)
        self._system, self._helpers = System(self._roots.run, grid_uids), HelperWords()
        self._logins = Logins((), known=False)
        self._lid: bool | None = None
        self._signs = self._told = self._heard = 0
        self._looked_at = self._consoles_at = 0.0
        self._found: tuple[object, float] = (None, 0.0)
        self._running = True
        self._woken = self._closed = False
        self._system.first_answers(patience_seconds)
        self._look_at_all()
        self._signs = 0

    def read(self) -> Reading:
        """What is known now."""
        try:
            with self._lock:
                if not self._closed:
                    self._look_at_all()
                reading = self._combine()
                listener = self._listener if self._signs != self._told else None
            if listener is not None:  # we took the sign away from it
                listener.wake()
        except Exception as error:
            return unreadable(error)
        return reading

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` at each sign of the owner, and when something of a reading but its idle time changes."""
        if self._listener is not None:
            self._listener.close()
        with self._lock:
            self._inotify = self._inotify or open_inotify()
            self._look_at_all()
            self._told = self._signs
            descriptors = [self._devices.fileno(), self._system.fileno()]
            if self._inotify is not None:
                descriptors.append(self._inotify.fileno())
            self._listener = Listener(descriptors, self._notice, self._tick_seconds, changed, self._rest_seconds)
            self._hold()

    def told(self, uid: int, reading: SessionReading | None) -> None:
        """Take what a helper in a session of this account says; None: it has gone. From any thread."""
        with self._lock:
            self._signs += self._helpers.take(uid, reading)
            listener = self._listener if self._signs != self._told else None
        if listener is not None:
            listener.wake()

    def pace(self, running: bool) -> None:
        """Say whether virtual machines run, or may soon: only then is it watched closely, and sleep waits for us."""
        with self._lock:
            if running == self._running:
                return
            self._running = running
            self._hold()
            listener = self._listener
        if listener is not None:
            listener.wake()

    def ready_to_end(self) -> None:
        """All virtual machines are stopped: the computer may sleep or shut down now, as it has announced."""
        with self._lock:
            self._system.ready_to_end()

    def metered(self) -> bool | None:
        """Whether the network connection is metered; None: unknown."""
        with self._lock:
            return self._system.metered()

    def close(self) -> None:
        """Stop watching and close all devices; may be called twice."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        with self._lock:
            if self._inotify is not None:
                self._inotify.close()
                self._inotify = None
            self._devices.close()
            self._system.close()
            self._closed = True

    # -- what the listener asks -----------------------------------------------------------------------------------

    def _notice(self) -> bool:
        """Look at what may have changed, and say whether there is a sign that wasn't told yet."""
        with self._lock:
            if self._closed:
                return False
            now = time.monotonic()
            every_seconds = ALL_SECONDS if self._woken or not self._running else SLOW_SECONDS
            stirred = self._inotify is not None and bool(self._inotify.drain())
            stirred |= self._tend()
            if stirred or now - self._looked_at >= every_seconds - _BARELY_SECONDS:
                self._look_at_all()
            else:
                self._look(consoles=now - self._consoles_at >= SLOW_SECONDS - _BARELY_SECONDS)
            sign = self._signs != self._told
            self._told = self._signs
            return sign

    def _tick_seconds(self) -> float:
        """How long may pass until the next look."""
        due = self._system.due_seconds()
        return min(self._net_seconds(), ALL_SECONDS if due is None else max(due, _BARELY_SECONDS))

    def _net_seconds(self) -> float:
        if not self._running:
            return ALL_SECONDS
        if self._unseen():
            blind = self._terminals.pseudo or self._terminals.consoles or self._interrupts.active
        else:
            sessions = self._logins.sessions
            blind = self._terminals.pseudo and (not sessions or any(one.remote for one in sessions))
        return FAST_SECONDS if blind else SLOW_SECONDS

    def _rest_seconds(self) -> float:
        return REST_SECONDS if self._running else SLOW_SECONDS

    def _unseen(self) -> bool:
        """Whether there may be a keyboard or mouse that can't wake us."""
        return not self._devices.complete and (bool(self._devices.refused) or self._interrupts.keyboards is not False)

    # -- looking --------------------------------------------------------------------------------------------------

    def _look(self, consoles: bool = False) -> None:
        """Empty what wakes us, and look at what can't."""
        unseen = self._unseen()
        signs = [self._devices.drain(), self._terminals.scan(consoles=consoles or unseen)]
        if unseen:
            signs.append(self._interrupts.scan())
        if consoles:
            self._consoles_at = time.monotonic()
        self._signs += any(signs)

    def _look_at_all(self) -> None:
        self._looked_at = time.monotonic()
        self._tend()
        self._listen()
        came_or_went = self._devices.scan()
        if not self._devices.complete:
            self._find_interrupts()
        before, self._logins = self._logins, self._read_logins()
        lid_before, self._lid = self._lid, lid_closed(self._roots.proc)
        self._signs += came_or_went or self._logins.sessions != before.sessions or self._lid is not lid_before
        self._terminals.relist()
        self._look(consoles=True)

    def _read_logins(self) -> Logins:
        return read_logins(self._roots.run, self._roots.dev, self._system.said.sessions)

    def _tend(self) -> bool:
        """Hear what D-Bus has to say. Returns whether something has changed."""
        self._system.tend()
        if self._system.changes == self._heard:
            return False
        self._heard = self._system.changes
        self._signs += 1
        return True

    def _hold(self) -> None:
        self._system.hold(self._running and self._listener is not None)

    def _find_interrupts(self) -> None:
        """Find out which interrupts to count, when devices came or went, and now and then."""
        mark = (self._devices.count, frozenset(self._devices.refused))
        if mark != self._found[0] or self._looked_at - self._found[1] >= _FIND_SECONDS:
            self._interrupts.find()
            self._found = (mark, self._looked_at)

    def _listen(self) -> None:
        """Ask to be woken by what isn't watched yet: it may have appeared since."""
        if self._inotify is None:
            return
        dev, run = self._roots.dev, self._roots.run
        devices = self._inotify.add(dev, ENTRIES)
        self._inotify.add(dev / "input", ENTRIES | IN_ATTRIB)
        terminals = self._inotify.add(dev / "pts", ENTRIES)
        logind = self._inotify.add(run / "systemd/sessions", ENTRIES)
        utmp = self._inotify.add(run / "utmp", IN_MODIFY)
        self._woken = devices and terminals and (logind or utmp)

    # -- what it means --------------------------------------------------------------------------------------------

    def _combine(self) -> Reading:
        system = self._system
        faults = (*self._terminals.faults, *system.faults)
        words, watching = self._helpers.words(), system.watching
        reading = combine(self._logins, self._terminals.quiet(), self._hands(), faults, words, watching)
        lid = system.said.lid_closed if self._lid is None else self._lid
        return msgspec.structs.replace(reading, lid_closed=lid, ending=system.said.ending)

    def _hands(self) -> tuple[Hands, ...]:
        devices, found = self._devices, []
        if devices.count:
            name = counted(devices.count, "input device")
            found.append(Hands(name, devices.idle_seconds(), devices.complete))
        if devices.refused:
            why = next(iter(devices.refused.values()))
            fault = (
                f"input devices {self._roots.dev}/input: got {why} for {len(devices.refused)} of "
                f"{len(devices.refused) + devices.count}, expected to read them; add this account to group input"
            )
            found.append(Hands("input devices", None, complete=False, faults=(fault,)))
        if not devices.complete and self._interrupts.active:
            name = "interrupts of keyboard and USB controllers (a weak source)"
            found.append(Hands(name, self._interrupts.idle_seconds(), self._interrupts.covered))
        return tuple(found)
