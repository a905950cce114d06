"""A report comes in; the answer says all that its desktop should run.

Rules:
- The hot path: a report that changes nothing touches no database.
- What the answer acknowledges is recorded before it is said.
- Orders name every living lease of the desktop. The VM's instance data, with its pool token, and its image's key go
  along only while the desktop has not shown the VM; a lease that is not recorded, or whose token is not made yet, or
  whose image can't be opened now, is not named.
- A report that finds nothing to say may be held open, if its desktop can take orders.
"""

from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db.story_rights import REPORT_LINES
from deskgrid.coordinator.state.ledger import ActiveLease
from deskgrid.core.fleet.lease import LeaseState
from deskgrid.model.instance import InstanceData
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Answer, Order, Report

SOON_SECONDS = 1.0
"""A desktop that can be told at once reports again so soon after an answer that was not held."""


async def answer(coordinator: Coordinator, name: str, report: Report, raw: bytes, where: str = "") -> Answer:
    """Take a report in and say what the desktop should run.

    Args:
        name: the desktop, authenticated. raw: the report as it came. where: the address it came from.

    Raises:
        AnotherAgent: when the report's agent was superseded. SQLAlchemyError: when an end or an inventory could
        not be recorded.
    """
    now = coordinator.clock()
    fresh = coordinator.fleet.take(name, report, raw, now)
    if fresh:
        coordinator.long_polls.release(name)
        _take_in(coordinator, name, report, where)
    if fresh and report.inventory is not None:
        await coordinator.inventories.keep(coordinator.recorder, name, report.inventory, now)
    if report.ended or report.story or coordinator.ledger.invalidated:
        coordinator.invalidate_ended()
        await coordinator.recorder.flush()
    told = _orders(coordinator, name, report)
    _note_ordered(coordinator, told)
    expired = False
    if fresh and _may_wait(coordinator, report) and _nothing_to_say(report, told):
        expired = await coordinator.long_polls.wait(name, min(report.wait_seconds, coordinator.settings.hold_seconds))
        told = _orders(coordinator, name, report)
        _note_ordered(coordinator, told)
    soon = 0.0 if expired else SOON_SECONDS if _may_wait(coordinator, report) else coordinator.settings.report_seconds
    return Answer(
        to=report.sequence,
        now=coordinator.clock(),
        orders=told,
        next_report_seconds=soon,
        acknowledged=tuple(vm.vm_id for vm in report.ended),
        story_count=min(len(report.story), REPORT_LINES),
        revocations=len(coordinator.journal),
    )


def _take_in(coordinator: Coordinator, name: str, report: Report, where: str) -> None:
    now = coordinator.clock()
    coordinator.ledger.hear(name, report.vms, report.ended, now)
    coordinator.ledger.released.discard(name)  # this very answer says what has changed
    coordinator.neighbours.hear(name, where, report, now)
    if report.story:
        known = coordinator.fleet.get(name)
        coordinator.ledger.changes.retell(name, report.story[:REPORT_LINES], known.skew_seconds if known else 0.0, now)


def _orders(coordinator: Coordinator, name: str, report: Report) -> tuple[Order, ...]:
    leases = coordinator.ledger.of(name)
    if not leases:
        return ()
    shown = {vm.vm_id for vm in report.vms}
    return tuple(
        order for live in leases if (order := _order(coordinator, live, live.lease.vm_id in shown)) is not None
    )


def _note_ordered(coordinator: Coordinator, orders: tuple[Order, ...]) -> None:
    """Desktops are told to start these."""
    for order in orders:
        if order.instance is not None:
            coordinator.ledger.ordered(order.lease.vm_id, coordinator.clock())
    coordinator.recorder.soon()


def _order(coordinator: Coordinator, live: ActiveLease, shown: bool) -> Order | None:
    if live.record.state in (LeaseState.GRANTED, LeaseState.WITHDRAWN):
        return None
    if shown:
        return Order(live.lease, token=live.renewed)
    image = coordinator.offering.grant(live.lease.image)
    if live.token is None or isinstance(image, Reason):
        return None
    guest, lease = coordinator.settings.guest, live.lease
    return Order(
        lease,
        InstanceData(
            vm_id=lease.vm_id,
            vm_name=lease.image.name,
            desktop=lease.desktop,
            collector=guest.collector,
            token=live.token,
            trust_domain=guest.trust_domain,
            cpus=lease.size.cpus,
            memory_mb=lease.size.memory_bytes >> 20,
            unused_seconds=guest.unused_seconds,
        ),
        image and coordinator.neighbours.enclose(image, lease, coordinator.clock()),
    )


def _may_wait(coordinator: Coordinator, report: Report) -> bool:
    return (
        report.wait_seconds > 0
        and (report.availability.available or bool(report.vms))
        and coordinator.settings.hold_seconds > 0
        and coordinator.long_polls.has_place
    )


def _nothing_to_say(report: Report, told: tuple[Order, ...]) -> bool:
    return not report.ended and not report.story and {o.lease.vm_id for o in told} == {vm.vm_id for vm in report.vms}
