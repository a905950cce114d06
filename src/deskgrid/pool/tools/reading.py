"""What HTCondor's tools print, as the values of model/pool.py. Pure; one place for every attribute that we read."""

import re
from collections import Counter
from collections.abc import Iterable

import msgspec

from deskgrid.model.pool import ON_SERVER, Job, JobGroup, MachineAd
from deskgrid.pool.tools.ads import MOST, Ad, expression_of, integer_of, moment_at, text_of, unparsed
from deskgrid.pool.tools.identities import is_vms
from deskgrid.pool.tools.offline import MARK

COLLECTOR_ATTRIBUTES = (
    "MyType,Name,Machine,MyAddress,vm_name,deskgrid_vm_id,deskgrid_desktop,State,JobId,DaemonStartTime,"
    "MachineLastMatchTime,MachineMatchCount,OfflineMatches,AuthenticatedIdentity,StatsLastUpdateTime,StatsLifetime,"
    "CondorVersion,ScheddName,SubmitterTag,IdleJobs," + MARK
)
COLLECTOR_QUESTION = (
    'MyType == "Scheduler" || MyType == "Collector" || MyType == "Negotiator" || MyType == "Submitter" || '
    f'(MyType == "Machine" && ({MARK} =?= true || isString(deskgrid_vm_id)))'
)
"""One question for all that a snapshot needs of the collector: one answer is of one moment."""

IDLE_QUESTION = "JobStatus == 1 && isString(vm_name)" + "".join(f" && JobUniverse =!= {one}" for one in ON_SERVER)
IDLE_COLUMNS = ("int(AutoClusterId)", "int(RequestCpus)", "int(RequestMemory)", "substr(unparse(vm_name), 0, 200)")
"""Columns that a job can't forge: numbers, and text with its control characters escaped, at the end of the line. A name
that is cut is none."""

_JOB_ID = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}\Z")
_DIGITS = re.compile(r"[0-9]{1,18}\Z")

JOB_ATTRIBUTES = (
    "ClusterId,ProcId,Owner,User,JobStatus,vm_name,RequestCpus,RequestMemory,Requirements,"
    "DeskgridSubmittedRequirements,DeskgridFurtherRequirements,AutoClusterId,HoldReason,RemoteHost,LastRemoteHost,"
    "LastMatchTime,NumShadowStarts,JobUniverse,WantContainer,WantDocker"
)
JOB_COLUMNS = ("int(RequestCpus)", "int(RequestMemory)", "int(RequestDisk)", "isString(vm_name)")
"""What of a job may be an expression, evaluated: see `job_of`."""


class SortedAds(msgspec.Struct, frozen=True):
    """What the collector said, sorted.

    collector_started: when it started, in seconds of its own clock, give or take one; None: its ad is not there yet.
    schedds: names by address; see `_by_address`. offline: our offline ads. slots: those of our VMs. waiting: how many
    jobs of each schedd that has submitters here wait, as their ads say. foreign: those of them that flock here.
    versions: CondorVersion by who it is of: "collector", "negotiator", or the name of a schedd.
    """

    collector_started: int | None
    schedds: dict[str, str]
    offline: tuple[Ad, ...]
    slots: tuple[Ad, ...]
    waiting: dict[str, int] = {}
    foreign: frozenset[str] = frozenset()
    versions: dict[str, str] = {}


def sort_answer(ads: Iterable[Ad]) -> SortedAds:
    """Sort the collector's answer to COLLECTOR_QUESTION. What came from a VM is a machine or nothing."""
    started: int | None = None
    addresses: dict[str, str] = {}
    offline, slots, submitters, versions = list[Ad](), list[Ad](), list[Ad](), dict[str, str]()
    for ad in ads:
        kind, name = text_of(ad, "MyType"), text_of(ad, "Name")
        if is_vms(ad):
            slots += [ad] if kind == "Machine" and ad.get(MARK) is not True else []
        elif kind == "Collector":
            started = _collector_start(ad) or started
            versions["collector"] = text_of(ad, "CondorVersion") or ""
        elif kind == "Negotiator":
            versions["negotiator"] = text_of(ad, "CondorVersion") or ""
        elif kind == "Submitter":
            submitters.append(ad)
        elif kind == "Scheduler" and name is not None:
            addresses[name] = text_of(ad, "MyAddress") or name
            versions[name] = text_of(ad, "CondorVersion") or ""
        elif ad.get(MARK) is True:
            offline.append(ad)
        elif kind == "Machine":
            slots.append(ad)
    waiting, own = _submitting(submitters)
    schedds = _by_address(addresses, frozenset(waiting) - own)
    return SortedAds(started, schedds, tuple(offline), tuple(slots), waiting, frozenset(waiting) - own, versions)


def _by_address(addresses: dict[str, str], foreign: frozenset[str]) -> dict[str, str]:
    """The schedds' names by address. An address is its schedd's own word: this pool's come before those that flock."""
    found: dict[str, str] = {}
    for name in sorted(addresses, key=lambda name: (name in foreign, name)):
        if found.setdefault(addresses[name], name) != name:
            found.setdefault(name, name)
    return found


