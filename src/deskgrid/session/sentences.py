"""What is said to the owner: times, wishes, and the one sentence that tells what their computer does and why.

Everything here is a function of values. Times are shown in the zone of `now`.
"""

import html
import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.values.text import counted, plain
from deskgrid.model.wish import Ask, Wish
from deskgrid.wire.local import Granted, Status, Usage

_PARTS = re.compile(r"(?:(\d{1,4})d)?(?:(\d{1,4})h)?(?:(\d{1,4})m(?:in)?)?\Z")
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)\Z")
_FOREVER = ("forever", "until i say")
LONGEST = timedelta(days=366)
EXPECTED = "expected 30m, 1h, 2h30m, 1d, 18:00, today, or forever"

STATES = {
    VmState.FETCHING: "fetching its image",
    VmState.STARTING: "starting",
    VmState.BOOTING: "starting",
    VmState.RUNNING: "running",
    VmState.PAUSED: "standing still",
    VmState.LEAVING: "leaving",
    VmState.KILLING: "leaving",
    VmState.ENDED: "has left",
}


class BadDuration(ValueError):
    """A text that names no time to come: the message says what was got and what is expected."""


def until_of(text: str, now: datetime) -> datetime | None:
    """The end that "30m", "2h30m", "18:00" or "today" names; None for "forever".

    Args: now: in the owner's time zone, aware.
    Raises: BadDuration.
    """
    said = " ".join(text.lower().split())
    if said in _FOREVER:
        return None
    if said == "today":
        return _local_midnight_after(now)
    if match := _CLOCK.match(said):
        return _next_time(int(match[1]), int(match[2]), now, text)
    match = _PARTS.match(said.replace(" ", ""))
    if match is None or not any(match.groups()):
        raise BadDuration(f"how long: got {text!r}, {EXPECTED}")
    days, hours, minutes = (int(part or 0) for part in match.groups())
    span = timedelta(days=days, hours=hours, minutes=minutes)
    if not timedelta(0) < span <= LONGEST:
        raise BadDuration(f"how long: got {text!r}, expected more than nothing and at most a year; {EXPECTED}")
    return (now.astimezone(UTC) + span).astimezone(now.tzinfo)


def escape(text: str) -> str:
    """A text from anywhere, for HTML."""
    return html.escape(plain(text))


def wall(now: datetime, zone: str) -> datetime:
    """`now` on the wall clock that the policy goes by (`Status.zone`), which may not be this computer's."""
    if not zone:
        return now
    try:
        return now.astimezone(ZoneInfo(zone))
    except (KeyError, ValueError, OSError):  # of an agent that knows more zones
        return now


def zone_sentence(now: datetime, zone: str) -> str:
    """Whose times are told, if the computer's own clock shows others; else nothing."""
    there = wall(now, zone)
    return f"Times are those of {zone}, by which this grid goes." if there.utcoffset() != now.utcoffset() else ""


def _local_midnight_after(now: datetime) -> datetime:
    return datetime.combine(now.date() + timedelta(days=1), time(), tzinfo=now.tzinfo)


def _next_time(hour: int, minute: int, now: datetime, text: str) -> datetime:
    try:
        at = datetime.combine(now.date(), time(hour, minute), tzinfo=now.tzinfo)
    except ValueError:
        raise BadDuration(f"how long: got {text!r}, expected a time of day such as 18:00; {EXPECTED}") from None
    if at > now:
        return at
    return datetime.combine(now.date() + timedelta(days=1), time(hour, minute), tzinfo=now.tzinfo)


def clock(at: datetime, now: datetime) -> str:
    """A time for people: "18:00", "tomorrow 08:00", "Mon 30 Nov 08:00"."""
    at = at.astimezone(now.tzinfo)
    days = (at.date() - now.date()).days
    if days == 0:
        return f"{at:%H:%M}"
    if days == 1:
        return "midnight" if at.time() == time() else f"tomorrow {at:%H:%M}"
    if days == -1:
        return f"yesterday {at:%H:%M}"
    return f"{at:%a %-d %b %H:%M}" if at.year == now.year else f"{at:%-d %b %Y %H:%M}"


