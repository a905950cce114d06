"""From what the coordinator knows to what the operator is shown."""

from collections import Counter

import msgspec

from deskgrid import __version__
from deskgrid.coordinator.coordinator import Coordinator
from deskgrid.coordinator.db.values import Member
from deskgrid.coordinator.state.inventories import FleetInventory, fleet
from deskgrid.core.fleet import why
from deskgrid.core.fleet.lease import LeaseRecord
from deskgrid.core.fleet.view import View
from deskgrid.core.fleet.why import Why
from deskgrid.core.policy import refusals
from deskgrid.model.pool import Job
from deskgrid.model.reason import Reason
from deskgrid.pool.contract import PoolError
from deskgrid.wire.operator import DesktopView, GridStatus, ImageList, ImageView, VmView


def status(coordinator: Coordinator, fingerprint: str) -> GridStatus:
    """The service as a whole."""
    view, now = coordinator.view, coordinator.clock()
    limit = coordinator.settings.plan.stale_seconds
    reporting = [known for known in coordinator.fleet if (now - known.received_at).total_seconds() <= limit]
    lives = coordinator.ledger.all()
    return GridStatus(
        version=__version__,
        started_at=coordinator.started_at,
        cycle_at=view.at,
        desktops=sum(member.revoked_at is None for member in coordinator.members.values()),
        reporting=len(reporting),
        available=sum(known.report.availability.available for known in reporting),
        held_reports=len(coordinator.long_polls),
        vms=len(lives),
        joined=sum(live.record.joined_at is not None for live in lives),
        images=tuple(facts for _, facts in sorted(coordinator.offering.images(now).items())),
        ads=view.ads,
        wants=view.snapshot.wants if view.snapshot is not None else None,
        shortages=view.plan.shortages if view.plan is not None else (),
        pool_faults=view.faults,
        last_line=coordinator.recorder.last_line,
        ca_fingerprint=fingerprint,
        image_problems=coordinator.offering.problems,
        problems=(
            *coordinator.journal.problems(coordinator.fleet),
            *(places.full for places in coordinator.bounds if places.full),
        ),
    )


def images(coordinator: Coordinator) -> ImageList:
    """All versions of all images, by name."""
    offered = {facts.ref for facts in coordinator.offering.images(coordinator.clock()).values()}
    held = Counter(ref for known in coordinator.fleet for ref in set(known.report.images))
    running = Counter(live.lease.image for live in coordinator.ledger.all())
    wanted = Counter[str]()
    for group in (coordinator.view.pool.idle or ()) if coordinator.view.pool is not None else ():
        wanted[group.vm_name] += group.idle
    listed = sorted(coordinator.offering.versions, key=lambda v: (v.ref.name, v.project, v.number))
    told = {one.ref.name: one.ref for one in listed if one.latest} | {ref.name: ref for ref in offered}
    return ImageList(
        tuple(
            ImageView(
                project=one.project,
                image=one.ref.name,
                version=one.version,
                digest=one.ref.digest,
                offered=one.ref in offered,
                latest=one.latest,
                refused=coordinator.offering.forbids(one.ref, shown=False),
                signers=one.signers,
                memory_bytes=one.memory_bytes,
                disk_bytes=one.disk_bytes,
                size_bytes=one.size_bytes,
                held_by=held[one.ref],
                running=running[one.ref],
                wanted=wanted[one.ref.name] if told.get(one.ref.name) == one.ref else 0,
            )
            for one in listed
        ),
        coordinator.offering.problems,
        coordinator.offering.until,
    )


def desktop(coordinator: Coordinator, member: Member, whole: bool = False) -> DesktopView:
    """One desktop; with `whole`, its unknown fields and its inventory too."""
    known = coordinator.fleet.get(member.name)
    answer = why_desktop(coordinator, member.name)
    shown = DesktopView(
        member.name,
        member.enrolled_at,
        "revoked" if member.revoked_at is not None else "never reported",
        member.revoked_at,
        reason=answer.reason,
        leases=answer.vms,
        inventory=coordinator.inventories.get(member.name) if whole else None,
    )
    if known is None:
        return shown
    report = known.report
    silent = (coordinator.clock() - known.received_at).total_seconds() > coordinator.settings.plan.stale_seconds
    state = "silent" if silent else refusals.state(report.availability, report.room)
    return msgspec.structs.replace(
        shown,
        reported_at=known.received_at,
        silent=silent,
        state=state if member.revoked_at is None else shown.state,
        availability=report.availability,
        room=report.room,
        cpus=report.cpus,
        memory_bytes=report.memory_bytes,
        images=report.images,
        vms=report.vms,
        system=report.system,
        agent_version=report.agent_version,
        skew_seconds=round(known.skew_seconds, 1),
        warnings=known.warnings(),
        unknown=known.unknown_fields() if whole else {},
    )


def inventory(coordinator: Coordinator) -> FleetInventory:
    """What the fleet's desktops are made of; those whose membership has ended do not count."""
    members = {name for name, member in coordinator.members.items() if member.revoked_at is None}
    return fleet((one for one in coordinator.inventories.all() if one.desktop in members), len(members))


def vms(coordinator: Coordinator) -> list[VmView]:
    """The VMs that live, oldest first."""
    return [
        VmView(
            vm_id=live.lease.vm_id,
            desktop=live.lease.desktop,
            image=live.lease.image,
            size=live.lease.size,
            state=live.report.state if live.report is not None else "ordered",
            granted_at=live.lease.granted_at,
            until=live.lease.until,
            reason=live.report.reason if live.report is not None else live.lease.reason,
            joined_at=live.record.joined_at,
            claimed=live.record.claimed,
            withdrawn=live.withdrawn,
            accelerator=live.record.accelerator,
            jobs=live.jobs,
        )
        for live in coordinator.ledger.all()
    ]


def why_job(coordinator: Coordinator, job: Job, ran_in: LeaseRecord | None) -> Why:
    """Why does this job wait, or where is it? ran_in: the VM that it ran in before."""
    ended = ran_in.end if ran_in is not None and ran_in.ended_at is not None else None
    before = why.ran_before(ran_in.lease, ended) if ran_in is not None and ended is not None else None
    return why.why_job(job, _view(coordinator), before)


def abroad(coordinator: Coordinator, job_id: str) -> Why | None:
    """What may be said of a job that no schedd of this pool knows."""
    return why.abroad(job_id, coordinator.view)


def pool_silent(job_id: str, error: PoolError) -> Why:
    """HTCondor could not be asked about the job."""
    return Why(f"job {job_id}", Reason("pool-unknown", "HTCondor could not be asked about this job.", str(error)))


def why_desktop(coordinator: Coordinator, name: str) -> Why:
    """Why does this desktop run what it runs, or nothing?"""
    member, known = coordinator.members.get(name), coordinator.fleet.get(name)
    membership = why.Membership(
        enrolled=member is not None,
        revoked=member.revoked_reason if member is not None and member.revoked_at is not None else None,
        warnings=known.warnings() if known is not None else (),
    )
    mine = [live.counted() for live in coordinator.ledger.of(name) if live.withdrawn is None]
    view = msgspec.structs.replace(coordinator.view, at=coordinator.clock())
    return why.why_desktop(name, membership, known.desktop() if known is not None else None, mine, view)


def _view(coordinator: Coordinator) -> View:
    """The last cycle's values, with the leases of now."""
    view = coordinator.view
    if view.snapshot is None:
        return view
    return msgspec.structs.replace(
        view, snapshot=msgspec.structs.replace(view.snapshot, leases=coordinator.ledger.for_plan())
    )
