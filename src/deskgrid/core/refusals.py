"""Every name that the policy may say no with: the manual's table, and what a test holds the decisions to.

Rules, told first:
- A name is for ever: scripts, dashboards and administrators' cases rely on it.
- The order is the policy's: of several refusals the first one here is said to be the cause.
- `stops`: running VMs make way too; without it, only new ones wait.
- What a person does stays on their computer: which program it is that speaks against VMs is said to nobody else.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from deskgrid.model.desktop import Availability, Room
from deskgrid.model.reason import Reason

PRIVATE = frozenset({"watching", "quiet-program"})
"""Refusals whose reading names programs."""


class Refusal(msgspec.Struct, frozen=True):
    """One way to say no: its name, what the computer then is, whether running VMs must stop, its end, when it is said.

    state: for lists, as people would call it; "in use" only where somebody uses the computer.
    """

    name: str
    state: str
    stops: bool
    ends: str
    when: str


REFUSALS: tuple[Refusal, ...] = (
    Refusal("owner-paused", "paused", True, "when the pause ends or is taken back", "somebody said `deskgrid pause`"),
    Refusal("owner-finishes", "finishing", False, "when it ends or is taken back", "somebody said `deskgrid finish`"),
    Refusal("computer-sleeps", "sleeping", True, "when the computer is awake again", "the computer is about to sleep"),
    Refusal("computer-shuts-down", "shutting down", True, "with the computer", "the computer is about to shut down"),
    Refusal(
        "presence-unknown", "not known", True, "when it can be read again", "it is not known whether somebody is here"
    ),
    Refusal(
        "owner-active", "in use", True, "after the quiet time", "the computer was used less than the quiet time ago"
    ),
    Refusal("working-hours", "closed", True, "with the hours", "somebody is logged in, and it is in `closed`"),
    Refusal("closed-hours", "closed", True, "with the hours", "it is in `closed_nobody`"),
    Refusal("day-closed", "closed", True, "with the day", "the day is one of `days_closed`"),
    Refusal(
        "remote-session",
        "in use",
        True,
        "with the session",
        "somebody is logged in from elsewhere (or it is not known)",
    ),
    Refusal("watching", "in use", True, "with the program", "a program keeps the screen awake"),
    Refusal(
        "full-screen",
        "in use",
        True,
        "with the program",
        "a program fills the screen (or, with a session, it is not known)",
    ),
    Refusal("quiet-program", "in use", True, "with the program", "a program of `quiet_programs` runs"),
    Refusal("lid-closed", "lid closed", True, "when it is opened", "the laptop's lid is closed"),
    Refusal("on-battery", "on battery", True, "with mains power", "the laptop runs on battery"),
    Refusal(
        "battery-low", "battery low", True, "when it is charged", "the battery has less than `battery_min_percent`"
    ),
    Refusal(
        "battery-unknown", "not known", True, "when it can be read", "there is a battery, and its state is not known"
    ),
    Refusal("metered", "network metered", True, "with the network", "the network is metered (or it is not known)"),
    Refusal("wireless", "network wireless", True, "with the network", "the network is wireless (or it is not known)"),
    Refusal(
        "others-load", "busy", True, "`resume_seconds` after the load", "other programs have used much processor time"
    ),
    Refusal("memory-reserve", "memory short", False, "with more free memory", "what memory is free is the reserve"),
    Refusal(
        "memory-pressure",
        "memory short",
        False,
        "when no program waits",
        "programs wait for memory; the newest VM ends",
    ),
    Refusal("disk-floor", "disk full", False, "with more free disk", "what disk is free is the floor"),
    Refusal("just-booted", "waiting", False, "`boot_delay_seconds` after the start", "the computer has just started"),
    Refusal("start-spacing", "waiting", False, "`start_spacing_seconds` after it", "a VM has just been started here"),
    Refusal(
        "start-offset",
        "waiting",
        False,
        "after this desktop's own time",
        "nothing else has refused for a short time only",
    ),
)


PLANNED = frozenset(
    (
        *("desktop-silent", "unavailable", "machine-overdue", "desktop-backoff", "demand", "filler"),
        *("demand-unknown", "no-demand", "ramp", "not-needed"),
    )
)
"""What the planner itself says of a desktop."""
UNREAD = frozenset(("policy-unreadable", "machine-unknown"))
"""What the agent says when it could not read what it must know."""
_STATES = {refusal.name: refusal.state for refusal in REFUSALS}


def state(availability: Availability, room: Room) -> str:
    """What a desktop that reports is, in a word or two: "available", "full", "in use", "waiting"."""
    if not availability.refusals:
        return "full" if room.vms == 0 else "available"
    return _STATES.get(availability.refusals[0].name, "not fit")


def tally(reasons: Iterable[Reason]) -> list[str]:
    """How many desktops have each reason, for everybody to read: a name that only its desktop knows is "other"."""
    known = PLANNED | UNREAD | _STATES.keys()
    count = Counter(reason.name if reason.name in known else "other" for reason in reasons)
    return [f"{n} {name}" for name, n in count.most_common()]


def outward(reason: Reason) -> Reason:
    """A reason as it leaves the computer."""
    return msgspec.structs.replace(reason, reading="") if reason.name in PRIVATE else reason
