"""Offline ads: how "the fleet could start this" is said to HTCondor, and how its answer is read. Pure.

The negotiator matches idle jobs against an ad with `Offline = true` as against any machine, starts nothing, and
writes what it matched into the ad (`OfflineMatches`, `MachineLastMatchTime`; matchmaker.cpp,
RegisterAttemptedOfflineMatch). What makes one ad of each kind enough:
- WantAdRevaluate keeps the ad in the cycle after its first match, so that every group of jobs is counted.
- The negotiator stops when it thinks the pool is full: GhostMultiplier lets one ad stand for many machines, and a
  tiny SlotWeight keeps those from distorting what users may get of the real ones.
- A match counts all idle jobs of the group (RequestCount), so ads of several sizes count the same jobs again: we
  let a group count on the smallest size only.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from deskgrid.core.fleet.demand import AHEAD
from deskgrid.core.fleet.promise import belongs
from deskgrid.model.lease import Size
from deskgrid.model.pool import Match, OfflineAd
from deskgrid.model.values.moment import moment_of
from deskgrid.model.values.names import name
from deskgrid.pool.tools.ads import (
    Ad,
    Expression,
    Value,
    ad_text,
    integer_of,
    is_safe,
    moment_at,
    quote,
    text_of,
)

MARK = "deskgrid_offline"
"""The attribute that tells our offline ads from others'."""

_MIB = 1 << 20
_PREFIX = "deskgrid-offline-"
_NAME = re.compile(r"deskgrid-offline-(.+)-([0-9]{1,4})x([0-9]{1,9})\Z")
_ADDRESS = "<127.0.0.1:1>"
_MEMORY = timedelta(minutes=10)
_JOBS = 10_000_000
"""More jobs than that are in no queue: such a count is no count."""
_MATCHES = 1000
"""How many groups of jobs one ad can be matched with in one cycle."""


def ad_name(ad: OfflineAd) -> str:
    """The Name under which the collector keeps the ad."""
    return f"{_PREFIX}{name('image name', ad.image)}-{ad.size.cpus}x{ad.size.memory_bytes // _MIB}"


def offline_ad(ad: OfflineAd, lifetime_seconds: int, previous: Ad | None = None) -> str:
    """Return the ad's text.

    Args:
        previous: the ad as the collector has it: what the negotiator wrote into it is carried over.
    """
    attributes: dict[str, Value | Expression] = {
        "MyType": "Machine",
        "Name": ad_name(ad),
        "Machine": ad_name(ad),
        "MyAddress": _ADDRESS,
        "Offline": True,
        MARK: True,
        "vm_name": ad.image,
        "Cpus": ad.size.cpus,
        "TotalCpus": ad.size.cpus,
        "Memory": ad.size.memory_bytes // _MIB,
        "TotalMemory": ad.size.memory_bytes // _MIB,
        "Disk": ad.disk_bytes // 1024,
        "TotalDisk": ad.disk_bytes // 1024,
        "DetectedCpus": ad.size.cpus,
        "TotalSlotCpus": ad.size.cpus,
        "TotalSlotMemory": ad.size.memory_bytes // _MIB,
        "TotalSlotDisk": ad.disk_bytes // 1024,
        **(_PLAIN if not ad.says else {name: _PLAIN[name] for name in _PLAIN if not belongs(name)}),
        **{one.name: Expression(one.text) for one in ad.says if belongs(one.name)},
        "ClassAdLifetime": lifetime_seconds,
        **_carried(previous),
    }
    return ad_text(attributes)


_PLAIN: Mapping[str, Value | Expression] = {
    "SlotID": 2,  # with 1 the collector would make up a daemon ad beside it
    "SlotType": "Static",
    "KFlops": 1,
    "Mips": 1,
    "LoadAvg": 0.0,
    "State": "Unclaimed",
    "Activity": "Idle",
    "Arch": "X86_64",
    "OpSys": "LINUX",
    "HasFileTransfer": True,
    "HasFileTransferPluginMethods": "data,file,ftp,http,https",
    "HasSelfCheckpointTransfers": True,
    "HasPerFileEncryption": True,
    "HasJobDeferral": True,
    "FileSystemDomain": "deskgrid-vm",
    "UidDomain": "deskgrid-vm",
    "Rank": 0.0,
    "CurrentRank": 0.0,
    "WantAdRevaluate": True,
    "SlotWeight": 1 / _MATCHES,
    "GhostMultiplier": _MATCHES,
    "Start": Expression("TARGET.vm_name =?= MY.vm_name"),  # with case, as the guest's own START
    "Requirements": Expression(
        "TARGET.vm_name =?= MY.vm_name && (TARGET.RequestCpus ?: 1) <= MY.Cpus"
        " && (TARGET.RequestMemory ?: 0) <= MY.Memory && (TARGET.RequestDisk ?: 0) <= MY.Disk"
    ),
}


