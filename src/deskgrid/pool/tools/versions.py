"""What one must know of HTCondor's versions. Pure.

A negotiator of some versions takes a null pointer at its first match with an offline ad and crashes, again after each
restart (HTCONDOR-2819; read in its source, by tag): the pool would match nothing any more.
"""

import re

Version = tuple[int, int, int]
_WRITTEN = re.compile(r"\$CondorVersion: ([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})\b")
CRASHING: tuple[tuple[Version, Version], ...] = (
    ((23, 10, 1), (23, 10, 29)),
    ((24, 0, 1), (24, 0, 3)),
    ((24, 1, 1), (24, 3, 0)),
)
"""First and last of each range whose negotiator crashes at an offline match."""

LEAST: Version = (23, 9, 0)
_LIMITS_MATCHES: Version = (25, 11, 0)


def version(text: str | None) -> Version | None:
    """Read the attribute CondorVersion, or what condor_version prints; None when it is something else."""
    found = _WRITTEN.search(text or "")
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def limits_matches(text: str | None) -> bool:
    """Whether a schedd of this version offers a user a bounded number of matches in one cycle, as it comes."""
    known = version(text)
    return known is not None and known >= _LIMITS_MATCHES


def unfit(who: str, text: str | None) -> str | None:
    """Say why a pool whose daemon `who` (such as "negotiator") has this version can't be used; None: it can.

    A version that can't be read is not held against it.
    """
    known = version(text)
    if known is None:
        return None
    shown = ".".join(map(str, known))
    if known < LEAST:
        return f"{who}: got HTCondor {shown}, expected 23.9 or later; update it"
    if any(first <= known <= last for first, last in CRASHING):
        return (
            f"{who}: got HTCondor {shown}, whose negotiator crashes at the first match with a machine that could be "
            "started (HTCONDOR-2819), expected 23.9, 24.0.4 or later, 24.4 or later, or 25; update it, nothing is "
            "offered until then"
        )
    return None
