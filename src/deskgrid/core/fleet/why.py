"""Why? One sentence for a job or a desktop, from the very values that the last cycle decided with.

Rules:
- The first cause that explains the present state wins; what else is known follows as further reasons.
- Reasons that a decision returned are passed on as they are (the plan's, the policy's, the health's).
- What could not be read is said to be unknown, never guessed.
"""

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from deskgrid.core.fleet.demand import ad_of, covered, fresh, large_enough
from deskgrid.core.fleet.fitness import nobody_free, on_its_way, silent
from deskgrid.core.fleet.health import Health
from deskgrid.core.fleet.requirements import unmet
from deskgrid.core.fleet.view import View
from deskgrid.model.desktop import Desktop
from deskgrid.model.lease import Lease
from deskgrid.model.plan import LiveLease, Plan, Snapshot
from deskgrid.model.pool import NOT_SERVED, ON_SERVER, Job, OfflineAd, group_key
from deskgrid.model.reason import Reason
from deskgrid.model.values.text import counted

_STATUS = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "transferring output", 7: "suspended"}
_MIB = 1 << 20
_SHOWN = 2000


class Why(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer. reason: the cause that decides now. further: what else is known. vms: ids of the VMs concerned."""

    subject: str
    reason: Reason
    further: tuple[Reason, ...] = ()
    vms: tuple[str, ...] = ()


def why_job(job: Job, view: View, before: Reason | None = None) -> Why:
    """Why is this job where it is? before: what became of the VM that it ran in before, if it ran in one that ended."""
    answer = _why_job(job, view)
    return answer if before is None else msgspec.structs.replace(answer, further=(*answer.further, before))


def vm_of(host: str | None) -> str:
    """The VM's id in a name of HTCondor's (slot1_1@VM_ID.domain)."""
    return (host or "").rpartition("@")[2].partition(".")[0]


def ran_before(lease: Lease, end: Reason) -> Reason:
    """Why a job that ran in this VM no longer does."""
    return Reason(
        "ran-before",
        f"It ran on desktop {lease.desktop} until its virtual machine ended: {end.sentence}",
        f"virtual machine {lease.vm_id}",
    )


def _why_job(job: Job, view: View) -> Why:
    subject = f"job {job.id}"
    if job.status != 1:
        return _not_idle(subject, job, view)
    if job.vm_name is None:
        return Why(subject, _names_none(job))
    if (wrong := _not_for_machines(job)) is not None:
        return Why(subject, wrong)
    snapshot = view.snapshot
    if snapshot is None or view.plan is None:
        return Why(subject, Reason("no-cycle-yet", "The coordinator has just started and has not looked yet."))
    if (reason := _never(job, job.vm_name, view, snapshot)) is not None:
        return Why(subject, reason)
    coming = _coming(job, job.vm_name, view, snapshot)
    reason = _waits(job, job.vm_name, view, view.plan, snapshot, coming)
    return Why(subject, reason, _pool_faults(view), tuple(live.lease.vm_id for live in coming))


def _not_idle(subject: str, job: Job, view: View) -> Why:
    if job.status == 2:
        host = job.remote_host or "an unknown machine"
        return Why(
            subject, Reason("running", f"It runs on {host}.", f"start number {job.starts}"), vms=_here(job, view)
        )
    if job.status == 4:
        return Why(subject, Reason("completed", "It has finished.", f"started {counted(job.starts, 'time')}"))
    if job.status == 5:
        return Why(subject, Reason("held", f"It is held: {job.hold_reason or 'HTCondor does not say why'}"))
    state = _STATUS.get(job.status, f"in state {job.status}")
    return Why(subject, Reason(state.replace(" ", "-"), f"It is {state}."))


def _here(job: Job, view: View) -> tuple[str, ...]:
    """The VM that a job runs in: as its own ad names the machine (slot1_1@VM_ID.domain), or as the collector says."""
    machine = vm_of(job.remote_host)
    leases = view.snapshot.leases if view.snapshot is not None else ()
    named = tuple(live.lease.vm_id for live in leases if live.lease.vm_id == machine)
    return named or tuple(m.vm_id for m in (view.pool.machines or () if view.pool else ()) if job.id in m.jobs)


def _names_none(job: Job) -> Reason:
    return Reason(
        "names-no-image",
        "It names no image (+vm_name), so it may use virtual machines that run already, but none is started for it.",
        _asked(job),
    )


def _asked(job: Job) -> str:
    """Its Requirements, for a person: no book."""
    text = job.requirements
    return f"Requirements: {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"


def _not_for_machines(job: Job) -> Reason | None:
    """What keeps a job that seems to name an image from every machine, or None."""
    if not job.named_by_text:
        return Reason(
            "image-no-text",
            f'Its vm_name is no text, the quotation marks are missing: write +vm_name = "{job.vm_name}". No machine is '
            "started for it.",
            f"vm_name = {job.vm_name}",
        )
    if job.universe in ON_SERVER:
        return Reason(
            "on-submit-server",
            f"It is a job of the {ON_SERVER[job.universe]} universe, which runs on the submit server, in no machine; "
            "vm_name does nothing for it.",
        )
    kind = "container" if job.container else NOT_SERVED.get(job.universe)
    if kind is None:
        return None
    return Reason(
        "universe-not-served",
        f"It is a job of the {kind} universe, which the virtual machines here do not run; vanilla jobs they do.",
    )


def _never(job: Job, image: str, view: View, snapshot: Snapshot) -> Reason | None:
    """What will not change by waiting, or None."""
    names = sorted(facts.ref.name for facts in snapshot.images)
    if image not in names:
        if (known := view.absent.get(image)) is not None:
            return msgspec.structs.replace(known, sentence=f"Image {image} is not on offer: {known.sentence}")
        offered = ", ".join(names) or "none"
        return Reason("image-unknown", f"No image named {image[:64]!r} is on offer.", f"on offer: {offered}")
    facts = next(facts for facts in snapshot.images if facts.ref.name == image)
    ads = [ad_of(facts, size) for size in view.settings.sizes if size.memory_bytes >= facts.memory_bytes]
    enough = [ad for ad in ads if large_enough(ad, job)]
    if not enough:
        return _too_large(job, image, ads)
    lacking = [unmet(job.requirements, ad) for ad in enough]
    if lacking[0] is not None and all(lacking):
        return Reason(
            "requirements-unmet",
            f"It asks for {lacking[0].condition}, and no machine of {image} meets that: {lacking[0].why}.",
            _asked(job),
        )
    return None


def _too_large(job: Job, image: str, ads: Sequence[OfflineAd]) -> Reason:
    sizes = (
        f"{counted(ad.size.cpus, 'CPU')} with {ad.size.memory_bytes // _MIB} MiB, {ad.disk_bytes // _MIB} MiB of disk"
        for ad in ads
    )
    disk_mib = -(-job.disk_kib // 1024)
    return Reason(
        "too-large",
        f"It asks for {counted(job.cpus, 'CPU')}, {job.memory_mb} MiB and {disk_mib} MiB of disk, and no virtual "
        "machine so large is offered.",
        f"offered for {image}: {', '.join(sizes) or 'none'}",
    )


def _waits(job: Job, image: str, view: View, plan: Plan, snapshot: Snapshot, coming: Sequence[LiveLease]) -> Reason:
    """Why an idle job that names an image on offer does not run yet."""
    if (over := view.passed.get(group_key(job.schedd, job.autocluster, image))) is not None:
        return over.reason
    if coming:
        desktops = ", ".join(live.lease.desktop for live in coming[:3])
        number = f"{counted(len(coming), 'virtual machine')} of {image}"
        return Reason("vm-starting", f"{number} on the way for the jobs that wait.", f"on {desktops}")
    pool = view.pool
    if pool is None or pool.matches is None:
        faults = "; ".join(view.faults) or "no cause told"
        return Reason("demand-unknown", "HTCondor could not be asked what it would run, so nothing is started.", faults)
    matched = any(
        m.image == image and m.autocluster == job.autocluster and m.schedd == job.schedd
        for m in fresh(pool.matches, pool.at, view.settings)
    )
    shortage = next((s.reason for s in plan.shortages if s.image == image), None)
    if matched and shortage is not None:
        return shortage
    if (resting := plan.resting.get(image)) is not None:
        return resting
    if not covered(view.ads, job):
        names = [desktop.name for desktop in snapshot.desktops]
        alone = Health(snapshot.outcomes, view.settings).of_the_only(image, names, plan.at)
        return alone or nobody_free(image, len(names), plan.desktops)
    if matched:
        return Reason("matched", "HTCondor has matched it; a virtual machine is started for it in the next cycle.")
    return _unmatched(job, image, view)


def _unmatched(job: Job, image: str, view: View) -> Reason:
    """Ads are there, and HTCondor has not matched the job with one: not yet, or not at all."""
    waited = view.idle_since.get(group_key(job.schedd, job.autocluster, image), view.at)
    offered = min((view.ads_since.get(ad, view.at) for ad in view.ads if ad.image == image), default=view.at)
    both = max(waited, offered)
    if view.at - both < timedelta(seconds=view.negotiation_seconds):
        return Reason(
            "not-negotiated",
            "HTCondor has not negotiated for it yet since it and a desktop that could serve it are both there.",
            f"for {(view.at - both).total_seconds():.0f} s, "
            f"HTCondor negotiates at least every {view.negotiation_seconds:.0f} s",
        )
    if (bounded := _bounded(job, view)) is not None:
        return bounded
    return Reason(
        "requirements-fit-nothing",
        f"Desktops could start {image}, but HTCondor does not match it with any: its Requirements, a quota or the "
        "pool's own rules exclude it.",
        _asked(job),
    )


_MATCHES_OF_A_USER = 20


def _bounded(job: Job, view: View) -> Reason | None:
    """Whether others' matches may have used up what its schedd lets a user have in one cycle."""
    pool = view.pool
    if pool is None or pool.matches is None or job.schedd not in pool.limiting:
        return None
    count = sum(m.count for m in fresh(pool.matches, pool.at, view.settings) if m.schedd == job.schedd)
    if count < _MATCHES_OF_A_USER:
        return None
    return Reason(
        "matches-bounded",
        f"HTCondor has matched {counted(count, 'job')} of {job.schedd} with what could be started, and its version "
        f"offers a user no more than {_MATCHES_OF_A_USER} at a time; say SCHEDD_ENABLE_PER_USER_MATCH_LIMITS = False "
        "there (deskgrid pool configure does).",
        _asked(job),
    )


def abroad(job_id: str, view: View) -> Why | None:
    """What to say of a job that no schedd of this pool knows, while others' schedds flock here; None: none does."""
    pool = view.pool
    if pool is None or not pool.foreign:
        return None
    told = "; ".join(f"{foreign.schedd}: {counted(foreign.idle, 'job')} waiting" for foreign in pool.foreign)
    bounded = ", ".join(foreign.schedd for foreign in pool.foreign if foreign.schedd in pool.limiting)
    further = Reason(
        "matches-bounded",
        f"The version of {bounded} offers a user no more than {_MATCHES_OF_A_USER} matches at a time, until "
        "SCHEDD_ENABLE_PER_USER_MATCH_LIMITS = False is said there.",
    )
    return Why(
        f"job {job_id}",
        Reason(
            "job-abroad",
            "No schedd of this pool knows it; it may be a job of another pool that flocks here, which can't be asked.",
            told,
        ),
        (further,) if bounded else (),
    )


def _coming(job: Job, image: str, view: View, snapshot: Snapshot) -> list[LiveLease]:
    """VMs on their way in which the job would fit."""
    coming = []
    for live in snapshot.leases:
        size = live.lease.size
        if live.lease.image.name != image or size.cpus < job.cpus or size.memory_bytes // _MIB < job.memory_mb:
            continue
        if on_its_way(live, view.settings, view.at):
            coming.append(live)
    return coming


def _pool_faults(view: View) -> tuple[Reason, ...]:
    return tuple(Reason("pool-fault", fault) for fault in view.faults)


class Membership(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a desktop belongs to the grid. revoked: why it no longer does. warnings: what is odd about it."""

    enrolled: bool
    revoked: str | None = None
    warnings: tuple[Reason, ...] = ()


def why_desktop(
    name: str, membership: Membership, desktop: Desktop | None, leases: Sequence[LiveLease], view: View
) -> Why:
    """Why does this desktop run what it runs, or nothing?

    Args:
        desktop: its last report, or None when it has not reported since the coordinator started.
        leases: its living leases.
    """
    subject = f"desktop {name}"
    vms = tuple(live.lease.vm_id for live in leases)
    if not membership.enrolled:
        sentence = f"No desktop named {name} is enrolled; enrol it with a token of the operator."
        return Why(subject, Reason("not-enrolled", sentence))
    if membership.revoked is not None:
        return Why(subject, Reason("revoked", f"{name} was revoked: {membership.revoked}"))
    if desktop is None:
        sentence = f"{name} has not reported since the coordinator started; is its agent running?"
        return Why(subject, Reason("never-reported", sentence), membership.warnings, vms)
    planned = view.plan.desktops.get(name) if view.plan is not None else None
    causes = [*desktop.availability.refusals, *([planned] if planned is not None else [])]
    if (silence := silent(desktop, view.settings, view.at)) is not None:
        causes = [silence, *causes]
    elif desktop.vms:
        causes = [_runs(desktop), *(vm.reason for vm in desktop.vms), *causes]
    elif leases:
        causes = [_ordered(name, leases), *causes]
    if not causes:
        causes = [Reason("not-planned", f"{name} has reported; the next cycle decides about it.")]
    first, *further = dict.fromkeys(causes)
    return Why(subject, first, (*further, *membership.warnings), vms)


def _runs(desktop: Desktop) -> Reason:
    told = ", ".join(f"{vm.vm_id} ({vm.image.name}) {vm.state}" for vm in desktop.vms)
    return Reason("has-vms", f"{desktop.name} has {counted(len(desktop.vms), 'virtual machine')}.", told)


def _ordered(name: str, leases: Sequence[LiveLease]) -> Reason:
    told = ", ".join(f"{live.lease.vm_id} ({live.lease.image.name})" for live in leases)
    return Reason(
        "ordered",
        f"{name} has been told to start {counted(len(leases), 'virtual machine')} and has not said yet that it has.",
        told,
    )
