"""The central side of the simulated campus: the real coordinator with its real database, killed and begun again."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

import msgspec

from deskgrid.coordinator.coordinator import Coordinator, RestoredState
from deskgrid.coordinator.cycle import Cycle
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import Database, open_database
from deskgrid.coordinator.images.catalogue import FixedCatalogue
from deskgrid.coordinator.orders import answer
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.fleet import AnotherAgent
from deskgrid.model.image import ImageFacts
from deskgrid.model.plan import Plan
from deskgrid.wire.messages import Answer, Enrol, Report
from tests.pool.fake import FakePool

from .clockwork import VirtualLoop


class Head:
    """A coordinator, while it lives; its database outlives it."""

    def __init__(self, settings: CoordinatorSettings, pool: FakePool, clock: VirtualLoop) -> None:
        self.settings, self.pool, self.clock = settings, pool, clock
        self.office: Coordinator | None = None
        self.cycle: Cycle | None = None
        self.restarts = 0
        self.images: list[ImageFacts] = []
        self._database: Database | None = None
        self._answering: set[asyncio.Task[Answer]] = set()

    def enrol(self, names: list[str], images: list[ImageFacts]) -> None:
        """Make desktops members. images: on offer from now on."""
        database, now = open_database(self.settings.database_url), self.clock.now()
        with database.begin() as connection:
            token, _ = membership.make_token(connection, 3600, len(names), "operator", now)
            for name in names:
                membership.enrol(connection, Enrol(token, name), now)
        database.close()
        self.images = images

    def begin(self) -> None:
        """Start the service."""
        self._database = open_database(self.settings.database_url)
        loaded = RestoredState(self._database, self.clock.now())
        self.office = Coordinator(self.settings, self.pool, self.clock.now, loaded, FixedCatalogue(*self.images))
        self.office.invalidate_ended()
        self.cycle = Cycle(self.office)

    async def end(self, *, killed: bool) -> None:
        """Stop it: SIGTERM, or kill -9, when what is not recorded is lost."""
        office, self.office, self.cycle = self.office, None, None
        assert office is not None and self._database is not None
        self.restarts += 1
        if killed:
            for task in list(self._answering):
                task.cancel()
            await office.ad_invalidation.close()
        else:
            await office.close()
        self._database.close()

    def ends(self) -> dict[str, int]:
        """Why VMs ended, as the database tells it, and how often."""
        database = open_database(self.settings.database_url)
        with database.begin() as connection:
            every = queries.recent_leases(connection, datetime(2000, 1, 1, tzinfo=UTC), 1_000_000)
        database.close()
        return dict(Counter(record.end.name if record.end else "lives" for record in every).most_common())

    def ask(self, name: str, report: Report, raw: bytes) -> asyncio.Future[Answer] | None:
        """A report comes in."""
        if self.office is None:
            return None
        task = asyncio.get_running_loop().create_task(self._answer(self.office, name, report, raw))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        return task

    async def _answer(self, office: Coordinator, name: str, report: Report, raw: bytes) -> Answer | None:
        try:
            said = await answer(office, name, report, raw)
        except AnotherAgent:  # a late report of an earlier life of this desktop's agent
            return None
        return msgspec.json.decode(msgspec.json.encode(said), type=Answer)

    async def plan(self) -> Plan | None:
        """One cycle, if it lives."""
        return None if self.cycle is None else await self.cycle.run()
