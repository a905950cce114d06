"""The coordinator's parts, brought up from the state folder and taken down again."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import Database
from deskgrid.coordinator.db.recorder import Recorder
from deskgrid.coordinator.db.values import Member
from deskgrid.coordinator.images.catalogue import Catalogue, FixedCatalogue
from deskgrid.coordinator.images.offering import Offering
from deskgrid.coordinator.images.signed import SignedCatalogue
from deskgrid.coordinator.long_polls import LongPolls
from deskgrid.coordinator.places import Places, Whereabouts
from deskgrid.coordinator.settings import CoordinatorSettings
from deskgrid.coordinator.state.ad_invalidation import RETRY, AdInvalidation
from deskgrid.coordinator.state.fleet import Fleet
from deskgrid.coordinator.state.inventories import Inventories
from deskgrid.coordinator.state.ledger import Ledger
from deskgrid.coordinator.state.neighbours import Neighbours
from deskgrid.coordinator.state.outcomes import KEPT_DAYS, LastVms, Outcomes
from deskgrid.coordinator.state.own_time import Clock, OwnTime
from deskgrid.coordinator.state.revocations import Journal
from deskgrid.core.fleet.lease import LeaseRecord, outcomes_of, spent_of
from deskgrid.core.fleet.view import View
from deskgrid.model.desktop import Desktop
from deskgrid.model.reason import Reason
from deskgrid.model.values.backoff import Backoff
from deskgrid.pool.contract import Pool
from deskgrid.wire.operator import DesktopInventory

T = TypeVar("T")
log = logging.getLogger(__name__)

GONE_SECONDS = 1800.0
"""Time after a VM's end at which its ads have surely expired."""
_TOKEN_DAY = timedelta(days=1)
"""No pool token lives longer (`guest.token_seconds`)."""


