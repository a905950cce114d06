"""What is known about the owner at one moment."""

from enum import StrEnum
from typing import Annotated

import msgspec


class Ending(StrEnum):
    """What the computer is about to do, as its system has announced it."""

    SLEEP = "sleep"
    SHUTDOWN = "shutdown"


class Reading(msgspec.Struct, frozen=True):
    """One reading of presence.

    logged_in: somebody has a session here, local or remote; None: unknown (counts as yes).
    idle_seconds: since the last sign of an owner, the least over all sources; None: unknown (counts as busy now).
    sources: what was read, for people and for `why`: ("tty1 12 s", "utmp: 1 session").
    faults: sources that could not be read.
    locked: every session of a person is locked; None: unknown, or nobody is logged in.
    remote: somebody is logged in from elsewhere; None: unknown.
    watching: programs that ask that the computer count as used ("Totem: playing a film").
    full_screen: a program fills the screen; None: unknown.
    lid_closed: of a laptop. ending: it is about to sleep or to shut down.
    """

    logged_in: bool | None
    idle_seconds: Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)] | None
    sources: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    locked: bool | None = None
    remote: bool | None = False
    watching: tuple[str, ...] = ()
    full_screen: bool | None = False
    lid_closed: bool = False
    ending: Ending | None = None


class SessionReading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a helper in somebody's session sees there. It may lie: it can only make the computer count as used.

    source: what the helper asked ("mutter", "ext-idle-notify", "x11"). idle_seconds: None: it does not know.
    locked, full_screen: None: it does not know. watching: as in Reading.
    """

    source: str
    idle_seconds: float | None = None
    locked: bool | None = None
    full_screen: bool | None = None
    watching: tuple[str, ...] = ()
