"""One cycle: what HTCondor says, what desktops said, one plan, leases.

Rules:
- HTCondor is asked in threads, with an end to the waiting; what it did not say is unknown, and nothing shrinks on that.
- One snapshot, one `now`; the plan is a pure function of them and is made outside the event loop too.
- A revoked image's VMs are withdrawn before anything else is decided.
- A grant becomes a lease in this order: an id, a pool token, the record, then the desktop's order.
- A coordinator that was itself away (stopped, asleep) does not hold it against the desktops; nor does one whose clock
  was set (own_time.py).
"""

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.state.credentials import new_id
from deskgrid.core.fleet.backfill import idle, without
from deskgrid.core.fleet.demand import offers, wants
from deskgrid.core.fleet.giving import PassedOver, bounded, passed_over
from deskgrid.core.fleet.health import Health
from deskgrid.core.fleet.plan import plan
from deskgrid.core.fleet.view import View, with_waiting
from deskgrid.model.lease import Lease
from deskgrid.model.plan import Grant, Plan, PlanSettings, Snapshot
from deskgrid.model.pool import OfflineAd, PoolSnapshot
from deskgrid.model.reason import Reason
from deskgrid.pool.contract import PoolError

log = logging.getLogger(__name__)
_MAKES_WAY = Reason("backfill-makes-way", "It ran only while no job waited; now one needs its desktop.")

TOKENS = 50
"""Tokens that are renewed in one cycle at most: each costs a run of one of HTCondor's programs."""
IMAGES_SECONDS = 10.0
"""A look at the repository of images that takes longer goes on beside the next cycles."""


