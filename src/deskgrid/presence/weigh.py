"""What the sources say together: one pure function from their values to a reading.

Rules, told first:
- Busy if any source says busy: idle time is the least over all sources.
- Idle only if it is known of every session that somebody has: a session on a terminal needs that terminal, one at the
  seat needs keyboard and mouse. A session of which nothing can be learned (a remote desktop, a file transfer) makes
  idle time unknown for as long as it lasts.
- Unknown stays unknown, however quiet the other sources are, unless one of them says busy now.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.model.presence import Reading
from deskgrid.presence.sessions import Kind, Logins, Session
from deskgrid.presence.terminals import Quiet

BUSY_SECONDS = 1.0
"""A source that is idle for less says busy now."""


class Hands(msgspec.Struct, frozen=True):
    """What one source knows of keyboard and mouse.

    idle_seconds: None: it knows nothing. complete: no keyboard or mouse escapes it. faults: what it lacks.
    """

    name: str
    idle_seconds: float | None
    complete: bool
    faults: tuple[str, ...] = ()


def weigh(logins: Logins, terminals: Sequence[Quiet], hands: Sequence[Hands], faults: Sequence[str] = ()) -> Reading:
    """Return what is known of the owner.

    Args:
        logins: who is logged in. terminals: all terminals of people. hands: sources on keyboard and mouse.
        faults: of the terminals.
    """
    at_seat = any(one.complete and one.idle_seconds is not None for one in hands)
    unknown = [why for one in logins.sessions if (why := _unknown(one, terminals, at_seat))]
    known = [one.idle_seconds for one in terminals]
    known += [one.idle_seconds for one in hands if one.idle_seconds is not None]
    least = min(known, default=None)
    idle_seconds = least if not unknown or (least is not None and least < BUSY_SECONDS) else None
    missing = [] if known else ["idle time: got no terminal and no input device that can be read, expected one"]
    return Reading(
        logins.anybody,
        idle_seconds,
        sources=(
            *_terminals(terminals),
            *(f"{one.name} {one.idle_seconds:.0f} s" for one in hands if one.idle_seconds is not None),
            *logins.sources,
        ),
        faults=(
            *logins.faults,
            *faults,
            *dict.fromkeys(unknown),
            *(fault for one in hands for fault in one.faults),
            *missing,
        ),
    )


def _unknown(session: Session, terminals: Sequence[Quiet], at_seat: bool) -> str | None:
    """Why it can't be known when this session was last used, or None."""
    if session.kind is Kind.SEAT:
        if at_seat:
            return None
        return (
            "graphical session: got no source on all of its keyboards and mice, expected one; "
            "let this account read /dev/input/event* (group input)"
        )
    if session.kind is Kind.TERMINAL:
        if any(_is_on(session, one) for one in terminals):
            return None
        return f"{session.source} session: got no terminal {session.terminal or 'of its own'}, expected one to look at"
    return f"{session.source} session: its keyboard can't be seen from here (a remote desktop or a file transfer)"


def _is_on(session: Session, terminal: Quiet) -> bool:
    if session.terminal:
        return terminal.name == session.terminal
    return terminal.uid == session.uid and terminal.name.startswith("pts/")


def _terminals(terminals: Sequence[Quiet]) -> tuple[str, ...]:
    """The one that was used last, and how many more there are."""
    if not terminals:
        return ()
    last = min(terminals, key=lambda one: one.idle_seconds)
    more = f" ({len(terminals) - 1} more)" if len(terminals) > 1 else ""
    return (f"{last.name} {last.idle_seconds:.0f} s{more}",)
