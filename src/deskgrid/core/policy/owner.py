"""What the people at a desktop refuse: by a wish, by being there, by the clock, by what they do.

Rules:
- Unknown counts as busy; of what the policy permits anyway, nothing needs to be known.
- Somebody logged in never needs less quiet than nobody logged in.
- With `locked_is_away`, a computer whose sessions are all locked counts as one with nobody logged in.
- Each function is the check of one row of `core/policy/refusals.py`: None, or why not.
"""

from datetime import UTC, timedelta

from deskgrid.core.policy.facts import No, Question, asked
from deskgrid.core.policy.hours import closed, day_closed
from deskgrid.model.policy import Policy
from deskgrid.model.presence import Ending, Reading
from deskgrid.model.wish import Ask


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


def paused(q: Question) -> No | None:
    """A wish: nothing runs."""
    return _wish(q, Ask.PAUSE, "Somebody at this computer has asked that nothing runs here.")


def finishing(q: Question) -> No | None:
    """A wish: nothing new starts."""
    return _wish(q, Ask.FINISH, "Somebody at this computer has asked that nothing new starts here.")


def _wish(q: Question, ask: Ask, sentence: str) -> No | None:
    wish = asked(q.facts)
    if wish is None or wish.ask is not ask:
        return None
    until = None if wish.until is None else wish.until.astimezone(UTC)
    return No(sentence, f"said at {wish.at.astimezone(q.facts.local.tzinfo):%a %H:%M}", until)


def sleeping(q: Question) -> No | None:
    """The computer is about to sleep."""
    return No("The computer is about to sleep.") if q.facts.reading.ending is Ending.SLEEP else None


def shutting_down(q: Question) -> No | None:
    """The computer is about to shut down."""
    return No("The computer is about to shut down.") if q.facts.reading.ending is Ending.SHUTDOWN else None


def unknown(q: Question) -> No | None:
    """It can't be told whether somebody is here."""
    reading = q.facts.reading
    if reading.logged_in is not None and reading.idle_seconds is not None:
        return None
    what = "whether somebody is logged in" if reading.logged_in is None else "when the computer was last used"
    seen = "; ".join(reading.faults) or ", ".join(reading.sources)
    return No(f"It is not known {what}, and unknown counts as in use.", seen)


def active(q: Question) -> No | None:
    """The computer was used: going on needs a short quiet time, starting a long one."""
    reading = q.facts.reading
    needed = quiet_seconds(q.policy, reading)
    if not q.starting:
        needed = min(q.policy.resume_seconds, needed)
    if reading.idle_seconds is None or reading.idle_seconds >= needed:
        return None
    seen = ", ".join(reading.sources)
    return No(
        f"Somebody used this computer {reading.idle_seconds:.0f} s ago; "
        f"virtual machines wait for {needed:.0f} s without use.",
        f"idle {reading.idle_seconds:.1f} s of {needed:.0f} s" + (f" ({seen})" if seen else ""),
        q.facts.local.astimezone(UTC) + timedelta(seconds=needed - reading.idle_seconds),
    )


def working_hours(q: Question) -> No | None:
    """Somebody is logged in, and it is in `closed`."""
    local, here = q.facts.local, somebody(q.policy, q.facts.reading)
    if here is False or (shut := closed(q.policy.closed, local, q.policy.days_off)) is None:
        return None
    return No(
        f'Somebody is logged in, and in the hours "{shut.by}" nothing runs then.',
        f"{_clock(q)}, logged in: {'unknown' if here is None else 'yes'}",
        shut.until,
    )


def closed_hours(q: Question) -> No | None:
    """It is in `closed_nobody`."""
    if (shut := closed(q.policy.closed_nobody, q.facts.local)) is None:
        return None
    return No(f'In the hours "{shut.by}" nothing runs on this computer.', _clock(q), shut.until)


def closed_day(q: Question) -> No | None:
    """It is one of `days_closed`."""
    if (shut := day_closed(q.policy.days_closed, q.facts.local)) is None:
        return None
    return No("Today nothing runs on this computer.", f"closed on {shut.by}", shut.until)


def _clock(q: Question) -> str:
    return f"local time {q.facts.local:%a %H:%M}"


def remote(q: Question) -> No | None:
    """Somebody works here from another computer."""
    if q.policy.remote_sessions or q.facts.reading.remote is False:
        return None
    if q.facts.reading.remote:
        return No("Somebody is logged in from elsewhere.")
    return No("It is not known whether somebody is logged in from elsewhere.")


def watching(q: Question) -> No | None:
    """A film, a talk."""
    programs = q.facts.reading.watching
    if not (q.policy.watching_is_use and programs):
        return None
    return No("A program keeps the screen awake, so somebody is watching.", "; ".join(programs))


def full_screen(q: Question) -> No | None:
    """A program has the whole screen."""
    reading = q.facts.reading
    if q.policy.full_screen:
        return None
    if reading.full_screen:
        return No("A program fills the screen, so somebody is using it.")
    if reading.full_screen is None and somebody(q.policy, reading) is not False:
        return No("It is not known whether a program fills the screen.")
    return None


def quiet_program(q: Question) -> No | None:
    """A program of `quiet_programs` runs."""
    wanted = {name.casefold() for name in q.policy.quiet_programs}
    quiet = [name for name in q.facts.machine.programs if name.casefold() in wanted]
    return No("A program runs that must not be disturbed.", f"runs: {', '.join(quiet)}") if quiet else None


def lid_closed(q: Question) -> No | None:
    """The laptop's lid."""
    return No("The lid is closed.") if q.facts.reading.lid_closed and not q.policy.lid_closed else None
