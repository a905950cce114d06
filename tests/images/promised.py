"""What an image promises of its machines, and whether a machine that runs keeps it."""

import json
from typing import Any

from deskgrid.core.fleet.demand import ad_of
from deskgrid.core.fleet.promise import Promise, belongs
from deskgrid.images.build.build import Built
from deskgrid.images.publish.publish import source_of
from deskgrid.images.publish.trial import keep_promise, keep_reads, kept_promise
from deskgrid.images.publish.trial_boot import try_out
from deskgrid.model.image import ImageFacts
from deskgrid.model.lease import Size
from deskgrid.pool.embedded.pool import EmbeddedPool
from deskgrid.pool.tools.offline import offline_ad

SIZES = ("Cpus", "TotalCpus", "TotalSlotCpus", "DetectedCpus", "Memory", "TotalMemory", "TotalSlotMemory")
OURS = frozenset(
    (
        *("MyType", "Name", "Machine", "MyAddress", "Offline", "deskgrid_offline", "vm_name", "ClassAdLifetime"),
        *("Disk", "TotalDisk", "TotalSlotDisk", "FileSystemDomain", "UidDomain", "KFlops", "Mips", "LoadAvg"),
        *("SlotID", "SlotType", "SlotWeight", "State", "Activity", "Rank", "CurrentRank", "WantAdRevaluate"),
        *("GhostMultiplier", "Start", "Requirements"),
    )
)
"""What an offline ad says as one, whatever its machine says."""


def promise_of(built: Built) -> Promise:
    """What the image's trial boot recorded, now or before."""
    kept = kept_promise(built.folder)
    if kept is None:
        tried = try_out(source_of(built.folder))
        assert tried.promise is not None, "the trial's machine did not say what it is"
        kept = tried.promise
        keep_promise(built.folder, kept)
        keep_reads(built.folder, tried.first_reads)
    return kept


def assert_kept(built: Built, pool: EmbeddedPool, cpus: int, memory_mb: int) -> None:
    """Compare every attribute of the machine that has joined this pool with the offline ad of its image."""
    promised = promise_of(built)
    held = built.manifest
    facts = ImageFacts(built.ref, held.memory_bytes, held.disk_bytes, "", "", promised.free_bytes, promised.says)
    size = Size(cpus, memory_mb << 20)
    offered = dict(line.partition(" = ")[::2] for line in offline_ad(ad_of(facts, size), 900).splitlines())
    shown = pool.command(["condor_status", "-constraint", 'deskgrid_vm_id == "vm-real" && SlotID == 1', "-json"])
    (machine,) = (ad for ad in json.loads(shown.stdout) if ad["SlotType"] != "Dynamic")
    told = {name: text for name, value in machine.items() if (text := _literal(value)) is not None}
    images = {name: text for name, text in told.items() if belongs(name)}
    assert images == {name: text for name, text in offered.items() if name not in OURS and name not in SIZES}
    assert {name: told[name] for name in SIZES} == {name: offered[name] for name in SIZES}
    free = int(float(told["TotalSlotDisk"]))
    assert free - (64 << 10) < int(offered["Disk"]) <= free, "in KiB: what is promised is there, and little less"


def _literal(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return None if "/Expr(" in value else f'"{value}"'
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value) if value == value else None