def wish_sentence(wish: Wish, now: datetime) -> str:
    """What somebody asks of the grid: "Paused until 18:00, as anna asked."."""
    what = "Paused" if wish.ask is Ask.PAUSE else "Nothing new starts here"
    until = f"until {clock(wish.until, now)}" if wish.until else "until it is taken back with `deskgrid resume`"
    return f"{what} {until}, as {wish.by} asked."


def done_sentence(done: Granted, account: str, now: datetime) -> str:
    """What comes of a wish, in one sentence."""
    if done.wish is None:
        return "Resumed: virtual machines may run here again when the computer is not in use."
    if done.ask is Ask.RESUME:
        return f"What {account} asked is taken back, but somebody else's wish holds. {wish_sentence(done.wish, now)}"
    until = f"until {clock(done.wish.until, now)}" if done.wish.until else "until you say `deskgrid resume`"
    if done.wish.by != account:
        return f"It was so already. {wish_sentence(done.wish, now)}"
    if done.wish.ask is Ask.FINISH:
        return f"Nothing new starts {until}; {_ends(done.vms)}"
    return f"Paused {until}; {_leaves(done.vms)}"


def _leaves(vms: int) -> str:
    if vms == 0:
        return "no virtual machine is here."
    return f"{counted(vms, 'virtual machine leaves', 'virtual machines leave')} now."


def _ends(vms: int) -> str:
    if vms == 0:
        return "no virtual machine is here."
    return f"{counted(vms, 'virtual machine may end its', 'virtual machines may end their')} work."


def headline(status: Status, now: datetime) -> tuple[str, str]:
    """What this computer does, and why: both one sentence. The second may be empty."""
    running = [vm for vm in status.vms if vm.state is VmState.RUNNING]
    here = len(status.vms)
    refusals = status.availability.refusals
    why = refusals[0].sentence if refusals else ""
    if status.wish is not None:
        why = wish_sentence(status.wish, now)
    if running:
        count = counted(len(running), "virtual machine runs", "virtual machines run")
        return f"{count} here for other people's research.", why if status.wish else ""
    if here:
        paused = all(vm.state is VmState.PAUSED for vm in status.vms)
        doing = "stand still" if paused else "come or go"
        what = counted(here, "virtual machine is here and stands still", f"virtual machines {doing} here")
        if here == 1 and not paused:
            what = f"1 virtual machine is here, {STATES[status.vms[0].state]}"
        reason = status.go_on or status.vms[0].reason
        return f"{what}.", why if status.wish else reason.sentence
    if status.availability.available:
        return "Nothing runs here now.", "This computer would help, but nobody needs it at the moment."
    return "Nothing runs here now.", why


def why_ends(status: Status) -> datetime | None:
    """When the refusal that is shown is expected to end, if that is known. A wish says it itself."""
    if status.wish is not None:
        return None
    refusals = status.availability.refusals
    return refusals[0].until if refusals else None


def for_whom(vm: VmReport) -> str:
    """For whom a virtual machine runs, as far as this computer knows."""
    return f"HTCondor jobs that asked for {vm.image.name}"


def span(seconds: float) -> str:
    """A time for people: "3 min", "2.5 hours", "12 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 10 else f"{hours:,.0f} hours"


def gift_sentence(used: Usage) -> str:
    """What this computer gave in a month."""
    if used.vm_seconds <= 0:
        return "This month it has given nothing yet."
    machines = counted(used.vms, "virtual machine")
    said = f"This month it gave {span(used.vm_seconds)} to {machines} ({span(used.core_seconds)} of processor cores)"
    if used.evictions:
        said += (
            f"; {counted(used.evictions, 'made way for you before its', 'made way for you before their')} work was done"
        )
    return f"{said}."
