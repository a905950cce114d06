"""What all of Windows' sources say together: one pure function from their values to a reading.

Rules:
- Busy if any source says busy: idle time is the least over all sources.
- Last input tells of our own session only. It covers the desktop when no other session is joined to a screen: then
  presence that Windows has merely not taken back yet does not count as use.
- Else user presence must tell: inactive since when; "present" is use, for as long as it stands. A value that never
  came, or one that says nothing, leaves idle time unknown.
- Nobody needs to be watched in a session without a screen (disconnected).
- A program in session 0 sees no screen: whether one is filled is unknown to it unless a session's helper tells.
"""

from collections.abc import Sequence

import msgspec

from deskgrid.model.presence import Reading, SessionReading
from deskgrid.presence.windows.events import UserPresence, WindowsState
from deskgrid.presence.windows.values import WindowsSession

SERVICES = 0
"""The session of services."""


class WindowsFacts(msgspec.Struct, frozen=True):
    """What was read; None: unknown.

    own_session: the session that we run in. last_input_seconds: since the last input in it. sessions: of people.
    now: the steady clock, in seconds. full_screen, watching: of our own session, of the whole system.
    helpers: what helpers in sessions have said lately. faults: what could not be read.
    """

    own_session: int | None
    last_input_seconds: float | None
    sessions: tuple[WindowsSession, ...] | None
    state: WindowsState
    now: float
    full_screen: bool | None = None
    watching: tuple[str, ...] = ()
    helpers: tuple[SessionReading, ...] = ()
    faults: tuple[str, ...] = ()


def combine(facts: WindowsFacts) -> Reading:
    """Return what is known of the owner."""
    idle_seconds, sources, faults = _idle(facts)
    sessions = facts.sessions or ()
    known = facts.sessions is not None
    return Reading(
        bool(sessions) if known else None,
        idle_seconds,
        sources=(*sources, *_sessions(facts.sessions)),
        faults=(*facts.faults, *faults),
        locked=_locked(sessions, dict(facts.state.locks), facts.helpers),
        remote=any(one.remote for one in sessions) if known else None,
        watching=tuple(dict.fromkeys((*facts.watching, *(what for one in facts.helpers for what in one.watching)))),
        full_screen=_full_screen(facts),
        lid_closed=facts.state.lid_open is False,
        ending=facts.state.ending,
    )


def _idle(facts: WindowsFacts) -> tuple[float | None, list[str], list[str]]:
    """Idle seconds, the sources, and why it is unknown."""
    hands: list[float] = []
    sources: list[str] = []
    last, state = facts.last_input_seconds, facts.state
    if last is not None and facts.own_session != SERVICES:
        hands.append(last)
        sources.append(f"last input in session {facts.own_session} {last:.0f} s")
    covered = bool(hands) and facts.sessions is not None and _only_ours(facts.sessions, facts.own_session)
    if state.touched_at is not None:
        hands.append(max(0.0, facts.now - state.touched_at))
    told = state.everywhere
    if told is not None and not (told.here and covered):
        hands.append(0.0 if told.here else facts.now - told.since)
    sources += _presence("user presence", told, facts.now)
    sources += _presence("user presence in this session", state.own, facts.now)
    for one in facts.helpers:
        if one.idle_seconds is not None:
            hands.append(one.idle_seconds)
            sources.append(f"{one.source} {one.idle_seconds:.0f} s")
    least = min(hands, default=None)
    if covered or told is not None or (least is not None and least < 1.0):
        return least, sources, []
    why = (
        "user presence: got nothing from Windows yet, expected whether somebody uses any of its sessions; "
        "run the agent as a service or as a task that runs whether somebody is logged on or not"
    )
    return None, sources, [why]


def _only_ours(sessions: Sequence[WindowsSession], own: int | None) -> bool:
    """Whether our session is the only one that anybody could be sitting at."""
    attended = [one.id for one in sessions if one.attended]
    return attended == [own]


def _presence(name: str, told: UserPresence | None, now: float) -> list[str]:
    if told is None:
        return []
    return [f"{name}: {'here' if told.here else 'inactive'} for {now - told.since:.0f} s"]


def _sessions(sessions: tuple[WindowsSession, ...] | None) -> list[str]:
    if sessions is None:
        return []
    extra = [
        f"{count} {word}"
        for word, count in (
            ("remote", sum(one.remote for one in sessions)),
            ("disconnected", sum(not one.attended for one in sessions)),
        )
        if count
    ]
    return [", ".join([f"sessions: {len(sessions)}", *extra])]


def _locked(
    sessions: Sequence[WindowsSession], told: dict[int, bool], helpers: Sequence[SessionReading]
) -> bool | None:
    """Whether every session is locked. A helper's word counts only against it."""
    words = [told.get(one.id) if one.locked is None else one.locked for one in sessions]
    if not words:
        return None
    if False in words or any(one.locked is False for one in helpers):
        return False
    return True if None not in words else None


def _full_screen(facts: WindowsFacts) -> bool | None:
    words = [one.full_screen for one in facts.helpers]
    if facts.own_session != SERVICES:
        words.append(facts.full_screen)
    if True in words:
        return True
    if facts.sessions is not None and not any(one.attended for one in facts.sessions):
        return False
    return False if words and None not in words else None
