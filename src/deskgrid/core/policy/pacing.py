"""When starts happen, and how long others' load has been too high: what an agent must remember to decide.

Rules:
- A start waits: after the computer has started (`boot_delay_seconds`), after the last start here
  (`start_spacing_seconds`), and for a time of this desktop's own (`start_offset_seconds`) counted from the moment
  when nothing else refused any more. So a lab of 50 desktops does not start 50 machines at 17:00:00.
- The own time comes from the desktop's name and the local day by a hash: the same on every run and system, another one
  each day. It needs no randomness, and nobody needs to trust it.
- Others' load counts when it has been above its limit for `others_cpu_seconds`, and then until it has been below for
  `resume_seconds`. A reading without load neither begins nor ends anything.
- All times here are of the steady clock: setting the computer's clock moves none of them.
"""

from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b

import msgspec

from deskgrid.core.policy.facts import No, Question, Waits
from deskgrid.model.policy import Machine, Policy

_JUST_AFTER_SECONDS = 0.001


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


def fraction(desktop: str, day: date) -> float:
    """This desktop's share of the offset on a day: at least 0, less than 1."""
    digest = blake2b(f"{desktop} {day.isoformat()}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / (1 << 32)


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


def just_booted(q: Question) -> No | None:
    """A computer that has just started is left alone. Not known since when it runs: it is not waited for."""
    up, delay = q.facts.machine.up_seconds, q.policy.boot_delay_seconds
    if up is None or up >= delay:
        return None
    return No(
        "The computer has just started, and is left alone for a while.",
        f"up for {up:.0f} s of {delay:.0f} s",
        _in(q, delay - up),
    )


def over_at(policy: Policy, waited: Waits, now: datetime) -> datetime | None:
    """When spacing and offset will be over (just after it, so that they surely are); None: they are."""
    left = [
        policy.start_spacing_seconds - waited.started_seconds if waited.started_seconds is not None else 0.0,
        _offset(policy, waited) - waited.clear_seconds if waited.clear_seconds is not None else 0.0,
    ]
    return now + timedelta(seconds=max(left) + _JUST_AFTER_SECONDS) if max(left) > 0 else None


def start_spacing(q: Question) -> No | None:
    """A VM has just been started here."""
    passed, spacing = q.facts.waits.started_seconds, q.policy.start_spacing_seconds
    if passed is None or passed >= spacing:
        return None
    return No(
        "A virtual machine has just been started here; the next one waits a little.",
        f"{passed:.0f} s of {spacing:.0f} s since the last start",
        _in(q, spacing - passed),
    )


def start_offset(q: Question) -> No | None:
    """The time of this desktop's own is not over."""
    passed, offset = q.facts.waits.clear_seconds, _offset(q.policy, q.facts.waits)
    if passed is None or passed >= offset:
        return None
    return No(
        "Each computer waits a time of its own before it starts, so that not all start at once.",
        f"{passed:.0f} s of {offset:.0f} s since nothing else refuses",
        _in(q, offset - passed),
    )


def _offset(policy: Policy, waited: Waits) -> float:
    return policy.start_offset_seconds * waited.fraction


def _in(q: Question, seconds: float) -> datetime:
    return q.facts.local.astimezone(UTC) + timedelta(seconds=seconds)
