"""Two small pictures as SVG: what the last days gave, and which hours of the week the policy leaves open.

Functions of values to text; colours are classes, which the page defines for light and dark.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from deskgrid.core.policy.hours import closed, day_closed
from deskgrid.model.policy import Policy
from deskgrid.model.values.text import counted
from deskgrid.session.sentences import escape, span

WIDTH = 640
_HOUR = 3600.0
_SLOTS = 48
_SLOT = timedelta(minutes=30)


class Open(StrEnum):
    """When the calendar leaves a desktop open."""

    ALWAYS = "open"
    NOBODY = "nobody"  # only with nobody logged in
    NEVER = "shut"


def days_picture(days: Sequence[tuple[str, float]]) -> str:
    """A bar for each day. days: ("2026-11-22", seconds of virtual machines), oldest first."""
    height, base, top = 150, 126, 14
    most = max([seconds for _, seconds in days], default=0.0)
    scale = max(most, _HOUR)
    step = WIDTH / max(1, len(days))
    parts = [f'<text x="0" y="10">{escape(span(most))}</text>' if most else ""]
    for number, (day, seconds) in enumerate(days):
        tall = (base - top) * seconds / scale
        x = number * step
        at = datetime.strptime(day, "%Y-%m-%d")  # noqa: DTZ007  a day of the owner's calendar, without a zone
        kind, tall = ("bar", max(2.0, tall)) if seconds else ("empty", 2.0)
        parts.append(
            f'<rect class="{kind}" x="{x + 1:.1f}" y="{base - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"'
            f' rx="1.5"><title>{at:%a} {at.day} {at:%b}: {escape(span(seconds))}</title></rect>'
        )
        if at.weekday() == 0 or number == len(days) - 1:
            anchor = "end" if number > len(days) - 3 else "middle"
            middle = x + step / 2 if anchor == "middle" else WIDTH
            if anchor == "end" or number < len(days) - 4:
                parts.append(f'<text x="{middle:.1f}" y="{height - 6}" text-anchor="{anchor}">{at.day} {at:%b}</text>')
    parts.append(f'<line class="axis" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>')
    total = sum(seconds for _, seconds in days)
    return _svg(height, f"Virtual machines ran here for {span(total)} in the last {counted(len(days), 'day')}", parts)


def week(policy: Policy, now: datetime) -> list[list[Open]]:
    """For each day of this week, Monday first, what each half hour is."""
    monday = now.date() - timedelta(days=now.weekday())
    return [
        [_open(policy, _wall(monday + timedelta(days=day), slot, now)) for slot in range(_SLOTS)] for day in range(7)
    ]


def week_picture(policy: Policy, now: datetime) -> str:
    """The hours of this week, with a mark at `now`."""
    left, row, gap, head = 40, 16, 4, 16
    height = head + 7 * (row + gap)
    step = (WIDTH - left) / _SLOTS
    parts = []
    for hour in (0, 6, 12, 18, 24):
        anchor = "end" if hour == 24 else "start" if hour == 0 else "middle"
        parts.append(f'<text x="{left + hour * 2 * step:.1f}" y="11" text-anchor="{anchor}">{hour:02}:00</text>')
    for day, slots in enumerate(week(policy, now)):
        y = head + day * (row + gap)
        parts.append(f'<text x="0" y="{y + 12}">{("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[day]}</text>')
        parts += [
            f'<rect class="{kind}" x="{left + start * step:.1f}" y="{y}" width="{length * step:.1f}" height="{row}"/>'
            for start, length, kind in _runs(slots)
        ]
    minutes = now.hour * 60 + now.minute
    x = left + minutes / 30 * step
    y = head + now.weekday() * (row + gap)
    parts.append(f'<rect class="now" x="{x - 2:.1f}" y="{y - 2}" width="4" height="{row + 4}" rx="2"/>')
    return _svg(height, "Hours of this week in which the policy lets virtual machines run here", parts)


def _wall(day: object, slot: int, now: datetime) -> datetime:
    midnight = datetime.fromisoformat(f"{day}T00:00:00")
    return (midnight + slot * _SLOT).replace(tzinfo=now.tzinfo)


def _open(policy: Policy, at: datetime) -> Open:
    if day_closed(policy.days_closed, at) or closed(policy.closed_nobody, at):
        return Open.NEVER
    return Open.NOBODY if closed(policy.closed, at, policy.days_off) else Open.ALWAYS


def _runs(slots: Sequence[Open]) -> list[tuple[int, int, Open]]:
    """Neighbours of one kind together: where they begin, how many, which."""
    runs: list[tuple[int, int, Open]] = []
    for number, kind in enumerate(slots):
        if runs and runs[-1][2] is kind:
            start, length, _ = runs[-1]
            runs[-1] = (start, length + 1, kind)
        else:
            runs.append((number, 1, kind))
    return runs


def _svg(height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )
