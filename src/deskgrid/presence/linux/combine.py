"""What the sources say together: one pure function from their values to a reading.

Rules:
- Busy if any source says busy: idle time is the least over all sources.
- Idle only if it is known of every session that somebody has: a session on a terminal needs that terminal, one at the
  seat needs keyboard and mouse. A session of which nothing can be learned (a remote desktop, a file transfer) makes
  idle time unknown for as long as it lasts.
- A helper in a session may vouch for that session only (`told`); all else that helpers say can only make the desktop
  count as used.
- Unknown stays unknown, however quiet the other sources are, unless one of them says busy now.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.model.presence import Reading
from deskgrid.presence.helpers import Word
from deskgrid.presence.linux.sessions import Logins, Session, SessionKind
from deskgrid.presence.linux.terminals import Quiet

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


def combine(
    logins: Logins,
    terminals: Sequence[Quiet],
    hands: Sequence[Hands],
    faults: Sequence[str] = (),
    words: Sequence[Word] = (),
    watching: Sequence[str] = (),
) -> Reading:
    """Return what is known of the owner.

    Args:
        logins: who is logged in. terminals: all terminals of people. hands: sources on keyboard and mouse.
        faults: of the terminals and logind. words: of helpers in sessions.
        watching: programs that keep the computer awake, as logind says it.
    """
    unknown = [why for one in logins.sessions if (why := _unknown(one, logins.sessions, terminals, hands, words))]
    known = [one.idle_seconds for one in terminals]
    known += [one.idle_seconds for one in hands if one.idle_seconds is not None]
    missing = []
    if not known and not _any_vouched(logins.sessions, words):
        missing.append("idle time: got no terminal and no input device that can be read, expected one")
    least = min([*known, *(one.idle_seconds for one in words if one.idle_seconds is not None)], default=None)
    sure = not unknown and not missing
    return Reading(
        logins.anybody,
        least if sure or (least is not None and least < BUSY_SECONDS) else None,
        sources=(
            *_terminals(terminals),
            *(f"{one.name} {one.idle_seconds:.0f} s" for one in hands if one.idle_seconds is not None),
            *logins.sources,
            *(_of_helper(one) for one in words),
        ),
        faults=(
            *logins.faults,
            *faults,
            *dict.fromkeys(unknown),
            *(fault for one in hands for fault in one.faults),
            *missing,
        ),
        locked=_locked(logins.sessions, words),
        remote=_remote(logins),
        watching=tuple(dict.fromkeys((*watching, *(text for one in words for text in one.watching)))),
        full_screen=any(one.full_screen for one in words),
    )


def _unknown(
    session: Session,
    sessions: Sequence[Session],
    terminals: Sequence[Quiet],
    hands: Sequence[Hands],
    words: Sequence[Word],
) -> str | None:
    """Why it can't be known when this session was last used, or None."""
    if any(word.idle_seconds is not None for word in vouched(session, sessions, words)):
        return None
    if session.kind is SessionKind.SEAT:
        if any(one.complete and one.idle_seconds is not None for one in hands):
            return None
        return (
            "graphical session: got no source on all of its keyboards and mice, expected one; "
            "let this account read /dev/input/event* (group input), or run the helper in that session"
        )
    if session.kind is SessionKind.TERMINAL:
        if any(_is_on(session, one) for one in terminals):
            return None
        return f"{session.source} session: got no terminal {session.terminal or 'of its own'}, expected one to look at"
    return f"{session.source} session: its keyboard can't be seen from here (a remote desktop or a file transfer)"


def vouched(session: Session, sessions: Sequence[Session], words: Sequence[Word]) -> tuple[Word, ...]:
    """Return the words that may vouch for this session."""
    if session.uid is None or not session.graphical:
        return ()
    if sum(one.graphical and one.uid == session.uid for one in sessions) != 1:
        return ()
    return tuple(word for word in words if word.fresh and word.uid == session.uid)


def _any_vouched(sessions: Sequence[Session], words: Sequence[Word]) -> bool:
    return any(word.idle_seconds is not None for one in sessions for word in vouched(one, sessions, words))


def _locked(sessions: Sequence[Session], words: Sequence[Word]) -> bool | None:
    """Whether every session of a person is locked; None: unknown, or nobody is logged in."""
    by_logind = [one for one in sessions if one.source != "utmp"]
    here = {one.terminal for one in by_logind}
    elsewhere = [one for one in sessions if one.source == "utmp" and one.remote and one.terminal not in here]
    said = [_is_locked(one, sessions, words) for one in by_logind]
    if any(one is False for one in said) or (elsewhere and sessions):
        return False
    return True if said and all(said) else None


def _is_locked(session: Session, sessions: Sequence[Session], words: Sequence[Word]) -> bool | None:
    said = {word.locked for word in words if word.uid == session.uid and session.graphical and word.locked is False}
    if said or session.locked is False:
        return False
    if session.locked is None:
        return True if any(word.locked for word in vouched(session, sessions, words)) else None
    return True


def _remote(logins: Logins) -> bool | None:
    if any(one.remote for one in logins.sessions):
        return True
    return False if logins.anybody is False or (logins.known and not logins.faults) else None


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


def _of_helper(word: Word) -> str:
    """Such as "helper of uid 1000 (mutter) 300 s"."""
    what = "idle unknown" if word.idle_seconds is None else f"{word.idle_seconds:.0f} s"
    return f"helper of uid {word.uid} ({word.source}) {what}" + ("" if word.fresh else ", silent since long")