def _carried(previous: Ad | None) -> dict[str, Value | Expression]:
    """What the negotiator wrote, as attributes again."""
    records = [] if previous is None else _records(previous)
    at = None if previous is None else integer_of(previous, "MachineLastMatchTime")
    if not records or moment_of(at) is None:
        return {}
    inner = ", ".join(
        f"[ Scheduler = {quote(address)}; AutoclusterID = {cluster}; RequestCount = {count} ]"
        for address, cluster, count in records
    )
    return {
        "MachineLastMatchTime": at,
        "MachineMatchCount": sum(count for _, _, count in records),
        "OfflineMatches": Expression("{ " + inner + " }"),
    }


def _records(ad: Ad) -> list[tuple[str, int, int]]:
    """(schedd's address, autocluster, count) of each entry in OfflineMatches."""
    entries = ad.get("OfflineMatches")
    found = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            address = text_of(entry, "Scheduler")
            cluster, count = integer_of(entry, "AutoclusterID"), integer_of(entry, "RequestCount")
            if (
                address is not None
                and cluster is not None
                and count is not None
                and 0 < count <= _JOBS
                and is_safe(address)
            ):
                found.append((address, cluster, count))
    return found


def matches(ads: Iterable[Ad], schedds: Mapping[str, str]) -> tuple[Match, ...]:
    """Read what the negotiator matched: one for each ad and group of jobs.

    Args:
        ads: our offline ads as the collector has them.
        schedds: names of schedds by address; one that is unknown keeps its address as name.
    """
    counted: dict[tuple[str, Size, str, int], tuple[int, datetime]] = {}
    for ad in ads:
        image, size, moment = text_of(ad, "vm_name"), _size(ad), moment_at(ad, "MachineLastMatchTime")
        if image is None or size is None or moment is None:
            continue
        for address, cluster, count in _records(ad):
            key = (image, size, schedds.get(address, address), cluster)
            counted[key] = (counted.get(key, (0, moment))[0] + count, moment)
    return tuple(Match(*key, count, moment) for key, (count, moment) in sorted(counted.items()))


def remembered(
    known: Iterable[Match],
    now: datetime,
    before: Iterable[Match],
    ads: Iterable[Ad],
    waiting: Container[tuple[str, int]] | None,
) -> list[Match]:
    """Add matches of an earlier answer that this one lacks: for ads that are still there, for jobs that still wait.

    The negotiator sends its list after every match, over connections of their own: now and then a shorter list
    arrives last and hides a group for one cycle.

    One from the future, of a clock that was ahead, is left out: with the newest time it would hide all others.

    Args:
        waiting: schedd and autocluster of the groups that have idle jobs; None: unknown.
    """
    found = {
        _group(match): match
        for match in before
        if _counts(match, now) and (waiting is None or (match.schedd, match.autocluster) in waiting)
    }
    found |= {_group(match): match for match in known if match.matched_at - now <= AHEAD}
    advertised = {(text_of(ad, "vm_name"), _size(ad)) for ad in ads}
    return [match for match in found.values() if (match.image, match.size) in advertised]


def _counts(match: Match, now: datetime) -> bool:
    return -AHEAD <= now - match.matched_at < _MEMORY


def counted_once(found: Iterable[Match]) -> tuple[Match, ...]:
    """Let each group of jobs count on the smallest size that the negotiator matched it with."""
    groups: dict[tuple[str, str, int], list[Match]] = {}
    for match in found:
        groups.setdefault((match.image, match.schedd, match.autocluster), []).append(match)
    chosen = []
    for group in groups.values():
        smallest = min(group, key=lambda match: match.size)
        chosen.append(msgspec.structs.replace(smallest, matched_at=max(match.matched_at for match in group)))
    return tuple(sorted(chosen, key=lambda match: (match.image, match.schedd, match.autocluster)))


def _group(match: Match) -> tuple[str, Size, str, int]:
    return match.image, match.size, match.schedd, match.autocluster


def _size(ad: Ad) -> Size | None:
    found = _NAME.match(text_of(ad, "Name") or "")
    return Size(int(found.group(2)), int(found.group(3)) * _MIB) if found else None


def lost(ads: Iterable[Ad], expected: Sequence[str]) -> tuple[str, ...]:
    """Names of ads that we advertised and that the collector does not have."""
    present = {text_of(ad, "Name") for ad in ads}
    return tuple(wanted for wanted in expected if wanted not in present)
