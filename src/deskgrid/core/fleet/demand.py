"""From what the negotiator matched to how many VMs are wanted, and which machines may be advertised at all.

Rules:
- HTCondor decides: a job counts only if the negotiator matched it with an offline ad of ours.
- A match is a memory of the past: it counts while it is fresh, and for no more jobs of its image than are idle now. The
  same jobs may have been matched with several sizes in turn: the newest match counts first.
- A schedd of another pool that flocks here can't be asked for its jobs: no more of its matches count than jobs wait
  there.
- Jobs share a VM if they fit: a VM of 4 cores is one VM for four jobs of one core.
- What could not be read is unknown, not empty: without matches there is no answer at all (None).
- An ad says "the fleet could start this now". When no desktop could, it is withdrawn.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from math import ceil

from deskgrid.core.fleet.fitness import could_start
from deskgrid.core.fleet.giving import PassedOver
from deskgrid.core.fleet.groups import together
from deskgrid.core.fleet.health import Health
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Size
from deskgrid.model.plan import PlanSettings, Snapshot, Want
from deskgrid.model.pool import Job, JobGroup, Match, OfflineAd, PoolSnapshot, group_key

_MIB = 1 << 20
AHEAD = timedelta(seconds=60)
"""A match that is from the future by more was written by a clock that was wrong: else it would count until then."""


def wants(
    pool: PoolSnapshot, settings: PlanSettings, passed: Mapping[str, PassedOver] | None = None
) -> tuple[Want, ...] | None:
    """Turn matches into VMs.

    Args:
        passed: the groups that machines passed over, by `JobGroup.key`: none or one VM is wanted for each.

    Returns: one Want per image and size with demand, ordered; None when the matches could not be read.
    """
    if pool.matches is None:
        return None
    idle = None if pool.idle is None else together(pool.idle)
    waiting = {} if idle is None else {key: group.idle for key, group in idle.items()}
    abroad = {foreign.schedd: foreign.idle for foreign in pool.foreign}
    share: dict[tuple[str, Size], float] = {}
    jobs: dict[tuple[str, Size], int] = {}
    counting = fresh(pool.matches, pool.at, settings)
    for match in sorted(counting, key=lambda m: (pool.at - m.matched_at, m.image, m.size)):
        jobs_of = group_key(match.schedd, match.autocluster, match.image)
        group = None if idle is None else idle.get(jobs_of)
        if match.schedd in abroad:
            count = min(match.count, abroad[match.schedd])
            abroad[match.schedd] -= count
        else:
            count = match.count if idle is None else min(match.count, waiting.get(jobs_of, 0))
        if group is not None and (over := (passed or {}).get(jobs_of)) is not None:
            waiting[jobs_of] = count = 0 if over.waits else min(count, jobs_per_vm(match.size, group))
        if group is not None:
            waiting[jobs_of] -= count
        key = (match.image, match.size)
        jobs[key] = jobs.get(key, 0) + count
        share[key] = share.get(key, 0.0) + count / jobs_per_vm(match.size, group)
    return tuple(
        Want(image, size, ceil(share[image, size] - 1e-9), jobs[image, size])
        for image, size in sorted(share)
        if jobs[image, size]
    )


def jobs_per_vm(size: Size, group: JobGroup | None) -> int:
    """How many jobs of a group run in one VM at once; at least 1, since the negotiator matched one. 1 if unknown."""
    if group is None:
        return 1
    by_cpus = size.cpus // max(1, group.cpus)
    by_memory = size.memory_bytes // _MIB // max(1, group.memory_mb)
    return max(1, min(by_cpus, by_memory))


def offers(snapshot: Snapshot, settings: PlanSettings, health: Health, now: datetime) -> tuple[OfflineAd, ...]:
    """The offline ads that are true now: per image and size, whether any desktop could start one.

    An image that is backing off is not offered, unless it is due for its one probe.
    """
    return tuple(
        ad_of(image, size)
        for image in snapshot.images
        if health.image(image.ref.name, now).allowed
        for size in settings.sizes
        if size.memory_bytes >= image.memory_bytes
        and any(could_start(desktop, image, size, settings, health, now) for desktop in snapshot.desktops)
    )


def ad_of(image: ImageFacts, size: Size) -> OfflineAd:
    """The offline ad of a machine of this image and size; its disk as a job finds it, where that is known."""
    return OfflineAd(image.ref.name, size, image.free_bytes or image.disk_bytes, image.says)


def covered(ads: Iterable[OfflineAd], job: Job) -> bool:
    """Whether some ad of the job's image is large enough for it."""
    return any(ad.image == job.vm_name and large_enough(ad, job) for ad in ads)


def large_enough(ad: OfflineAd, job: Job) -> bool:
    """Whether the machine has the cores, the memory and the disk that a job asks for."""
    return (
        ad.size.cpus >= job.cpus
        and ad.size.memory_bytes // _MIB >= job.memory_mb
        and ad.disk_bytes // 1024 >= job.disk_kib
    )


def fresh(matches: Iterable[Match], now: datetime, settings: PlanSettings) -> tuple[Match, ...]:
    """The matches that count at this time: not the old ones, nor those of a clock that was ahead."""
    oldest = timedelta(seconds=settings.match_seconds)
    return tuple(m for m in matches if -AHEAD <= now - m.matched_at <= oldest)
