"""What desktops are made of, as they last reported, and the fleet's table of it.

Rules:
- A desktop says it once, and again when it has changed: so it is kept in the database, before its report is answered.
- What differs only in how fast a trial was, or in free disk, is not worth writing.
- One that changes again and again is written again once a minute at most; until then it is in memory, and goes with
  what is written next.
- Reports that wait for the database at the same time are written in one transaction.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.recorder import Recorder
from deskgrid.coordinator.state.credentials import Guard
from deskgrid.model.inventory import Inventory, Virtualisation
from deskgrid.wire.operator import DesktopInventory

_AT_ONCE, _AGAIN_SECONDS = 5, 60.0


class Inventories:
    """The last inventory of every desktop that has said one."""

    def __init__(self, known: Iterable[DesktopInventory]) -> None:
        self._known = {one.desktop: one for one in known}
        self._waiting: dict[str, DesktopInventory] = {}
        self._later: dict[str, DesktopInventory] = {}
        self._pace = Guard(_AT_ONCE, _AGAIN_SECONDS)
        self._lock = asyncio.Lock()

    def get(self, desktop: str) -> DesktopInventory | None:
        """What is known of one desktop."""
        return self._later.get(desktop) or self._known.get(desktop)

    def all(self) -> list[DesktopInventory]:
        """What is known, by name."""
        return [one for _, one in sorted((self._known | self._later).items())]

    async def keep(self, recorder: Recorder, desktop: str, said: Inventory, now: datetime) -> None:
        """Keep what a desktop has said. Raises: sqlalchemy.exc.SQLAlchemyError, when it could not be written."""
        known = self._waiting.get(desktop) or self.get(desktop)
        if known is not None and desktop not in self._waiting and _core(known.inventory) == _core(said):
            return
        if self._pace.refused(desktop, time.monotonic()):
            self._later[desktop] = DesktopInventory(desktop, now, said)
            return
        self._waiting[desktop] = DesktopInventory(desktop, now, said)
        self._later.pop(desktop, None)
        await self.write(recorder)

    async def write(self, recorder: Recorder) -> None:
        """Write what waits. Raises: sqlalchemy.exc.SQLAlchemyError, when it could not be written."""
        async with self._lock:
            batch, self._waiting, self._later = self._later | self._waiting, {}, {}
            if not batch:
                return  # written with another one's
            try:
                await recorder.call(lambda c: queries.save_inventories(c, list(batch.values())))
            except BaseException:
                self._waiting = batch | self._waiting
                raise
            self._known |= batch


def _core(inventory: Inventory) -> Inventory:
    trials = tuple(msgspec.structs.replace(one, milliseconds=0, sentence="") for one in inventory.trials)
    return msgspec.structs.replace(inventory, trials=trials, disk_free_gib=0)


class FleetKind(msgspec.Struct, frozen=True):
    """Desktops of one product in one state of virtualisation.

    proven: on how many of them a guest ran, by accelerator. problems: how many have each.
    """

    product: str
    virtualisation: Virtualisation
    desktops: int
    proven: Mapping[str, int]
    problems: Mapping[str, int]


class FleetInventory(msgspec.Struct, frozen=True):
    """The fleet. silent: enrolled desktops that have never said what they are made of."""

    kinds: tuple[FleetKind, ...]
    desktops: tuple[DesktopInventory, ...]
    silent: int


def fleet(known: Iterable[DesktopInventory], members: int) -> FleetInventory:
    """The fleet's table: most frequent kinds first. members: how many desktops are enrolled."""
    found = tuple(known)
    groups: dict[tuple[str, Virtualisation], list[Inventory]] = {}
    for one in found:
        made = one.inventory
        product = " ".join(f"{made.maker} {made.product}".split()) or "unknown"
        groups.setdefault((product, made.virtualisation), []).append(made)
    kinds = [
        FleetKind(
            product,
            state,
            len(group),
            Counter(name for made in group for name in made.proven),
            dict(Counter(name for made in group for name in made.problems).most_common()),
        )
        for (product, state), group in groups.items()
    ]
    kinds.sort(key=lambda kind: (-kind.desktops, kind.product, kind.virtualisation))
    return FleetInventory(tuple(kinds), found, max(0, members - len(found)))
