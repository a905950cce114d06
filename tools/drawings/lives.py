"""Draws docs/vm-life.md and docs/lease-life.md from their tables: a figure of what moves, and every row in words."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import msgspec

from deskgrid.core.desktop import vm
from deskgrid.core.desktop.vm import KINDS, TABLE, WAIT_SECONDS, Vm
from deskgrid.core.events import Refused, name_of
from deskgrid.core.fleet.lease import LEASE_EVENTS, LEASE_TABLE, LeaseState
from deskgrid.model.desktop import VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.reason import Reason

VM_STATES = {
    VmState.FETCHING: "Its image is being fetched; there is no process yet.",
    VmState.STARTING: "The hypervisor has been told to start it.",
    VmState.BOOTING: "Its processors run; the guest has given no sign of life yet.",
    VmState.RUNNING: "The guest is up: it may have work.",
    VmState.PAUSED: "The owner is here: its processors stand still, its memory is kept.",
    VmState.LEAVING: "The guest ends its jobs fast, confined to one core in the idle class.",
    VmState.KILLING: "It has been killed; what is left of it is not gone yet.",
    VmState.ENDED: "Nothing of it is left.",
}
LEASE_STATES = {
    LeaseState.GRANTED: "It is decided, and not in the database yet: nobody is told.",
    LeaseState.RECORDED: "It is in the database; its desktop's next answer may name it.",
    LeaseState.ORDERED: "Its desktop was told to start its VM.",
    LeaseState.SHOWN: "Its desktop reports its VM.",
    LeaseState.JOINED: "HTCondor's collector knows its VM: the start is a success.",
    LeaseState.CLAIMED: "A job has had its VM.",
    LeaseState.WITHDRAWN: "No answer names it any more; it ends when its desktop has ended its VM.",
    LeaseState.ENDED: "Its VM is gone; its ads are being taken out of the collector, and its job is freed.",
    LeaseState.ADS_GONE: "HTCondor knows it.",
}
_NOW = datetime(2000, 1, 1, tzinfo=UTC)
_GRACE_SECONDS = 86400.0
_LEASE_END = _NOW + timedelta(days=2)
_VM_HEAD = """\
# The life of a virtual machine

This page is drawn from the table in `src/deskgrid/core/desktop/vm.py`; `make docs` renews it, and a test fails when it
is out of date. Every event has a row in every state. Edges read *event / orders to the drivers*.
"""
_VM_TAIL = f"""\
An empty cell orders nothing and moves nothing (a lease still renews the lease). An accelerator is distrusted only where
no guest has lived on it yet, and never one that emulates. In leaving and in paused, a second refusal may only shorten
the deadline. What is still there when killing is due is killed again. In starting and booting, waiting puts the
deadline off, until {WAIT_SECONDS / 60:.0f} minutes after the state began; who is due then distrusts no accelerator.
"""
_LEASE_HEAD = """\
# The life of a lease

The coordinator's side of a virtual machine. This page is drawn from the table in `src/deskgrid/core/fleet/lease.py`;
`make docs` renews it, and a test fails when it is out of date. Every event has a row in every state. Edges read
*event / effects*: **write** the row, **tell** a line of the story, **count** success or failure for image and desktop,
**release** the desktop's held report, **invalidate** the VM's ads, so that its job is free.
"""
_LEASE_TAIL = """\
An empty cell moves nothing. Where an event moves nothing, effects happen only if it tells something new; a VM that the
collector still knows after its end is invalidated each time. The first cause of an end stays, and the first fault.
A row of the database holds all of it: the state follows from what is in the row.
"""


class _Life(msgspec.Struct):
    """A table, and how its rows are put into words."""

    states: Mapping[Any, str]
    table: Mapping[Any, Mapping[Any, Any]]
    kinds: tuple[type[msgspec.Struct], ...]
    orders: Callable[[Any], str]
    begins: str

    def figure(self) -> str:
        """What moves, as Mermaid draws it."""
        edges: dict[tuple[StrEnum, StrEnum, str], list[str]] = {}
        for state, kind, row in self.all():
            if row.to is not state:
                edges.setdefault((state, row.to, self.orders(row)), []).append(name_of(kind))
        first, last = next(iter(self.states)), list(self.states)[-1]
        lines = [f"    [*] --> {_id(first)}: {self.begins}"]
        for (state, to, orders), kinds in edges.items():
            lines.append(f"    {_id(state)} --> {_id(to)}: {', '.join(kinds)}{f' / {orders}' if orders else ''}")
        lines.append(f"    {_id(last)} --> [*]")
        return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])

    def events(self) -> str:
        """What each event says."""
        rows = ((f"**{name_of(kind)}**", (kind.__doc__ or "").splitlines()[0]) for kind in self.kinds)
        return _table(("event", "what has happened"), rows)

    def rows(self) -> str:
        """Every row."""
        head = ("event", *(f"in {state}" for state in self.states))
        return _table(head, ((f"**{name_of(kind)}**", *self._cells(kind)) for kind in self.kinds))

    def _cells(self, kind: type[msgspec.Struct]) -> Iterable[str]:
        for state in self.states:
            row = self.table[state][kind]
            to = "" if row.to is state else f"→ {row.to}"
            yield ": ".join(text for text in (to, self.orders(row)) if text)

    def all(self) -> Iterable[tuple[Any, type[msgspec.Struct], Any]]:
        """Every state, event and row."""
        return ((state, kind, self.table[state][kind]) for state in self.states for kind in self.kinds)


_VM = _Life(VM_STATES, TABLE, KINDS, lambda row: ", ".join(map(name_of, row.commands)), "lease / fetch")
_LEASE = _Life(LEASE_STATES, LEASE_TABLE, LEASE_EVENTS, lambda row: ", ".join(row.effects), "granted / write, tell")


def vm_life() -> str:
    """The page on a VM's life, in Markdown with a Mermaid figure."""
    may_last: dict[VmState, list[str]] = {VmState.FETCHING: ["1 h"]}
    for state, _, row in _VM.all():
        if row.to is not state and (lasts := _lasts(state, row)) not in may_last.setdefault(row.to, []):
            may_last[row.to].append(lasts)
    states = ((f"**{state}**", sentence, " or ".join(may_last[state])) for state, sentence in VM_STATES.items())
    return _page(_VM_HEAD, _VM, _table(("state", "what holds", "at most"), states), _VM_TAIL)


def lease_life() -> str:
    """The page on a lease's life, likewise."""
    states = ((f"**{state}**", sentence) for state, sentence in LEASE_STATES.items())
    return _page(_LEASE_HEAD, _LEASE, _table(("state", "what holds"), states), _LEASE_TAIL)


def _page(head: str, life: _Life, states: str, tail: str) -> str:
    parts = (
        head,
        life.figure(),
        "## States\n",
        states,
        "## Events\n",
        life.events(),
        "## Every row\n",
        life.rows(),
        tail,
    )
    return "\n".join(parts)


def _lasts(state: VmState, row: vm.Row) -> str:
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


def _deadline(state: VmState, row: vm.Row, accelerator: str) -> datetime | None:
    reason = Reason("figure", "For the figure.")
    lease = Lease("vm", "desk", ImageRef("image", "0" * 64), Size(1, 1), _NOW, _LEASE_END, reason)
    one = Vm(lease, state, _NOW, reason, None, accelerator=accelerator)
    return row.deadline(one, Refused(reason, _GRACE_SECONDS), _NOW) if row.deadline else None


def _id(state: StrEnum) -> str:
    """A state as Mermaid takes it for a name."""
    return state.replace("-", "_")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
