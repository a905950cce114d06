"""Draws docs/vm-life.md from the table of `core/desktop/vm.py`: a figure of what moves, and every row in words.

Pure functions from the table to text; `make docs` writes the page, a test says when it is out of date.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from deskgrid.core.desktop.vm import KINDS, TABLE, WAIT_SECONDS, Row, Vm
from deskgrid.core.events import Event, Refused, name_of
from deskgrid.model.desktop import VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.reason import Reason

STATES = {
    VmState.FETCHING: "Its image is being fetched; there is no process yet.",
    VmState.STARTING: "The hypervisor has been told to start it.",
    VmState.BOOTING: "Its processors run; the guest has given no sign of life yet.",
    VmState.RUNNING: "The guest is up: it may have work.",
    VmState.PAUSED: "The owner is here: its processors stand still, its memory is kept.",
    VmState.LEAVING: "The guest ends its jobs fast, confined to one core in the idle class.",
    VmState.KILLING: "It has been killed; what is left of it is not gone yet.",
    VmState.ENDED: "Nothing of it is left.",
}
_NOW = datetime(2000, 1, 1, tzinfo=UTC)
_GRACE_SECONDS = 86400.0
_LEASE_END = _NOW + timedelta(days=2)
_HEAD = """\
# The life of a virtual machine

This page is drawn from the table in `src/deskgrid/core/desktop/vm.py`; `make docs` renews it, and a test fails when it
is out of date. Every event has a row in every state. Edges read *event / orders to the drivers*.
"""
_TAIL = f"""\
An empty cell orders nothing and moves nothing (a lease still renews the lease). An accelerator is distrusted only where
no guest has lived on it yet, and never one that emulates. In leaving and in paused, a second refusal may only shorten
the deadline. What is still there when killing is due is killed again. In starting and booting, waiting puts the
deadline off, until {WAIT_SECONDS / 60:.0f} minutes after the state began; who is due then distrusts no accelerator.
"""


def vm_life() -> str:
    """The whole page, in Markdown with a Mermaid figure."""
    parts = (_HEAD, _figure(), "## States\n", _states(), "## Events\n", _kinds(), "## Every row\n", _rows(), _TAIL)
    return "\n".join(parts)


def _figure() -> str:
    edges: dict[tuple[VmState, VmState, str], list[type[Event]]] = {}
    for state, kind, row in _all():
        if row.to is not state:
            edges.setdefault((state, row.to, _orders(row)), []).append(kind)
    lines = [f"    [*] --> {VmState.FETCHING}: lease / fetch"]
    for (state, to, orders), kinds in edges.items():
        lines.append(f"    {state} --> {to}: {', '.join(map(name_of, kinds))}{f' / {orders}' if orders else ''}")
    lines.append(f"    {VmState.ENDED} --> [*]")
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def _states() -> str:
    may_last: dict[VmState, list[str]] = {VmState.FETCHING: ["1 h"]}
    for state, _, row in _all():
        if row.to is not state and (told := _lasts(state, row)) not in may_last.setdefault(row.to, []):
            may_last[row.to].append(told)
    rows = ((f"**{state}**", sentence, " or ".join(may_last[state])) for state, sentence in STATES.items())
    return _table(("state", "what holds", "at most"), rows)


def _kinds() -> str:
    rows = ((f"**{name_of(kind)}**", (kind.__doc__ or "").splitlines()[0]) for kind in KINDS)
    return _table(("event", "what has happened"), rows)


def _rows() -> str:
    head = ("event", *(f"in {state}" for state in VmState))
    rows = ((f"**{name_of(kind)}**", *(_cell(state, TABLE[state][kind]) for state in VmState)) for kind in KINDS)
    return _table(head, rows)


def _cell(state: VmState, row: Row) -> str:
    to = "" if row.to is state else f"→ {row.to}"
    return ": ".join(text for text in (to, _orders(row)) if text)


def _orders(row: Row) -> str:
    return ", ".join(map(name_of, row.commands))


def _lasts(state: VmState, row: Row) -> str:
    """How long the state that a row leads to may last, in words: found by asking the row."""
    hard, soft = (_deadline(state, row, accelerator) for accelerator in ("kvm", "tcg"))
    if hard is None or soft is None:  # no deadline of its own
        return "for ever"
    if hard == _LEASE_END:
        return "until its lease ends"
    seconds, emulated = ((at - _NOW).total_seconds() for at in (hard, soft))
    if seconds == _GRACE_SECONDS:
        return "the policy's grace"
    return f"{seconds:.0f} s" + (f" ({emulated:.0f} s emulated)" if emulated != seconds else "")


def _deadline(state: VmState, row: Row, accelerator: str) -> datetime | None:
    reason = Reason("figure", "For the figure.")
    lease = Lease("vm", "desk", ImageRef("image", "0" * 64), Size(1, 1), _NOW, _LEASE_END, reason)
    vm = Vm(lease, state, _NOW, reason, None, accelerator=accelerator)
    return row.deadline(vm, Refused(reason, _GRACE_SECONDS), _NOW) if row.deadline else None


def _all() -> Iterable[tuple[VmState, type[Event], Row]]:
    return ((state, kind, TABLE[state][kind]) for state in VmState for kind in KINDS)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
