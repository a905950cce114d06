"""Groups of idle jobs from the rows that schedds tell of them. Pure.

Rules:
- A job may write any attribute, also the number of another's autocluster. So a row never takes another's place: rows of
  one schedd, autocluster and image are added up, and those that name another image are another group.
- Of rows that differ the largest needs count: machines may be too many then, never too few.
"""

from collections.abc import Iterable

import msgspec

from deskgrid.model.pool import JobGroup


def together(rows: Iterable[JobGroup]) -> dict[str, JobGroup]:
    """The groups by `JobGroup.key`, each once."""
    found: dict[str, JobGroup] = {}
    for row in rows:
        known = found.get(row.key)
        found[row.key] = row if known is None else _both(known, row)
    return found


def _both(one: JobGroup, other: JobGroup) -> JobGroup:
    return msgspec.structs.replace(
        one,
        cpus=max(one.cpus, other.cpus),
        memory_mb=max(one.memory_mb, other.memory_mb),
        idle=one.idle + other.idle,
    )
