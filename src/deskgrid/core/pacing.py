"""When starts happen, and how long others' load has been too high: what an agent must remember to decide.

Rules, told first:
- A start waits: after the computer has started (`boot_delay_seconds`), after the last start here
  (`start_spacing_seconds`), and for a time of this desktop's own (`start_offset_seconds`) counted from the moment
  when nothing else refused any more. So a lab of 50 desktops does not start 50 machines at 17:00:00.
- The own time comes from the desktop's name and the local day by FNV-1a (32 bits): the same on every run, on every
  system, another one each day. It needs no randomness, and nobody needs to trust it.
- Others' load counts when it has been above its limit for `others_cpu_seconds`, and then until it has been below for
  `resume_seconds`. A reading without load neither begins nor ends anything.
- All times here are of the steady clock: setting the computer's clock moves none of them.
"""

from datetime import UTC, date, datetime, timedelta

import msgspec

from deskgrid.model.policy import Machine, Policy
from deskgrid.model.reason import Reason

_JUST_AFTER_SECONDS = 0.001
_FNV_OFFSET, _FNV_PRIME = 2166136261, 16777619


class Pace(msgspec.Struct, frozen=True):
    """What is remembered (times of the steady clock).

    clear_since: since when nothing but pacing refuses a start. started_at: the last start here.
    above_since, below_since: since when others' load has been above its limit, or below again. loaded: it counts.
    eased_at: when a VM was last ended because programs waited for memory.
    """

    clear_since: datetime | None = None
    started_at: datetime | None = None
    above_since: datetime | None = None
    below_since: datetime | None = None
    loaded: bool = False
    eased_at: datetime | None = None


class Waits(msgspec.Struct, frozen=True):
    """The same as a decision sees it: seconds until now. None: for ever. fraction: of the offset (0 to 1)."""

    clear_seconds: float | None = None
    started_seconds: float | None = None
    loaded: bool = False
    fraction: float = 0.0


def fraction(desktop: str, day: date) -> float:
    """This desktop's share of the offset on a day: at least 0, less than 1."""
    number = _FNV_OFFSET
    for byte in f"{desktop} {day.isoformat()}".encode():
        number = ((number ^ byte) * _FNV_PRIME) % (1 << 32)
    number ^= number >> 16  # FNV's low bits are good, its high ones less so for short texts: mix once
    number = (number * 0x45D9F3B) % (1 << 32)
    return (number ^ (number >> 16)) / (1 << 32)


def waits(pace: Pace, desktop: str, day: date, now: datetime) -> Waits:
    """What is remembered, as seconds until now."""
    return Waits(
        0.0 if pace.clear_since is None else (now - pace.clear_since).total_seconds(),
        None if pace.started_at is None else (now - pace.started_at).total_seconds(),
        pace.loaded,
        fraction(desktop, day),
    )


def cleared(pace: Pace, clear: bool, now: datetime) -> Pace:
    """Nothing but pacing refuses now, or something does."""
    since = (pace.clear_since or now) if clear else None
    return pace if since == pace.clear_since else msgspec.structs.replace(pace, clear_since=since)


def load_seen(pace: Pace, policy: Policy, machine: Machine, now: datetime) -> Pace:
    """The machine was looked at: how long has others' load been above or below its limit?"""
    if machine.others_cpu is None:
        return pace
    above = machine.others_cpu > policy.others_cpu_max
    above_since, below_since, loaded = pace.above_since, pace.below_since, pace.loaded
    if loaded:
        below_since = None if above else below_since or now
        if below_since is not None and now - below_since >= timedelta(seconds=policy.resume_seconds):
            above_since, below_since, loaded = None, None, False
    else:
        above_since = (above_since or now) if above else None
        loaded = above_since is not None and now - above_since >= timedelta(seconds=policy.others_cpu_seconds)
    return msgspec.structs.replace(pace, above_since=above_since, below_since=below_since, loaded=loaded)


def just_booted(policy: Policy, machine: Machine, local: datetime) -> list[Reason]:
    """A computer that has just started is left alone. Not known since when it runs: it is not waited for."""
    if machine.up_seconds is None or machine.up_seconds >= policy.boot_delay_seconds:
        return []
    return [
        Reason(
            "just-booted",
            "The computer has just started, and is left alone for a while.",
            f"up for {machine.up_seconds:.0f} s of {policy.boot_delay_seconds:.0f} s",
            _in(local, policy.boot_delay_seconds - machine.up_seconds),
        )
    ]


def over_at(policy: Policy, waited: Waits, now: datetime) -> datetime | None:
    """When what `paced` says will be over (just after it, so that it surely is); None: it says nothing."""
    left = [
        policy.start_spacing_seconds - waited.started_seconds if waited.started_seconds is not None else 0.0,
        _offset(policy, waited) - waited.clear_seconds if waited.clear_seconds is not None else 0.0,
    ]
    return now + timedelta(seconds=max(left) + _JUST_AFTER_SECONDS) if max(left) > 0 else None


def paced(policy: Policy, waited: Waits, local: datetime) -> list[Reason]:
    """What a start must still wait for when nothing else refuses it."""
    refusals = []
    if waited.started_seconds is not None and waited.started_seconds < policy.start_spacing_seconds:
        refusals.append(
            Reason(
                "start-spacing",
                "A virtual machine has just been started here; the next one waits a little.",
                f"{waited.started_seconds:.0f} s of {policy.start_spacing_seconds:.0f} s since the last start",
                _in(local, policy.start_spacing_seconds - waited.started_seconds),
            )
        )
    offset = _offset(policy, waited)
    if waited.clear_seconds is not None and waited.clear_seconds < offset:
        refusals.append(
            Reason(
                "start-offset",
                "Each computer waits a time of its own before it starts, so that not all start at once.",
                f"{waited.clear_seconds:.0f} s of {offset:.0f} s since nothing else refuses",
                _in(local, offset - waited.clear_seconds),
            )
        )
    return refusals


def _offset(policy: Policy, waited: Waits) -> float:
    return policy.start_offset_seconds * waited.fraction


def _in(local: datetime, seconds: float) -> datetime:
    return local.astimezone(UTC) + timedelta(seconds=seconds)
