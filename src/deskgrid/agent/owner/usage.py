"""What this desktop gave: per month and image, and per day, so that its owner can see it.

Rules:
- Time is given while a virtual machine's processors run for it (booting or running); a paused one gives nothing.
- Elapsed time comes from a clock that never jumps and stands still while the computer sleeps; the calendar only says
  which month and day it belongs to. What spans an end of a day is split there. A calendar set back costs nothing.
- An eviction is a machine that had been running and left because this computer was wanted back, not one that was done.
- One small file, written at most once a minute and when a machine ends: a killed agent loses at most a minute.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from deskgrid.core.policy.refusals import takes_back
from deskgrid.host.system.files import write_atomic
from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.values.numbers import Total
from deskgrid.model.values.outside import read_json
from deskgrid.wire.local import Gift, Usage

T = TypeVar("T")
KEEP_MONTHS, KEEP_DAYS = 24, 62
WRITE_SECONDS = 60.0
Day = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]
GAP_SECONDS = 120.0
"""The agent looks at its machines every second; of a longer gap nothing is known, and nothing is counted."""
_GIVING = (VmState.BOOTING, VmState.RUNNING)
_HAD_WORK = (VmState.RUNNING, VmState.PAUSED)
_OVER = (VmState.LEAVING, VmState.KILLING, VmState.ENDED)


class Book(msgspec.Struct, frozen=True):
    """All that is kept. months: "2026-11" to image name to what was given; days: "2026-11-22" to vm_seconds."""

    months: dict[str, dict[str, Usage]] = {}
    days: dict[Day, Total] = {}


def add(book: Book, local: datetime, image: str, used: Usage) -> Book:
    """The book with `used` in the month and on the day of `local`; what is too old goes."""
    month, day = f"{local:%Y-%m}", f"{local:%Y-%m-%d}"
    of_month = book.months.get(month, {})
    months = {**book.months, month: {**of_month, image: of_month.get(image, Usage()).plus(used)}}
    days = {**book.days, day: book.days.get(day, 0.0) + used.vm_seconds} if used.vm_seconds else book.days
    return Book(_newest(months, KEEP_MONTHS), _newest(days, KEEP_DAYS))


def spans(until: datetime, seconds: float) -> Iterator[tuple[datetime, float]]:
    """The `seconds` before `until`, split at midnights: (a moment of the day, its share), newest first."""
    while seconds > 0:
        into = (until - until.replace(hour=0, minute=0, second=0, microsecond=0)).total_seconds()
        share = min(seconds, into) if into > 0 else 0.0
        if share > 0:
            yield until - timedelta(seconds=share / 2), share
        seconds -= share
        until = until - timedelta(seconds=share, microseconds=1)


def gift(book: Book, local: datetime) -> Gift:
    """What the owner is shown at `local`."""
    days = ((local - timedelta(days=back)).strftime("%Y-%m-%d") for back in range(30, -1, -1))
    return Gift(
        book.months.get(f"{local:%Y-%m}", {}),
        tuple((day, book.days.get(day, 0.0)) for day in days),
        tuple((month, reduce(Usage.plus, images.values(), Usage())) for month, images in sorted(book.months.items())),
    )


class _Seen(msgspec.Struct, frozen=True):
    """A machine as it was last seen. One that is met running was counted in an earlier life of this agent.

    ran: it is counted; had_work: it has come to run; over: it has begun to leave; cpu: seconds so far.
    """

    state: VmState
    ran: bool = False
    had_work: bool = False
    over: bool = False
    cpu: float | None = None


class UsageBook:
    """`usage.json`, fed by the agent's loop from its one thread.

    Args: local: the owner's calendar. steady: seconds that never jump, and stand still during sleep.
    """

    def __init__(self, path: Path, local: Callable[[], datetime], steady: Callable[[], float] = time.monotonic) -> None:
        self._path, self._local, self._steady = path, local, steady
        self._book = self._read()
        self._seen: dict[str, _Seen] = {}
        self._at = self._written_at = steady()
        self._dirty = False

    def see(
        self, vms: Sequence[VmReport], ended: Sequence[VmReport] = (), cpu_seconds: Mapping[str, float] | None = None
    ) -> None:
        """Count what has passed since the last call.

        Args: vms: those that are here. ended: those that have ended and are not acknowledged. cpu_seconds: by id, what
        each has used since its start, where that is known.
        """
        now, cpu = self._steady(), cpu_seconds or {}
        elapsed, self._at = now - self._at, now
        elapsed = elapsed if elapsed <= GAP_SECONDS else 0.0
        local = self._local()
        over = False
        known, self._seen = self._seen, {}
        for vm in (*vms, *ended):
            before = known.get(vm.vm_id)
            over |= self._count(vm, before, elapsed, cpu.get(vm.vm_id), local)
        if self._dirty and (over or now - self._written_at >= WRITE_SECONDS):
            self.write()

    def gift(self) -> Gift:
        """What the owner is shown now."""
        return gift(self._book, self._local())

    def write(self) -> None:
        """Write what is not written yet. A full disk loses nothing but time: it is tried again in a minute."""
        self._written_at = self._steady()
        if not self._dirty:
            return
        try:
            write_atomic(self._path, msgspec.json.encode(self._book), 0o600)
        except OSError:
            return
        self._dirty = False

    def _count(self, vm: VmReport, before: _Seen | None, elapsed: float, cpu: float | None, local: datetime) -> bool:
        """Count one machine; returns whether it has just ended."""
        image, was = vm.image.name, before or _Seen(VmState.FETCHING)
        gives = vm.state in _GIVING
        if before is not None and before.state in _GIVING and elapsed > 0:
            for at, share in spans(local, elapsed):
                self._add(at, image, Usage(share, share * vm.size.cpus))
        if cpu is not None and was.cpu is not None and cpu > was.cpu:
            self._add(local, image, Usage(cpu_seconds=cpu - was.cpu))
        leaves = vm.state in _OVER and not was.over
        pauses = vm.state is VmState.PAUSED and was.state is VmState.RUNNING
        evicted = leaves and was.had_work and takes_back(vm.reason)
        counts = Usage(
            vms=int(gives and before is not None and not was.ran), pauses=int(pauses), evictions=int(evicted)
        )
        if counts != Usage():
            self._add(local, image, counts)
        self._seen[vm.vm_id] = _Seen(
            vm.state,
            was.ran or gives,
            was.had_work or vm.state in _HAD_WORK,
            was.over or leaves,
            cpu if cpu is not None else was.cpu,
        )
        return before is not None and vm.state is VmState.ENDED and before.state is not VmState.ENDED

    def _add(self, local: datetime, image: str, used: Usage) -> None:
        self._book, self._dirty = add(self._book, local, image, used), True

    def _read(self) -> Book:
        """The book; a file that is missing or damaged begins anew: it is a picture for people, nobody is paid by it."""
        try:
            return read_json(self._path.read_bytes(), type=Book)
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return Book()


def _newest(items: dict[str, T], count: int) -> dict[str, T]:
    return dict(sorted(items.items())[-count:]) if len(items) > count else items
