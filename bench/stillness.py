"""When did it stop? From samples of a process's CPU time, taken from outside. Pure.

Rules:
- What stood still did so at the first sample that shows the final time: between it and the sample before something ran.
  So the answer is never too early, and too late by at most the time between two samples.
- An end that was not seen (the last samples still grow) is no answer.
"""

from collections.abc import Sequence

import msgspec


class Sample(msgspec.Struct, frozen=True):
    """at: seconds of a steady clock. ran: CPU time until then, in nanoseconds."""

    at: float
    ran: int


def stopped_at(samples: Sequence[Sample], still_seconds: float) -> float | None:
    """Return when the last growth was first seen.

    Args:
        samples: in the order of their times. still_seconds: so long it must have stood still at the end.

    Returns:
        None when it has not stood still for so long, or when there are no samples.
    """
    if not samples:
        return None
    final = samples[-1]
    first = next(sample for sample in samples if sample.ran == final.ran)
    return first.at if final.at - first.at >= still_seconds else None


def grew(samples: Sequence[Sample], least_share: float) -> bool:
    """Whether it used at least this share of the time (1.0: one core all the time)."""
    if len(samples) < 2:
        return False
    first, last = samples[0], samples[-1]
    return last.at > first.at and (last.ran - first.ran) / 1e9 >= least_share * (last.at - first.at)
