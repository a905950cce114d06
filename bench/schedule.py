"""Which parts fit into the time there is; said before anything is measured. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bench.figure import Figure


class Part(msgspec.Struct, frozen=True):
    """One part of the benchmarks.

    names: its figures. run: measures them. short: what makes it short, as arguments of `run`. seconds: what it takes on
    two cores with software emulation. first_seconds: what it takes more when nothing is in the cache.
    """

    name: str
    names: tuple[str, ...]
    run: Callable[..., list[Figure]]
    short: Mapping[str, Any]
    seconds: float
    first_seconds: float = 0.0


class Schedule(msgspec.Struct, frozen=True):
    """What is measured, what is left out and why, and both in a sentence."""

    taken: tuple[Part, ...]
    left_out: tuple[tuple[Part, str], ...]
    told: str


def fit(parts: Iterable[Part], limit_seconds: float | None, first: bool) -> Schedule:
    """Take parts in their order while there is time. limit_seconds: None is without end. first: the cache is empty."""
    taken: list[Part] = []
    left_out: list[tuple[Part, str]] = []
    total = 0.0
    for part in parts:
        seconds = part.seconds + (part.first_seconds if first else 0.0)
        if limit_seconds is not None and total + seconds > limit_seconds:
            left = max(0.0, limit_seconds - total)
            left_out.append((part, f"it takes about {_minutes(seconds)}, and {_minutes(left)} are left"))
        else:
            taken.append(part)
            total += seconds
    if limit_seconds is None:
        return Schedule(tuple(taken), (), f"to be tried, shortly: {', '.join(part.name for part in taken)}")
    told = f"to be measured: {', '.join(part.name for part in taken)}; about {_minutes(total)}"
    if first:
        told += ", since the images for it must be built and packed first"
    for part, why in left_out:
        told += f"; left out: {part.name}, since {why}"
    return Schedule(tuple(taken), tuple(left_out), told)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
