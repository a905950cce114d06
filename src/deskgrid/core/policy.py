"""May virtual machines run on this desktop now? Every no is a named value with a sentence and the reading behind it.

Rules, told first:
- Unknown counts as busy. The first refusal wins; all are returned, so that `why` can show them. `core/refusals.py`
  lists them all.
- Starting asks for a long quiet time, going on for a short one, so that a bumped mouse costs no work.
- What is scarce (memory, disk) and pacing refuse only starts; whether VMs must give memory back is in `limits.py`.
- A tighter policy never allows more: that is a property which tests look for.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.core import owner, pacing, resources
from deskgrid.core.facts import Facts
from deskgrid.core.limits import allowed_cpus
from deskgrid.model.desktop import Availability
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask


class Standing(msgspec.Struct, frozen=True):
    """May VMs that are here run on?

    refusal: why not, or None. spared: so many, the oldest, may in spite of it. in_use: somebody uses the computer.
    cpus: processors that all VMs together may use now.
    """

    refusal: Reason | None
    spared: int
    in_use: bool
    cpus: int


def unpaced(policy: Policy, facts: Facts) -> list[Reason]:
    """What refuses a start, but for pacing: in the policy's order."""
    return [
        *facts.faults,
        *_people(policy, facts, owner.quiet_seconds(policy, facts.reading)),
        *_machine(policy, facts),
        *resources.memory_and_disk(policy, facts.machine),
        *pacing.just_booted(policy, facts.machine, facts.local),
    ]


def available(facts: Facts, refusals: Sequence[Reason]) -> Availability:
    """The answer to "may a further VM start now", from all that refuses it."""
    return Availability(not refusals, tuple(refusals), facts.reading.idle_seconds, facts.reading.logged_in)


def availability(policy: Policy, facts: Facts) -> Availability:
    """Decide whether a further VM may start now.

    Args:
        policy: what this desktop allows. facts: what is known.
    """
    return available(facts, [*unpaced(policy, facts), *pacing.paced(policy, facts.waits, facts.local)])


def standing(policy: Policy, facts: Facts) -> Standing:
    """Decide whether VMs that are here may run on, how many of them, and on how many processors."""
    needed = min(policy.resume_seconds, owner.quiet_seconds(policy, facts.reading))
    refusals = [*_people(policy, facts, needed, starting=False), *_machine(policy, facts)]
    names = {refusal.name for refusal in refusals}
    in_use = bool(names & owner.IN_USE)
    cpus = allowed_cpus(policy, facts.machine, in_use)
    spared = policy.max_vms_in_use if in_use and names <= owner.IN_USE and cpus else 0
    return Standing(next(iter(refusals), None), spared, in_use, cpus)


def may_go_on(policy: Policy, facts: Facts) -> Reason | None:
    """Decide whether VMs that are here and not spared may run on: None, or the reason why not."""
    return standing(policy, facts).refusal


def _people(policy: Policy, facts: Facts, needed: float, starting: bool = True) -> list[Reason]:
    asked = owner.wishes(facts)
    if not starting and facts.wish is not None and facts.wish.ask is Ask.FINISH:
        asked = []  # what runs may end its work
    return [
        *asked,
        *owner.endings(facts.reading),
        *owner.presence(facts, needed),
        *owner.hours(policy, facts),
        *owner.doings(policy, facts),
    ]


def _machine(policy: Policy, facts: Facts) -> list[Reason]:
    machine = facts.machine
    return [*resources.power(policy, machine), *resources.network(policy, machine), *resources.load(policy, facts)]