def _submitting(submitters: Iterable[Ad]) -> tuple[dict[str, int], set[str]]:
    """How many jobs of each schedd wait; and those of this pool, some submitter of which bears no tag."""
    waiting, own = dict[str, int](), set[str]()
    for ad in submitters:
        schedd = text_of(ad, "ScheddName")
        if schedd is not None:
            waiting[schedd] = waiting.get(schedd, 0) + max(0, integer_of(ad, "IdleJobs") or 0)
            own |= set() if text_of(ad, "SubmitterTag") else {schedd}
    return waiting, own


def _collector_start(ad: Ad) -> int | None:
    """The collector's ad has no DaemonStartTime; its statistics begin with its start."""
    updated, lifetime = integer_of(ad, "StatsLastUpdateTime"), integer_of(ad, "StatsLifetime")
    return None if updated is None or lifetime is None else updated - lifetime


def machines(slots: Iterable[Ad]) -> tuple[MachineAd, ...]:
    """Fold slots into the VMs that they belong to."""
    by_vm: dict[str, list[Ad]] = {}
    for slot in slots:
        vm_id = text_of(slot, "deskgrid_vm_id")
        if vm_id:
            by_vm.setdefault(vm_id, []).append(slot)
    return tuple(_machine(vm_id, group) for vm_id, group in sorted(by_vm.items()))


def _machine(vm_id: str, slots: list[Ad]) -> MachineAd:
    first = slots[0]
    starts = [start for slot in slots if (start := moment_at(slot, "DaemonStartTime")) is not None]
    jobs = {job for slot in slots if _JOB_ID.match(job := text_of(slot, "JobId") or "")}
    return MachineAd(
        vm_id=vm_id,
        machine=text_of(first, "Machine") or "",
        image=text_of(first, "vm_name") or "",
        desktop=text_of(first, "deskgrid_desktop") or "",
        claimed=any(slot.get("State") == "Claimed" for slot in slots),
        jobs=tuple(sorted(jobs)),
        joined_at=min(starts, default=None),
    )


def idle_groups(schedd: str, text: str) -> tuple[JobGroup, ...]:
    """Count the rows of IDLE_COLUMNS. Raises: ValueError for a row that is cut off."""
    rows: Counter[tuple[int, int, int, str]] = Counter()
    for line in text.rstrip("\n").split("\n") if text else ():  # splitlines would split a job's text too
        parts = line.split(" ", 3)
        if len(parts) != 4:
            raise ValueError(f"idle jobs of schedd {schedd}: got the row {line[:80]!r}, expected four columns")
        rows[(_number(parts[0], -1), _number(parts[1], 1), _number(parts[2], 0), unparsed(parts[3]))] += 1
    return tuple(
        JobGroup(schedd, cluster, vm_name, cpus, memory, idle)
        for (cluster, cpus, memory, vm_name), idle in sorted(rows.items())
    )


def _number(text: str, otherwise: int) -> int:
    """A column that a job wrote: no number, or one of no sense, is taken for what a job has that says nothing."""
    return min(int(text), MOST) if _DIGITS.match(text) else otherwise


def job_of(ad: Ad, schedd: str, numbers: str) -> Job:
    """Read one job.

    Args:
        numbers: a line with the values of JOB_COLUMNS (they may be expressions in the ad).
    """
    cpus, memory, disk, is_text = [*numbers.split(), "", "", "", ""][:4]
    image = expression_of(ad, "vm_name")
    return Job(
        id=f"{integer_of(ad, 'ClusterId')}.{integer_of(ad, 'ProcId')}",
        owner=text_of(ad, "Owner") or text_of(ad, "User") or "",
        status=integer_of(ad, "JobStatus") or 0,
        vm_name=image if image != "undefined" else None,
        cpus=_number(cpus, 1),
        memory_mb=_number(memory, 0),
        requirements=_requirements(ad),
        autocluster=integer_of(ad, "AutoClusterId"),
        schedd=schedd,
        hold_reason=text_of(ad, "HoldReason"),
        remote_host=text_of(ad, "RemoteHost"),
        last_host=text_of(ad, "LastRemoteHost"),
        last_match_at=moment_at(ad, "LastMatchTime"),
        starts=integer_of(ad, "NumShadowStarts") or 0,
        universe=integer_of(ad, "JobUniverse") or 5,
        container=ad.get("WantContainer") is True or ad.get("WantDocker") is True,
        named_by_text=is_text != "false",
        disk_kib=_number(disk, 0),
    )


def _requirements(ad: Ad) -> str:
    """The job's Requirements, with what it was submitted with in place of the reference to it.

    Of references only the first is taken: a job may write any number of them, and what they refer to of any length.
    """
    text = expression_of(ad, "Requirements") or ""
    for name in ("DeskgridFurtherRequirements", "DeskgridSubmittedRequirements"):
        kept, reference = expression_of(ad, name), f"MY.{name}"
        if kept is not None:
            text = text.replace(reference, kept, 1)
    return text
