"""Every way in which a computer says no to virtual machines: one table.

Rules:
- A name is for ever: scripts, dashboards and administrators' cases rely on it.
- The order is the policy's: of several refusals that hold, the first one here is said to be the cause.
- What running VMs get is the strictest of what those that hold cause, not the first: a pause hides no shutdown.
- What a person does stays on their computer: which program it is that speaks against VMs is said to nobody else.
- A new way to say no is a row here, with its check; the manual's table is drawn from these.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from deskgrid.core.events import Refused, ShuttingDown, Sleeping
from deskgrid.core.policy import owner, pacing, resources
from deskgrid.core.policy.facts import Facts, No, Question
from deskgrid.model.desktop import Availability, Room, VmState
from deskgrid.model.policy import Policy
from deskgrid.model.reason import Reason


class Name(StrEnum):
    """What a refusal is called in reports, cases and dashboards."""

    OWNER_PAUSED = "owner-paused"
    OWNER_FINISHES = "owner-finishes"
    COMPUTER_SLEEPS = "computer-sleeps"
    COMPUTER_SHUTS_DOWN = "computer-shuts-down"
    PRESENCE_UNKNOWN = "presence-unknown"
    OWNER_ACTIVE = "owner-active"
    WORKING_HOURS = "working-hours"
    CLOSED_HOURS = "closed-hours"
    DAY_CLOSED = "day-closed"
    REMOTE_SESSION = "remote-session"
    WATCHING = "watching"
    FULL_SCREEN = "full-screen"
    QUIET_PROGRAM = "quiet-program"
    LID_CLOSED = "lid-closed"
    ON_BATTERY = "on-battery"
    BATTERY_LOW = "battery-low"
    BATTERY_UNKNOWN = "battery-unknown"
    METERED = "metered"
    WIRELESS = "wireless"
    OTHERS_LOAD = "others-load"
    MEMORY_RESERVE = "memory-reserve"
    MEMORY_SHORT = "memory-short"
    MEMORY_PRESSURE = "memory-pressure"
    DISK_FLOOR = "disk-floor"
    DISK_SHORT = "disk-short"
    JUST_BOOTED = "just-booted"
    START_SPACING = "start-spacing"
    START_OFFSET = "start-offset"


class Whose(StrEnum):
    """Who or what says no."""

    PERSON = "person"
    MACHINE = "machine"
    CAPACITY = "capacity"  # only a further VM is too much: those that are here may stay, and neighbours be given to
    PACE = "pace"  # nothing but time is to pass: counted from when nothing else refuses


class Effect(StrEnum):
    """What becomes of VMs that are here."""

    STAY = "go on"
    STOP = "stop"
    NEWEST = "the newest ends"


class Refusal(msgspec.Struct, frozen=True):
    """One way to say no.

    state: what the computer then is, for lists, as people would call it; "in use" only where somebody uses it.
    ends, when: for the manual, when it ends and when it is said. starts: it refuses a further VM; one that doesn't says
    more of what another row refuses already. event: what running VMs get, if they are to stop.
    in_use: under such ones alone, `max_vms_in_use` VMs may run on. private: its reading names programs.
    mean_seconds: its reading is a mean over this time, and says nothing new any sooner.
    """

    name: Name
    whose: Whose
    effect: Effect
    state: str
    ends: str
    when: str
    check: Callable[[Question], No | None]
    starts: bool = True
    event: type[Refused | Sleeping | ShuttingDown] = Refused
    in_use: bool = False
    private: bool = False
    mean_seconds: float = 0.0


_PERSON, _MACHINE, _CAPACITY, _PACE = Whose.PERSON, Whose.MACHINE, Whose.CAPACITY, Whose.PACE
_STAY, _STOP, _NEWEST = Effect.STAY, Effect.STOP, Effect.NEWEST

# fmt: off
REFUSALS: tuple[Refusal, ...] = (
    Refusal(Name.OWNER_PAUSED, _PERSON, _STOP, "paused", "when the pause ends or is taken back",
            "somebody said `deskgrid pause`", owner.paused),
    Refusal(Name.OWNER_FINISHES, _PERSON, _STAY, "finishing", "when it ends or is taken back",
            "somebody said `deskgrid finish`", owner.finishing),
    Refusal(Name.COMPUTER_SLEEPS, _MACHINE, _STOP, "sleeping", "when the computer is awake again",
            "the computer is about to sleep", owner.sleeping, event=Sleeping),
    Refusal(Name.COMPUTER_SHUTS_DOWN, _MACHINE, _STOP, "shutting down", "with the computer",
            "the computer is about to shut down", owner.shutting_down, event=ShuttingDown),
    Refusal(Name.PRESENCE_UNKNOWN, _PERSON, _STOP, "not known", "when it can be read again",
            "it is not known whether somebody is here", owner.unknown),
    Refusal(Name.OWNER_ACTIVE, _PERSON, _STOP, "in use", "after the quiet time",
            "the computer was used less than the quiet time ago", owner.active, in_use=True),
    Refusal(Name.WORKING_HOURS, _PERSON, _STOP, "closed", "with the hours",
            "somebody is logged in, and it is in `closed`", owner.working_hours, in_use=True),
    Refusal(Name.CLOSED_HOURS, _PERSON, _STOP, "closed", "with the hours", "it is in `closed_nobody`",
            owner.closed_hours),
    Refusal(Name.DAY_CLOSED, _PERSON, _STOP, "closed", "with the day", "the day is one of `days_closed`",
            owner.closed_day),
    Refusal(Name.REMOTE_SESSION, _PERSON, _STOP, "in use", "with the session",
            "somebody is logged in from elsewhere (or it is not known)", owner.remote),
    Refusal(Name.WATCHING, _PERSON, _STOP, "in use", "with the program", "a program keeps the screen awake",
            owner.watching, private=True),
    Refusal(Name.FULL_SCREEN, _PERSON, _STOP, "in use", "with the program",
            "a program fills the screen (or, with a session, it is not known)", owner.full_screen),
    Refusal(Name.QUIET_PROGRAM, _PERSON, _STOP, "in use", "with the program", "a program of `quiet_programs` runs",
            owner.quiet_program, private=True),
    Refusal(Name.LID_CLOSED, _PERSON, _STOP, "lid closed", "when it is opened", "the laptop's lid is closed",
            owner.lid_closed),
    Refusal(Name.ON_BATTERY, _MACHINE, _STOP, "on battery", "with mains power", "the laptop runs on battery",
            resources.on_battery),
    Refusal(Name.BATTERY_LOW, _MACHINE, _STOP, "battery low", "when it is charged",
            "the battery has less than `battery_min_percent`", resources.battery_low),
    Refusal(Name.BATTERY_UNKNOWN, _MACHINE, _STOP, "not known", "when it can be read",
            "there is a battery, and its state is not known", resources.battery_unknown),
    Refusal(Name.METERED, _MACHINE, _STOP, "network metered", "with the network",
            "the network is metered (or it is not known)", resources.metered),
    Refusal(Name.WIRELESS, _MACHINE, _STOP, "network wireless", "with the network",
            "the network is wireless (or it is not known)", resources.wireless),
    Refusal(Name.OTHERS_LOAD, _MACHINE, _STOP, "busy", "`resume_seconds` after the load",
            "other programs have used much processor time", resources.others_load),
    Refusal(Name.MEMORY_RESERVE, _CAPACITY, _STAY, "memory short", "with more free memory",
            "what memory is free is the reserve", resources.memory_reserve),
    Refusal(Name.MEMORY_SHORT, _CAPACITY, _NEWEST, "memory short", "with more free memory",
            "less memory is free than `memory_short_bytes`", resources.memory_short, starts=False),
    Refusal(Name.MEMORY_PRESSURE, _MACHINE, _NEWEST, "memory short", "when no program waits",
            "programs wait for memory", resources.memory_pressure, mean_seconds=10.0),
    Refusal(Name.DISK_FLOOR, _CAPACITY, _STAY, "disk full", "with more free disk", "what disk is free is the floor",
            resources.disk_floor),
    Refusal(Name.DISK_SHORT, _CAPACITY, _NEWEST, "disk full", "with more free disk",
            "less disk is free than half of the floor", resources.disk_short, starts=False),
    Refusal(Name.JUST_BOOTED, _MACHINE, _STAY, "waiting", "`boot_delay_seconds` after the start",
            "the computer has just started", pacing.just_booted),
    Refusal(Name.START_SPACING, _PACE, _STAY, "waiting", "`start_spacing_seconds` after it",
            "a VM has just been started here", pacing.start_spacing),
    Refusal(Name.START_OFFSET, _PACE, _STAY, "waiting", "after this desktop's own time",
            "nothing else has refused for a short time only", pacing.start_offset),
)
# fmt: on
BY_NAME = {refusal.name.value: refusal for refusal in REFUSALS}


class Held(msgspec.Struct, frozen=True):
    """A refusal that holds, and why."""

    refusal: Refusal
    reason: Reason


def holding(policy: Policy, facts: Facts, starting: bool) -> list[Held]:
    """All that refuse, in the policy's order.

    Args:
        starting: whether a further VM is to start; else whether those that are here may run on, which no row with the
            effect STAY has a say in.
    """
    question = Question(policy, facts, starting)
    found = []
    for refusal in REFUSALS:
        asked = refusal.starts if starting else refusal.effect is not Effect.STAY
        if asked and (no := refusal.check(question)) is not None:
            found.append(Held(refusal, Reason(refusal.name.value, no.sentence, no.reading, no.until)))
    return found


def takes_back(reason: Reason) -> bool:
    """Whether a VM that ended for this ended because its computer was wanted back."""
    row = BY_NAME.get(reason.name)
    return reason.name == f"{VmState.PAUSED}-overdue" or (row is not None and row.effect is not Effect.STAY)


UNREAD = frozenset(("policy-unreadable", "machine-unknown"))
"""What the agent says when it could not read what it must know."""


def state(availability: Availability, room: Room) -> str:
    """What a desktop that reports is, in a word or two: "available", "full", "in use", "waiting"."""
    if not availability.refusals:
        return "full" if room.vms == 0 else "available"
    row = BY_NAME.get(availability.refusals[0].name)
    return "not fit" if row is None else row.state


def outward(reason: Reason) -> Reason:
    """A reason as it leaves the computer."""
    row = BY_NAME.get(reason.name)
    return msgspec.structs.replace(reason, reading="") if row is not None and row.private else reason
