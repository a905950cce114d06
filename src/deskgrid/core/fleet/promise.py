"""What of a machine's ad belongs to its image, and so can be said before any such machine runs. Pure.

Rules:
- Recorded is all that the ad says, but what is named here, each with its reason: which machine it is, how large it is,
  which computer it is on, what happens in it just now. So what a new HTCondor adds is recorded without our doing.
- Only plain values; an expression is the machine's own business (its START, its weights).
- The room for jobs is what was free when no job ran, rounded down: no machine promises what it will lack.
- ClassAds know no case in names.
"""

import re
from collections.abc import Mapping

import msgspec

from deskgrid.model.image import Attribute

Value = str | int | float | bool
_STEP_BYTES = 16 << 20
_EXPRESSION = re.compile(r"\\?/Expr\(")

WHICH = """Name Machine MyAddress AddressV1 StartdIpAddr vm_name deskgrid_vm_id deskgrid_desktop HardwareAddress
    SubnetMask PrivateNetworkName UtsnameNodename UidDomain FileSystemDomain COLLECTOR_HOST_STRING CondorScratchDir
    IsLocalStartd AuthenticatedIdentity AuthenticationMethod StarterAbilityList"""
"""Which machine it is, and where. (StarterAbilityList repeats the Has… attributes.)"""

SIZE = """Cpus Memory Disk TotalCpus TotalMemory TotalDisk TotalSlotCpus TotalSlotMemory TotalSlotDisk DetectedCpus
    DetectedMemory TotalVirtualMemory VirtualMemory TotalSlots MachineResources"""
"""How large it is: its lease says that, and the offline ad says it for each size."""

COMPUTER = """CpuFamily CpuModelNumber CpuCacheSize CpuModel Microarch has_avx has_avx2 has_sse4_1 has_sse4_2 has_ssse3
    has_avx512f has_avx512dq has_avx512_vnni HasRotationalScratch GPUs TotalGPUs TotalSlotGPUs DetectedGPUs Mips
    KFlops CanHibernate IsWakeOnLanEnabled IsWakeOnLanSupported WakeOnLanEnabledFlags WakeOnLanSupportedFlags"""
"""What the desktop and its hypervisor decide: it is known when the machine runs, and no sooner."""

MOMENT = """State Activity LoadAvg CondorLoadAvg TotalLoadAvg TotalCondorLoadAvg ClockDay ClockMin ConsoleIdle
    KeyboardIdle CpuBusy CpuBusyTime DaemonStartTime DaemonLastReconfigTime DaemonCoreDutyCycle DaemonShutdown
    MyCurrentTime LastHeardFrom LastBenchmark UpdateSequenceNumber
    AcceptedWhileDraining Draining RetirementTimeRemaining TimeToLive JobStarts JobPreemptions JobRankPreemptions
    JobUserPrioPreemptions NewDSlotNotMatch ActivationRequests ClaimRequests NumPids NumDynamicSlots NumDynamicSlotsTime
    SlotTypeID HasStartDaemonAd IsWakeAble NextFetchWorkDelay ClassAdLifetime SlotBrokenCode SlotBrokenReason"""
MOMENTS = re.compile(
    r"(Recent|MonitorSelf|Expected|EnteredCurrent|LastFetchWork|TotalTime|Total[A-Z][a-z]+Time|Child|Updates|LastUpdate"
    r"|Hibernation|Stats|TransferQueue|Duration|DC[A-Z]).*\Z|.*_state\Z",
    re.IGNORECASE,
)
"""What happens in it just now; a recipe's own attribute of that kind ends in _state."""

OURS = """MyType TargetType SlotID SlotType PartitionableSlot PslotRollupInformation SlotWeight Rank CurrentRank Start
    Requirements WithinResourceLimits Unhibernate Offline WantAdRevaluate GhostMultiplier OfflineMatches
    MachineLastMatchTime MachineMatchCount deskgrid_offline"""
"""What makes an offline ad one (pool/tools/offline.py), whatever a machine says there."""

_LEFT_OUT = frozenset(name.lower() for names in (WHICH, SIZE, COMPUTER, MOMENT, OURS) for name in names.split())


class Promise(msgspec.Struct, frozen=True):
    """What can be said of every machine of an image. free_bytes: for jobs; 0: not known."""

    says: tuple[Attribute, ...] = ()
    free_bytes: int = 0


def belongs(name: str) -> bool:
    """Whether an attribute is the image's, and not one machine's or one moment's."""
    return name.lower() not in _LEFT_OUT and MOMENTS.match(name) is None


def promise(ad: Mapping[str, Value]) -> Promise:
    """Return what to record of the ad of a machine that has no job."""
    kept = (Attribute(name, text) for name, value in ad.items() if belongs(name) and (text := _literal(value)))
    disk = ad.get("TotalDisk", 0)
    free = int(disk) * 1024 if isinstance(disk, int | float) else 0
    return Promise(tuple(sorted(filter(_sound, kept))), max(0, free - free % _STEP_BYTES))


def _literal(value: Value) -> str:
    """The value as a ClassAd literal; nothing for an expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    return "" if _EXPRESSION.match(value) else f'"{value}"'


def _sound(attribute: Attribute) -> bool:
    """Whether it may stand in a manifest: what holds a quotation mark or an odd character is left out."""
    try:
        msgspec.convert(msgspec.to_builtins(attribute), Attribute)
    except msgspec.ValidationError:
        return False
    return True
