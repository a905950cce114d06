"""What to mend about a pool that is reached from this machine: versions that can't be used, quotas that start nothing.

`ask` asks HTCondor's tools, once; `examine` decides from those values alone.
"""

import re

import msgspec

from deskgrid.host.doctor_finding import Finding, Level
from deskgrid.pool.contract import PoolError, Refused
from deskgrid.pool.reach import Reach, run_tool
from deskgrid.pool.versions import unfit

_DAEMONS = 'MyType == "Collector" || MyType == "Negotiator"'
_SETTING = re.compile(r"^([A-Z_a-z0-9.]+) = (.*)$", re.MULTILINE)


class Seen(msgspec.Struct, frozen=True):
    """versions: CondorVersion by "collector" and "negotiator". groups: the settings here that begin with GROUP_."""

    versions: dict[str, str]
    groups: dict[str, str]


def ask(reach: Reach) -> Seen | None:
    """Ask the pool and this machine's configuration; None: no pool answers here."""
    argv = ["condor_status", "-any", "-constraint", _DAEMONS, "-af", "MyType", "CondorVersion"]
    try:
        daemons = run_tool(reach, argv, reach.timeout_seconds)
        groups = run_tool(reach, ["condor_config_val", "-dump", "^GROUP_"], reach.timeout_seconds)
    except PoolError:
        return None
    return read(daemons, groups)


def read(daemons: str, groups: str) -> Seen:
    """Read what the two tools printed."""
    versions = {kind.lower(): text for kind, _, text in (line.partition(" ") for line in daemons.splitlines())}
    return Seen(versions, dict(_SETTING.findall(groups)))


def examine(seen: Seen) -> tuple[Finding, ...]:
    """Say what is wrong with this pool; what is right is one finding."""
    faults = unfit_daemons(seen)
    found = [Finding("pool-version", Level.BAD, f"{fault}.") for fault in faults]
    if not faults:
        found.append(Finding("pool-version", Level.OK, "The pool's collector and negotiator are of a good version."))
    if (group := _waits_for_ever(seen.groups)) is not None:
        sentence = (
            f"Group {group} has a dynamic quota and takes no surplus: of a pool in which nothing runs yet its share is "
            "less than one slot, so its jobs start no machine. Let it take surplus, or give it a static quota."
        )
        line = f"GROUP_ACCEPT_SURPLUS_{group} = True"
        found.append(Finding("pool-quotas", Level.WARN, sentence, (f"echo {line!r} | tee -a {_LOCAL}",)))
    return tuple(found)


def unfit_daemons(seen: Seen) -> tuple[str, ...]:
    """A sentence for each daemon whose version can't be used."""
    return tuple(fault for who in sorted(seen.versions) if (fault := unfit(who, seen.versions[who])) is not None)


def must_be_fit(reach: Reach) -> None:
    """Refuse a pool whose versions can't be used; one that does not answer, or is not here, is not refused.

    Raises: Refused.
    """
    seen = ask(reach)
    if seen is not None and (faults := unfit_daemons(seen)):
        raise Refused("; ".join(faults))


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
