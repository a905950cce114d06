"""The agent's side of its conversation with the coordinator: when to report, what is answered, when to try again.

Rules:
- A report says all. One that is answered makes all earlier ones void, and so does a newer one that is sent.
- Unreachable: it tries again, later each time, at a random moment so that a fleet does not return as one.
- What the computer is made of goes along until a report with it was answered.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from deskgrid import __version__
from deskgrid.agent.inbox import LinkDown
from deskgrid.agent.ports import Ports
from deskgrid.core.desktop.state import AgentState, reports
from deskgrid.core.policy.refusals import outward
from deskgrid.model.desktop import Availability, VmReport
from deskgrid.model.inventory import Inventory
from deskgrid.model.values.backoff import Backoff
from deskgrid.wire.messages import Answer, Report

log = logging.getLogger("deskgrid.agent")
RETRY = Backoff(1.0, 60.0)


class ReportSession:
    """What was said, what was heard. due: when a report must be written. reached_at: when it was last answered.

    fault: why the coordinator cannot be reached, or "".
    """

    def __init__(self, ports: Ports, incarnation: str, hold_seconds: float, jitter: Callable[[], float]) -> None:
        self._ports, self._incarnation, self._hold, self._jitter = ports, incarnation, hold_seconds, jitter
        self._sequence = self._failures = self._revocations = 0
        self._said: dict[int, tuple[int, datetime]] = {}
        self._inventory: Inventory | None = None
        self._inventory_said = 0
        self.due = ports.now()
        self.reached_at: datetime | None = None
        self.fault = ""

    def enclose(self, inventory: Inventory) -> None:
        """Say from now on, until it was heard, what this computer is made of."""
        self._inventory, self._inventory_said, self.due = inventory, 0, self._ports.now()

    def heard(self, answer: Answer, now: datetime, state: AgentState) -> int:
        """An answer came. Returns: so many lines of story, counted from the agent's start, are recorded there."""
        if self.fault:
            log.info("the coordinator answers again")
        self.reached_at, self.fault, self._failures = now, "", 0
        self._revocations = max(self._revocations, answer.revocations)
        story_from, said_at = self._said.get(answer.to, (0, now))
        if self._inventory_said and answer.to >= self._inventory_said:
            self._inventory = None
        self._said = {to: said for to, said in self._said.items() if to > answer.to}
        if answer.to == self._sequence:  # a newer report is still open: its answer will say when to write again
            held = self._holds(state) and now - said_at > timedelta(seconds=self._hold / 2)
            self.due = now + timedelta(seconds=0 if held else max(0.1, answer.next_report_seconds))
        return story_from + answer.story_count

    def unheard(self, down: LinkDown, now: datetime) -> None:
        """A report was not answered."""
        self._said.pop(down.to, None)
        if down.to != self._sequence:
            return  # a newer report is on its way
        if down.sentence != self.fault:
            log.warning("the coordinator cannot be reached: %s", down.sentence)
        self.fault = down.sentence
        self._failures += 1
        self.due = now + timedelta(seconds=RETRY.seconds(self._failures) * (0.5 + 0.5 * self._jitter()))

    def write(self, state: AgentState) -> None:
        """Report."""
        ports = self._ports
        self._sequence += 1
        self._said[self._sequence] = (state.story_from, ports.now())
        wait = self._hold if self._holds(state) else 0.0
        self.due = ports.now() + timedelta(seconds=wait + RETRY.most_seconds)
        if self._inventory is not None and not self._inventory_said:
            self._inventory_said = self._sequence
        ports.link.say(
            Report(
                incarnation=self._incarnation,
                sequence=self._sequence,
                sent_at=ports.wall(),
                availability=_outward(state.availability),
                room=state.room,
                cpus=state.sensed.machine.cpus,
                memory_bytes=state.sensed.machine.memory_bytes,
                agent_version=__version__,
                wait_seconds=wait,
                images=tuple(facts.ref for facts in ports.store.held()),
                vms=tuple(_of(vm) for vm in reports(state)),
                ended=tuple(_of(vm) for vm in state.ended),
                story=state.story,
                inventory=self._inventory,
                revocations=self._revocations,
                neighbour_port=ports.neighbour_port(),
            )
        )

    def _holds(self, state: AgentState) -> bool:
        """Whether a report may be held open; not after one that failed: leases are to be renewed at once then."""
        return self._hold > 0 and state.availability.available and not self.fault


def _outward(availability: Availability) -> Availability:
    return msgspec.structs.replace(availability, refusals=tuple(map(outward, availability.refusals)))


def _of(vm: VmReport) -> VmReport:
    return msgspec.structs.replace(vm, reason=outward(vm.reason))
