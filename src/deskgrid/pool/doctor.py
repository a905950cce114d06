"""What to mend about a pool that is reached from this machine: versions, quotas that start nothing, a lease too short,
machines believed for minutes after their power is gone.

`ask` asks HTCondor's tools, once; `examine` decides from those values alone.
"""

import re
from pathlib import Path

import msgspec

from deskgrid.host.doctor.facts import Finding, Level
from deskgrid.model.policy import GRACE_SECONDS_MOST
from deskgrid.pool.config import PROBE_SECONDS, PROBES, SILENT_SECONDS
from deskgrid.pool.contract import PoolError, PoolRefused
from deskgrid.pool.tools.reach import Reach, run_tool
from deskgrid.pool.tools.versions import unfit

_INTERVAL = Path("/proc/sys/net/ipv4/tcp_keepalive_intvl")
_DAEMONS = 'MyType == "Collector" || MyType == "Negotiator"'
_SETTING = re.compile(r"^([A-Z_a-z0-9.]+) = (.*)$", re.MULTILINE)


class PoolFacts(msgspec.Struct, frozen=True):
    """versions: CondorVersion by "collector" and "negotiator". settings: those here of groups, and the lease.

    probe_seconds: how often the kernel asks a silent connection whether it is there; None: not known.
    """

    versions: dict[str, str]
    settings: dict[str, str]
    probe_seconds: int | None = None


def ask(reach: Reach) -> PoolFacts | None:
    """Ask the pool and this machine's configuration; None: no pool answers here."""
    argv = ["condor_status", "-any", "-constraint", _DAEMONS, "-af", "MyType", "CondorVersion"]
    try:
        daemons = run_tool(reach, argv, reach.timeout_seconds)
        settings = run_tool(reach, ["condor_config_val", "-dump", f"^(GROUP_|{_LEASE}$)"], reach.timeout_seconds)
    except PoolError:
        return None
    return msgspec.structs.replace(read(daemons, settings), probe_seconds=probe_seconds())


def probe_seconds() -> int | None:
    """How often this computer's kernel asks a silent connection whether it is there; None: not known."""
    try:
        return int(_INTERVAL.read_text())
    except (OSError, ValueError):
        return None


def read(daemons: str, settings: str) -> PoolFacts:
    """Read what the two tools printed."""
    versions = {kind.lower(): text for kind, _, text in (line.partition(" ") for line in daemons.splitlines())}
    return PoolFacts(versions, dict(_SETTING.findall(settings)))


def examine(seen: PoolFacts) -> tuple[Finding, ...]:
    """Say what is wrong with this pool; what is right is one finding."""
    faults = unfit_daemons(seen)
    found = [Finding("pool-version", Level.BAD, f"{fault}.") for fault in faults]
    if not faults:
        found.append(Finding("pool-version", Level.OK, "The pool's collector and negotiator are of a good version."))
    if (group := _waits_for_ever(seen.settings)) is not None:
        sentence = (
            f"Group {group} has a dynamic quota and takes no surplus: of a pool in which nothing runs yet its share is "
            "less than one slot, so its jobs start no machine. Let it take surplus, or give it a static quota."
        )
        line = f"GROUP_ACCEPT_SURPLUS_{group} = True"
        found.append(Finding("pool-quotas", Level.WARN, sentence, (f"echo {line!r} | tee -a {_LOCAL}",)))
    if (lease := _lease(seen.settings)) is not None and (short := too_short(lease)) is not None:
        mend = ("deskgrid pool configure", "condor_reconfig")
        found.append(Finding("pool-lease", Level.WARN, f"{_LEASE}: {short}", mend))
    if seen.probe_seconds is not None and (late := too_late(seen.probe_seconds)) is not None:
        found.append(Finding("pool-keepalive", Level.WARN, late, PROBE_OFTEN))
    return tuple(found)


_LINE = f"net.ipv4.tcp_keepalive_intvl = {PROBE_SECONDS}"
PROBE_OFTEN = (f"echo {_LINE!r} | tee /etc/sysctl.d/60-deskgrid.conf", "sysctl --system")
"""What mends a kernel that asks too seldom, as root."""


def too_late(seconds: int) -> str | None:
    """What follows when the kernel asks a silent connection every so many seconds; None: that is often enough."""
    if seconds <= PROBE_SECONDS:
        return None
    return (
        f"A desktop that loses its power is believed to run its job for {SILENT_SECONDS + PROBES * seconds} s: if this "
        f"computer has the pool's schedd, it should ask silent connections every {PROBE_SECONDS} s, not {seconds} s."
    )


def too_short(seconds: int) -> str | None:
    """What a lease does that a machine's pause may outlast; None: it is long enough."""
    if seconds > GRACE_SECONDS_MOST:
        return None
    return (
        f"A lease of {seconds} s: a machine that is paused for longer (a policy's grace_seconds, at most "
        f"{GRACE_SECONDS_MOST:.0f}) may lose its job. Choose a longer lease, or shorter graces."
    )


def _lease(settings: dict[str, str]) -> int | None:
    """The last number of what is set: the expression that we write ends with the long lease. None: none is set."""
    said = next((value for name, value in settings.items() if name.upper() == _LEASE), "")
    numbers = re.findall(r"\b\d{1,9}\b", said)
    return int(numbers[-1]) if numbers else None


def unfit_daemons(seen: PoolFacts) -> tuple[str, ...]:
    """A sentence for each daemon whose version can't be used."""
    return tuple(fault for who in sorted(seen.versions) if (fault := unfit(who, seen.versions[who])) is not None)


def must_be_fit(reach: Reach) -> None:
    """Refuse a pool whose versions can't be used; one that does not answer, or is not here, is not refused.

    Raises: PoolRefused.
    """
    seen = ask(reach)
    if seen is not None and (faults := unfit_daemons(seen)):
        raise PoolRefused("; ".join(faults))


_LEASE = "JOB_DEFAULT_LEASE_DURATION"
_LOCAL = "/etc/condor/config.d/61-groups.conf"


def _waits_for_ever(groups: dict[str, str]) -> str | None:
    """The first group whose dynamic quota may be less than one slot and that takes no surplus."""
    known = {name.lower(): value.strip() for name, value in groups.items()}

    def yes(name: str) -> bool:
        return known.get(name.lower(), "").lower() in ("true", "t", "yes", "1")

    for name in re.split(r"[\s,]+", known.get("group_names", "")):
        surplus = yes(f"GROUP_ACCEPT_SURPLUS_{name}") if f"group_accept_surplus_{name.lower()}" in known else None
        regroup = yes("GROUP_AUTOREGROUP") or yes(f"GROUP_AUTOREGROUP_{name}")
        dynamic = f"group_quota_dynamic_{name.lower()}" in known
        if name and dynamic and not regroup and not (yes("GROUP_ACCEPT_SURPLUS") if surplus is None else surplus):
            return name
    return None
