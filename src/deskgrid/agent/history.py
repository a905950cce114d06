"""The last inputs of an agent's decisions, and the state before them: what `deskgrid agent dump` writes.

Since a decision is a pure function of state, inputs and time, playing them again gives the same states. No secrets are
among them: tokens and keys never enter the core.
"""

import threading
from datetime import datetime

import msgspec

from deskgrid.core.desktop.advance import advance
from deskgrid.core.desktop.inputs import Input
from deskgrid.core.desktop.state import AgentState

TURNS = 500


class Turn(msgspec.Struct, frozen=True):
    """What came in together, and when by the agent's steady clock."""

    at: datetime
    given: tuple[Input, ...]


class Dump(msgspec.Struct, frozen=True):
    """What an agent knew, what came in since, what it knows now."""

    before: AgentState
    turns: tuple[Turn, ...]
    after: AgentState


class History:
    """Keeps the last turns: at least TURNS of them, at most twice as many. Any thread may ask for them."""

    def __init__(self, state: AgentState) -> None:
        self._lock = threading.Lock()
        self._older: tuple[AgentState, list[Turn]] = state, []
        self._newer: tuple[AgentState, list[Turn]] = state, []
        self._after = state

    def add(self, before: AgentState, given: tuple[Input, ...], at: datetime, after: AgentState) -> None:
        """A turn was taken, from one state to another."""
        with self._lock:
            if len(self._newer[1]) >= TURNS:
                self._older, self._newer = self._newer, (before, [])
            self._newer[1].append(Turn(at, given))
            self._after = after

    def dump(self) -> Dump:
        """Everything that is kept."""
        with self._lock:
            (before, older), (_, newer) = self._older, self._newer
            return Dump(before, (*older, *newer), self._after)


def replay(dump: Dump) -> AgentState:
    """Decide all of it again. Returns: the state that results."""
    state = dump.before
    for turn in dump.turns:
        state, _ = advance(state, turn.given, turn.at)
    return state