class Cycle:
    """Runs cycles of one coordinator, one after the other."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._asking: asyncio.Task[PoolSnapshot] | None = None
        self._last_at = coordinator.started_at
        self._tokens_by = timedelta(0)
        self._advertised: tuple[OfflineAd, ...] | None = None
        self._advertised_at = coordinator.started_at
        self._faults: tuple[str, ...] = ()

    async def run(self) -> Plan:
        """Run one cycle. Raises: SQLAlchemyError when the database refuses; the next cycle tries again."""
        coordinator = self._coordinator
        await self._keep_time()
        looked, heard = await asyncio.gather(self._look(), self._ask())
        now = coordinator.clock()
        await self._withdraw_revoked(now)
        if looked is not None:
            raise looked
        self._keep_leases(heard, now)
        snapshot = Snapshot(
            coordinator.desktops(),
            coordinator.ledger.for_plan(),
            tuple(facts for _, facts in sorted(coordinator.offering.images(now).items())),
            None,
            coordinator.ledger.outcomes.all(now),
            coordinator.ledger.last_vms.all(now),
        )
        passed = self._passed_over(heard, snapshot, now)
        snapshot = msgspec.structs.replace(snapshot, wants=wants(heard, coordinator.settings.plan, passed))
        made, ads = await asyncio.to_thread(_decide, snapshot, coordinator.settings.plan, now)
        self._make_way(made.make_way, now)
        told = [*heard.faults, *await self._give(made.grants, now), *await self._advertise(ads, heard, now)]
        faults = tuple(dict.fromkeys(told))
        coordinator.view = with_waiting(
            coordinator.view,
            View(
                at=now,
                settings=coordinator.settings.plan,
                pool=heard,
                snapshot=snapshot,
                plan=made,
                ads=self._advertised or (),
                negotiation_seconds=coordinator.settings.negotiation_seconds,
                faults=faults,
                absent=coordinator.offering.absent(now),
                passed=passed,
            ),
        )
        self._tell_faults(faults)
        return made

    async def _look(self) -> sa.exc.SQLAlchemyError | None:
        """Look at the repository of images; what the database says against it waits for the revocations."""
        try:
            await self._coordinator.offering.refresh(self._coordinator.clock(), IMAGES_SECONDS)
        except sa.exc.SQLAlchemyError as error:
            return error
        return None

    async def _keep_time(self) -> None:
        coordinator = self._coordinator
        by = coordinator.keep_time()
        self._last_at += by
        self._advertised_at += by
        self._tokens_by += by  # until the database has taken it
        if self._tokens_by:
            moved = await coordinator.recorder.call(
                lambda connection: queries.shift_tokens(connection, self._tokens_by)
            )
            self._tokens_by = timedelta(0)
            coordinator.tokens.update({token.id: token for token in moved})

    def _keep_leases(self, heard: PoolSnapshot, now: datetime) -> None:
        """Bring the ledger up to date with the collector and with time."""
        coordinator = self._coordinator
        settings = coordinator.settings.plan
        if (now - self._last_at).total_seconds() > settings.stale_seconds:
            coordinator.ledger.prolong(now)
        self._last_at = now
        join_seconds = None
        if heard.machines is not None:
            coordinator.ledger.see(heard.machines, now)
            join_seconds = settings.join_seconds
        coordinator.ledger.expire(now, join_seconds)
        coordinator.release()
        coordinator.ledger.drop_gone(now - timedelta(seconds=coordinator.gone_seconds))
        coordinator.invalidate_ended()

    async def _withdraw_revoked(self, now: datetime) -> None:
        """End the VMs of images that were revoked; those that can't be opened any more are not waited for."""
        coordinator, changed = self._coordinator, False
        for live in coordinator.ledger.all():
            reason = coordinator.offering.forbids(live.lease.image, shown=live.record.shown_at is not None)
            changed |= reason is not None and coordinator.ledger.withdraw(live.lease.vm_id, reason, now)
        try:
            if changed:
                await coordinator.recorder.flush()
        finally:  # they end also when it can't be recorded now
            coordinator.release()

    def _passed_over(self, heard: PoolSnapshot, snapshot: Snapshot, now: datetime) -> dict[str, PassedOver]:
        """The groups of jobs that machines came for in vain."""
        coordinator = self._coordinator
        return passed_over(heard.idle or (), coordinator.view.idle_since, snapshot, coordinator.settings.plan, now)

    async def _ask(self) -> PoolSnapshot:
        """What HTCondor says now; nothing when it takes too long (it is then asked no second time meanwhile)."""
        coordinator = self._coordinator
        if self._asking is None:
            self._asking = asyncio.create_task(coordinator.ask_pool(coordinator.pool.snapshot))
        done, _ = await asyncio.wait({self._asking}, timeout=coordinator.settings.pool_seconds)
        if not done:
            told = f"HTCondor has not answered for {coordinator.settings.pool_seconds:.0f} s"
            return PoolSnapshot(coordinator.clock(), None, None, None, (told,))
        task, self._asking = self._asking, None
        try:
            return task.result()
        except PoolError as error:
            return PoolSnapshot(coordinator.clock(), None, None, None, (str(error),))
        except Exception as error:
            log.exception("cycle: what HTCondor said could not be read")
            told = f"HTCondor: {type(error).__name__} at what it said; the coordinator's log says more"
            return PoolSnapshot(coordinator.clock(), None, None, None, (told,))

    def _make_way(self, vm_ids: Iterable[str], now: datetime) -> None:
        """End backfill VMs, since jobs need their desktops; it is recorded with what follows."""
        for vm_id in vm_ids:
            self._coordinator.ledger.withdraw(vm_id, _MAKES_WAY, now)
        self._coordinator.release()

    async def _give(self, grants: Iterable[Grant], now: datetime) -> list[str]:
        """Turn grants into leases, make tokens that a restart has lost or that grow old, and tell the desktops."""
        coordinator = self._coordinator
        until = now + timedelta(seconds=coordinator.settings.plan.lease_seconds)
        new = [Lease(f"vm-{new_id()}", g.desktop, g.image, g.size, now, until, g.reason) for g in grants]
        lost = coordinator.ledger.tokens_due(now, TOKENS)
        made = await asyncio.gather(
            *(self._mint(i) for i in [*(le.vm_id for le in new), *(li.lease.vm_id for li in lost)])
        )
        faults = [m for m in made if isinstance(m, PoolError)]
        for lease, token in zip(new, made, strict=False):
            if isinstance(token, str) and self._still_there(lease.desktop):
                coordinator.ledger.grant(lease, token)
        for live, token in zip(lost, made[len(new) :], strict=True):
            if isinstance(token, str):
                coordinator.ledger.renew_token(live, token, now)
        await coordinator.recorder.flush()
        coordinator.release()
        return list(dict.fromkeys(str(fault) for fault in faults))

    def _still_there(self, desktop: str) -> bool:
        return self._coordinator.is_member(desktop)

    async def _mint(self, vm_id: str) -> str | PoolError:
        coordinator = self._coordinator
        try:
            return await coordinator.ask_pool(
                lambda: coordinator.pool.mint_token(vm_id, coordinator.settings.guest.token_seconds)
            )
        except PoolError as error:
            return error

    async def _advertise(self, ads: tuple[OfflineAd, ...], heard: PoolSnapshot, now: datetime) -> list[str]:
        """Say to HTCondor what could be started: when that changed, is to be refreshed, or may have been forgotten."""
        coordinator = self._coordinator
        if heard.matches is None and heard.idle is None:
            return []  # nobody is there to be told
        age = (now - self._advertised_at).total_seconds()
        if heard.matches is not None and ads == self._advertised and age < coordinator.settings.advertise_seconds:
            return []
        try:
            await coordinator.ask_pool(lambda: coordinator.pool.advertise(ads))
        except PoolError as error:
            self._advertised = None
            return [str(error)]
        self._advertised, self._advertised_at = ads, now
        return []

    def _tell_faults(self, faults: tuple[str, ...]) -> None:
        """Log what is wrong once, and once that it is right again."""
        if faults == self._faults:
            return
        for fault in faults:
            if fault not in self._faults:
                log.warning("cycle: %s", fault)
        if self._faults and not faults:
            log.info("cycle: HTCondor answers again")
        self._faults = faults


def _decide(snapshot: Snapshot, settings: PlanSettings, now: datetime) -> tuple[Plan, tuple[OfflineAd, ...]]:
    health = Health(snapshot.outcomes, settings)
    spare = without(bounded(snapshot, settings), idle(snapshot.leases, settings))
    offered = offers(msgspec.structs.replace(snapshot, desktops=spare), settings, health, now)
    return plan(snapshot, settings, now), offered


async def run_cycles(coordinator: Coordinator, stopping: asyncio.Event) -> None:
    """Run cycles until told to stop. A fault of one cycle is logged and does not end them."""
    cycle = Cycle(coordinator)
    failed = ""
    while not stopping.is_set():
        try:
            await cycle.run()
            failed = ""
        except sa.exc.SQLAlchemyError as error:
            if str(error) != failed:
                failed = str(error)
                log.error("cycle: the database refuses, tried again: %s", error)
        except Exception:
            log.exception("cycle: failed; the next one tries again")
        try:
            async with asyncio.timeout(coordinator.settings.cycle_seconds):
                await stopping.wait()
        except TimeoutError:
            continue
