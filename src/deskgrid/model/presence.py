"""What is known about the owner at one moment."""

import msgspec


class Reading(msgspec.Struct, frozen=True):
    """One reading of presence.

    logged_in: somebody has a session here, local or remote; None: unknown (counts as yes).
    idle_seconds: since the last sign of an owner, the least over all sources; None: unknown (counts as busy now).
    sources: what was read, for people and for `why`: ("tty1 12 s", "utmp: 1 session").
    faults: sources that could not be read.
    """

    logged_in: bool | None
    idle_seconds: float | None
    sources: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
