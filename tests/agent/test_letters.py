"""When a desktop writes to its coordinator: while a report is held open, only when there is something to say."""

from datetime import timedelta
from pathlib import Path

from deskgrid.agent.inbox import Answered, Looked
from deskgrid.model.inventory import Inventory
from deskgrid.model.policy import Policy
from deskgrid.wire.messages import Answer, Report

from .world import Line, World

ALL_DAY = Policy(
    closed=(),
    idle_seconds_nobody=60.0,
    grace_seconds=60.0,
    start_spacing_seconds=0.0,
    start_offset_seconds=0.0,
    boot_delay_seconds=0.0,
)
HOLD_SECONDS = 25.0


class Holding(Line):
    """As the coordinator does it: a report is held open; when a newer one comes, the older is answered at once."""

    held: Report | None = None

    def say(self, report: Report) -> None:
        before, self.held = self.held, report
        self.said.append(report)
        if before is not None:
            self._answer(before)
        self.time.later(HOLD_SECONDS, lambda: self._answer(report))

    def _answer(self, report: Report) -> None:
        if self.held is report:
            self.held = None
        self.put(Answered(Answer(report.sequence, self.time.now(), (), 1.0)))


def test_a_report_that_was_overtaken_calls_for_no_further_one(tmp_path: Path) -> None:
    world = World(tmp_path, ALL_DAY, hold_seconds=HOLD_SECONDS)
    line = Holding(world.time, world.office, lambda item: world.put(item))
    world.more = {"link": line}
    world.die()
    world.wake()
    world.pass_(3)
    world.put(Looked(Inventory()))  # there is something to say
    world.pass_(1)
    assert len(line.said) == 2
    world.pass_(HOLD_SECONDS - 2)
    assert len(line.said) == 2
    world.pass_(600)
    assert len(line.said) <= 2 + timedelta(seconds=600) / timedelta(seconds=HOLD_SECONDS)
