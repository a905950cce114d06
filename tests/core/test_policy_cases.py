"""Policy: each case is a sentence in `cases/policy-*.json`, facts in, decision out.

A case's `given` says what differs from an idle desktop at noon UTC with 8 processors, 16 GiB of memory (14 available)
and 100 GiB of free disk, under the default policy. `then` holds exactly what is asserted.
"""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import pytest

from deskgrid.core.limits import memory_is_short, room
from deskgrid.core.policy import availability, may_go_on
from deskgrid.core.vm import Vm
from deskgrid.model.desktop import VmState
from deskgrid.model.lease import Size
from deskgrid.model.policy import GIB, Machine, Policy
from deskgrid.model.presence import Reading
from deskgrid.model.reason import Reason

from .values import NOW, ROOMY, WHY, lease

CASES = Path(__file__).parent / "cases"


class Here(msgspec.Struct, forbid_unknown_fields=True):
    """A VM that is here. memory in GiB."""

    state: VmState
    cpus: int = 1
    memory: float = 1


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """local: wall clock, ISO; fold: 1 in the second pass of an hour that comes twice. Memory and disk in GiB."""

    policy: Policy = Policy()
    zone: str = "UTC"
    local: str = "2026-03-03T12:00:00"
    fold: int = 0
    logged_in: bool | None = False
    idle_seconds: float | None = 86400.0
    sources: tuple[str, ...] = ()
    presence_faults: tuple[str, ...] = ()
    cpus: int = 8
    memory: float = 16
    memory_available: float = 14
    disk_free: float = 100
    faults: tuple[Reason, ...] = ()
    vms: tuple[Here, ...] = ()


class Then(msgspec.Struct, forbid_unknown_fields=True):
    """What is decided. `until`: of the first refusal. `room`: processors, memory and disk in GiB, VMs."""

    available: bool | None = None
    refusals: tuple[str, ...] | None = None
    sentence: str | None = None
    reading: str | None = None
    until: datetime | None = None
    go_on: str | None = ""
    memory_short: bool | None = None
    room: tuple[int, float, float, int] | None = None


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """One sentence."""

    it: str
    given: Given
    then: Then


def _cases() -> list[pytest.ParameterSet]:
    found = []
    for path in sorted(CASES.glob("policy-*.json")):
        cases = msgspec.json.decode(path.read_bytes(), type=list[Case])
        found += [pytest.param(case, id=f"{path.stem[7:]}: {case.it}") for case in cases]
    return found


@pytest.mark.parametrize("case", _cases())
def test_policy_decides(case: Case) -> None:
    given, then = case.given, case.then
    local = datetime.fromisoformat(given.local).replace(tzinfo=ZoneInfo(given.zone), fold=given.fold)
    reading = Reading(given.logged_in, given.idle_seconds, given.sources, given.presence_faults)
    machine = Machine(given.cpus, *(int(n * GIB) for n in (given.memory, given.memory_available, given.disk_free)))
    answer = availability(given.policy, reading, machine, local, given.faults)
    first = answer.refusals[0] if answer.refusals else None
    go_on = may_go_on(given.policy, reading, local)

    assert answer.available is (not answer.refusals)
    assert all(
        r.name and r.sentence.endswith(".") and (r.until is None or r.until.tzinfo is UTC) for r in answer.refusals
    )
    _same(then.available, answer.available)
    _same(then.refusals, tuple(r.name for r in answer.refusals))
    _same(then.sentence, first and first.sentence)
    _same(then.reading, first and first.reading)
    _same(then.until, first and first.until)
    if then.go_on != "":
        assert (go_on and go_on.name) == then.go_on
    _same(then.memory_short, memory_is_short(given.policy, machine) is not None)
    if then.room is not None:
        vms = [_vm(n, here) for n, here in enumerate(given.vms)]
        left = room(given.policy, machine, vms)
        assert (left.cpus, left.memory_bytes / GIB, left.disk_bytes / GIB, left.vms) == then.room


def _same(expected: object, got: object) -> None:
    if expected is not None:
        assert got == expected


def _vm(number: int, here: Here) -> Vm:
    size = Size(here.cpus, int(here.memory * GIB))
    return Vm(lease(f"vm-{number}", size=size), here.state, NOW, WHY, None)


def test_a_machine_like_the_one_that_cases_assume_is_the_ordinary_one() -> None:
    given = Given()
    memory, available, disk = (int(n * GIB) for n in (given.memory, given.memory_available, given.disk_free))
    assert Machine(given.cpus, memory, available, disk) == ROOMY