class Coordinator:
    """All that the service knows and does, without HTTP.

    members: every desktop that was ever enrolled. tokens: to enrol with, by id, without their secrets.
    bounds: of what comes from outside, as far as it can be full. view: what the last cycle saw and decided.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        pool: Pool,
        clock: Clock,
        loaded: "RestoredState",
        catalogue: Catalogue | None = None,
    ) -> None:
        """Take up what was loaded. catalogue: of images; by default the repository of the settings."""
        self.settings, self.pool, self.clock = settings, pool, clock
        self.started_at = clock()
        self.fleet = Fleet()
        self.neighbours = Neighbours(settings.plan.stale_seconds)
        self.long_polls = LongPolls(settings.max_held)
        self.journal = loaded.journal
        self.members = {member.name: member for member in loaded.members}
        self.tokens = {token.id: token for token in loaded.tokens}
        self.whereabouts = Whereabouts(lambda desktop: bool(self.ledger.of(desktop)))
        self.bounds: tuple[Places, ...] = ()
        self.inventories = Inventories(loaded.inventories)
        self.ledger = Ledger(
            settings.plan.lease_seconds,
            settings.guest.token_seconds,
            Outcomes(outcome for record in loaded.recent for outcome in outcomes_of(record)),
            LastVms(spent for record in loaded.recent if (spent := spent_of(record)) is not None),
        )
        self.ledger.changes.tellers.remember(loaded.recent)
        self.gone_seconds = max(GONE_SECONDS, settings.guest.token_seconds)
        self._restore(loaded)
        self.recorder = Recorder(loaded.database, self.ledger.changes, loaded.last_line)
        catalogue = catalogue or _catalogue(settings)
        self.offering = Offering(catalogue, self.recorder, loaded.image_names, settings.images.sources)
        self.view = View(at=self.started_at, settings=settings.plan)
        self._threads = ThreadPoolExecutor(4, "pool")
        self.ad_invalidation = AdInvalidation(self._invalidate, self._ads_gone, loaded.retry)

    def _restore(self, loaded: "RestoredState") -> None:
        """Take up leases, but for those of desktops that are no members: a backup or a crash has left them there."""
        since = self.started_at - timedelta(seconds=self.gone_seconds)
        gone = [record for record in loaded.gone if record.ended_at is None or record.ended_at >= since]
        self.ledger.restore(loaded.living, gone, self.started_at)
        for name in self.ledger.strangers(self.is_member):
            member = self.members.get(name)
            told = member.revoked_reason if member is not None else "it is not enrolled"
            self.ledger.cut_off(name, Reason("desktop-revoked", f"{name} was revoked: {told}"), self.started_at)
        self.ledger.condemn_older({member.name: member.enrolled_at for member in loaded.members})

    def is_member(self, desktop: str) -> bool:
        """Whether a desktop is enrolled and not revoked."""
        member = self.members.get(desktop)
        return member is not None and member.revoked_at is None

    def forget_desktop(self, name: str) -> None:
        """Forget what a desktop reported, and from where: it begins anew, or no more."""
        self.fleet.drop(name)
        self.neighbours.drop(name)
        self.whereabouts.drop(name)

    def desktops(self) -> tuple[Desktop, ...]:
        """The members that have reported, for a plan, no larger than their inventories say."""
        return tuple(self._within(one) for one in self.fleet.desktops() if self.is_member(one.name))

    def _within(self, desktop: Desktop) -> Desktop:
        known = self.inventories.get(desktop.name)
        if known is None:
            return desktop
        cpus, memory = known.inventory.cpus or desktop.cpus, known.inventory.memory_bytes or desktop.memory_bytes
        return msgspec.structs.replace(
            desktop, cpus=min(cpus, desktop.cpus), memory_bytes=min(memory, desktop.memory_bytes)
        )

    def keep_time(self) -> timedelta:
        """When this computer's clock was set, move all that is remembered with it. Returns: by how much."""
        by = self.clock.set_right() if isinstance(self.clock, OwnTime) else timedelta(0)
        if by:
            log.warning(
                "this computer's clock was set by %+.0f s; what is remembered is moved with it", by.total_seconds()
            )
            self.started_at += by
            for part in (self.ledger, self.fleet, self.neighbours):
                part.shift(by)
            self.view = self.view.shifted(by)
        return by

    async def ask_pool(self, ask: Callable[[], T]) -> T:
        """Run a call of the pool's in a thread of its own: HTCondor may take seconds."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def invalidate_ended(self) -> None:
        """Begin to take away the ads of VMs that have ended; those whose tokens must die are tried until they have."""
        ended, self.ledger.invalidated = self.ledger.invalidated, []
        self.ad_invalidation.begin([*ended, *self.ledger.condemned])

    def release(self) -> None:
        """Answer the held reports of all desktops whose orders have changed."""
        changed, self.ledger.released = self.ledger.released, set()
        for desktop in changed:
            self.long_polls.release(desktop)

    async def close(self) -> None:
        """Answer who waits, record what waits, let go of everything."""
        self.long_polls.close()
        self.recorder.wake()
        self.offering.close()
        await self.ad_invalidation.close()
        try:
            await self.recorder.close()
        except sa.exc.SQLAlchemyError as error:
            log.error("database: the last changes could not be written: %s", error)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _invalidate(self, vm_id: str) -> None:
        condemned, dies = self.ledger.condemned, None
        while dies is None or (vm_id in condemned and not dies):  # its desktop was revoked meanwhile
            dies = vm_id in condemned
            await self.ask_pool(partial(self.pool.forget_vm, vm_id, token_dies=dies))
        condemned.discard(vm_id)

    def _ads_gone(self, vm_id: str) -> None:
        self.ledger.ads_gone(vm_id, self.clock())
        self.recorder.soon()


def _catalogue(settings: CoordinatorSettings) -> Catalogue:
    if settings.images.repository is None:
        return FixedCatalogue(problems=("no image is on offer, since images.repository is not set",))
    return SignedCatalogue(settings.images, settings.state_dir / "images")


class RestoredState:
    """What the database held at the start."""

    def __init__(
        self,
        database: Database,
        now: datetime,
        retry: Backoff = RETRY,
        journal: Journal | None = None,
    ) -> None:
        self.database, self.retry = database, retry
        self.journal = Journal() if journal is None else journal
        with database.begin() as connection:
            self.journal.compare(connection, now)
            self._read(connection, now)

    def _read(self, connection: sa.Connection, now: datetime) -> None:
        self.members: list[Member] = queries.members(connection)
        self.tokens = queries.tokens(connection)
        self.image_names = queries.image_names(connection)
        self.inventories: list[DesktopInventory] = queries.inventories(connection)
        self.living: list[LeaseRecord] = queries.live_leases(connection)
        self.gone = queries.ended_leases(connection, now - _TOKEN_DAY, 10_000)
        self.recent = queries.recent_leases(connection, now - timedelta(days=KEPT_DAYS), 20_000)
        self.last_line = queries.last_line(connection)
