"""May virtual machines run on this desktop now? Every no is a named value with a sentence and the reading behind it.

Rules:
- Unknown counts as busy. The first refusal wins; all are returned, so that `why` can show them.
  `core/policy/refusals.py` lists them all.
- Starting asks for a long quiet time, going on for a short one, so that a bumped mouse costs no work.
- A tighter policy never allows more, and one refusal more never makes milder what happens to a VM: properties which
  tests look for.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.core.events import AnyEvent, Refused, RefusedNow, ShuttingDown, Sleeping
from deskgrid.core.policy.facts import Facts
from deskgrid.core.policy.limits import allowed_cpus
from deskgrid.core.policy.refusals import Effect, Refusal, Whose, holding
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason

_AT_ONCE = (RefusedNow, ShuttingDown)
"""Events that give a VM no grace."""


class Standing(msgspec.Struct, frozen=True):
    """May VMs that are here run on?

    refusal: why not, or None. event: what they get then, the strictest of what holds. spared: so many, the oldest, may
    in spite of it. in_use: somebody uses the computer. cpus: processors that all VMs together may use now.
    gives_back: what the newest VM ends for, or None.
    """

    refusal: Reason | None
    event: AnyEvent | None
    spared: int
    in_use: bool
    cpus: int
    gives_back: Reason | None = None


def refusals(policy: Policy, facts: Facts) -> tuple[list[Reason], list[Reason]]:
    """What refuses a start: all but pacing, and pacing; each in the policy's order."""
    held = holding(policy, facts, starting=True)
    pacing = [one.reason for one in held if one.refusal.whose is Whose.PACE]
    return [*facts.faults, *(one.reason for one in held if one.refusal.whose is not Whose.PACE)], pacing


def available(facts: Facts, refusals: Sequence[Reason]) -> Availability:
    """The answer to "may a further VM start now", from all that refuses it."""
    return Availability(not refusals, tuple(refusals), facts.reading.idle_seconds, facts.reading.logged_in)


def availability(policy: Policy, facts: Facts) -> Availability:
    """Decide whether a further VM may start now.

    Args:
        policy: what this desktop allows. facts: what is known.
    """
    unpaced, paced = refusals(policy, facts)
    return available(facts, [*unpaced, *paced])


def standing(policy: Policy, facts: Facts) -> Standing:
    """Decide whether VMs that are here may run on, how many of them, and on how many processors."""
    held = holding(policy, facts, starting=False)
    stops = [one for one in held if one.refusal.effect is Effect.STOP]
    in_use = any(one.refusal.in_use for one in stops)
    cpus = allowed_cpus(policy, facts.machine, in_use)
    spared = policy.max_vms_in_use if in_use and all(one.refusal.in_use for one in stops) and cpus else 0
    events = [_event(policy, one.refusal, one.reason) for one in stops]
    return Standing(
        refusal=stops[0].reason if stops else None,
        event=next((event for event in events if isinstance(event, _AT_ONCE)), events[0] if events else None),
        spared=spared,
        in_use=in_use,
        cpus=cpus,
        gives_back=next((one.reason for one in held if one.refusal.effect is Effect.NEWEST), None),
    )


def may_go_on(policy: Policy, facts: Facts) -> Reason | None:
    """Decide whether VMs that are here and not spared may run on: None, or the reason why not."""
    return standing(policy, facts).refusal


def _event(policy: Policy, refusal: Refusal, reason: Reason) -> AnyEvent:
    if refusal.event is ShuttingDown:
        return ShuttingDown(reason)
    if refusal.event is Sleeping:
        return Sleeping(reason, policy.grace_seconds)
    return Refused(reason, policy.grace_seconds) if policy.grace_seconds > 0 else RefusedNow(reason)
