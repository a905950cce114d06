"""What the people at a desktop refuse: by a wish, by being there, by the clock, by what they do.

Rules, told first:
- Unknown counts as busy; of what the policy permits anyway, nothing needs to be known.
- Somebody logged in never needs less quiet than nobody logged in.
- With `locked_is_away`, a computer whose sessions are all locked counts as one with nobody logged in.
"""

from datetime import UTC, timedelta

from deskgrid.core.facts import Facts, asked
from deskgrid.core.hours import closed, day_closed
from deskgrid.model.policy import Policy
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.reason import Reason
from deskgrid.model.wish import Ask

IN_USE = frozenset({"owner-active", "working-hours"})
"""Under these alone, `max_vms_in_use` VMs may run on."""


def somebody(policy: Policy, reading: Reading) -> bool | None:
    """Whether somebody counts as logged in; None: unknown."""
    if policy.locked_is_away and reading.locked and reading.logged_in:
        return False
    return reading.logged_in


def quiet_seconds(policy: Policy, reading: Reading) -> float:
    """How long nobody must have used the computer before a VM starts."""
    if somebody(policy, reading) is False:
        return policy.idle_seconds_nobody
    return max(policy.idle_seconds, policy.idle_seconds_nobody)


def wishes(facts: Facts) -> list[Reason]:
    """What somebody has asked for."""
    wish = asked(facts)
    if wish is None:
        return []
    until = None if wish.until is None else wish.until.astimezone(UTC)
    said = f"said at {wish.at.astimezone(facts.local.tzinfo):%a %H:%M}"
    if wish.ask is Ask.PAUSE:
        return [Reason("owner-paused", "Somebody at this computer has asked that nothing runs here.", said, until)]
    return [Reason("owner-finishes", "Somebody at this computer has asked that nothing new starts here.", said, until)]


def endings(reading: Reading) -> list[Reason]:
    """What the computer is about to do."""
    if reading.ending is Ending.SLEEP:
        return [Reason("computer-sleeps", "The computer is about to sleep.")]
    if reading.ending is Ending.SHUTDOWN:
        return [Reason("computer-shuts-down", "The computer is about to shut down.")]
    return []


def presence(facts: Facts, needed: float) -> list[Reason]:
    """Is somebody here? needed: so many quiet seconds are asked for."""
    reading, refusals = facts.reading, []
    seen = ", ".join(reading.sources)
    if reading.logged_in is None or reading.idle_seconds is None:
        what = "whether somebody is logged in" if reading.logged_in is None else "when the computer was last used"
        refusals.append(
            Reason(
                "presence-unknown",
                f"It is not known {what}, and unknown counts as in use.",
                "; ".join(reading.faults) or seen,
            )
        )
    if reading.idle_seconds is not None and reading.idle_seconds < needed:
        refusals.append(
            Reason(
                "owner-active",
                f"Somebody used this computer {reading.idle_seconds:.0f} s ago; "
                f"virtual machines wait for {needed:.0f} s without use.",
                f"idle {reading.idle_seconds:.1f} s of {needed:.0f} s" + (f" ({seen})" if seen else ""),
                facts.local.astimezone(UTC) + timedelta(seconds=needed - reading.idle_seconds),
            )
        )
    return refusals


def hours(policy: Policy, facts: Facts) -> list[Reason]:
    """What the calendar says."""
    refusals, local = [], facts.local
    clock = f"local time {local:%a %H:%M}"
    here = somebody(policy, facts.reading)
    if here is not False and (shut := closed(policy.closed, local, policy.days_off)) is not None:
        refusals.append(
            Reason(
                "working-hours",
                f'Somebody is logged in, and in the hours "{shut.by}" nothing runs then.',
                f"{clock}, logged in: {'unknown' if here is None else 'yes'}",
                shut.until,
            )
        )
    if (shut := closed(policy.closed_nobody, local)) is not None:
        refusals.append(
            Reason("closed-hours", f'In the hours "{shut.by}" nothing runs on this computer.', clock, shut.until)
        )
    if (shut := day_closed(policy.days_closed, local)) is not None:
        refusals.append(
            Reason("day-closed", "Today nothing runs on this computer.", f"closed on {shut.by}", shut.until)
        )
    return refusals


def doings(policy: Policy, facts: Facts) -> list[Reason]:
    """What people do with the computer, though they may not touch it."""
    reading, refusals = facts.reading, []
    if not policy.remote_sessions and reading.remote is not False:
        refusals.append(
            Reason("remote-session", "Somebody is logged in from elsewhere.")
            if reading.remote
            else Reason("remote-session", "It is not known whether somebody is logged in from elsewhere.")
        )
    if policy.watching_is_use and reading.watching:
        refusals.append(
            Reason(
                "watching", "A program keeps the screen awake, so somebody is watching.", "; ".join(reading.watching)
            )
        )
    if not policy.full_screen and reading.full_screen:
        refusals.append(Reason("full-screen", "A program fills the screen, so somebody is using it."))
    elif not policy.full_screen and reading.full_screen is None and somebody(policy, reading) is not False:
        refusals.append(Reason("full-screen", "It is not known whether a program fills the screen."))
    wanted = {name.casefold() for name in policy.quiet_programs}
    quiet = [name for name in facts.machine.programs if name.casefold() in wanted]
    if quiet:
        refusals.append(
            Reason("quiet-program", "A program runs that must not be disturbed.", f"runs: {', '.join(quiet)}")
        )
    if reading.lid_closed and not policy.lid_closed:
        refusals.append(Reason("lid-closed", "The lid is closed."))
    return refusals
