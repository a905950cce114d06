"""The planner: each case is a sentence in `cases/plan-*.json`, the fleet and the demand in, the plan out.

Times are seconds before the plan (`…_ago`). A desktop is idle for an hour, empty, and has room for four VMs and 8 GiB
unless the case says otherwise. `then` holds exactly what is asserted: `grants` as "desktop image", `shortages` as
"image vms reason", `desktops` as the reason per desktop.
"""

from pathlib import Path
from typing import Literal

import msgspec
import pytest

from deskgrid.core.fleet.fitness import tally
from deskgrid.core.fleet.plan import plan
from deskgrid.model.desktop import Fault, VmReport, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Lease, Size
from deskgrid.model.plan import LiveLease, Outcome, PlanSettings, Snapshot, Want
from deskgrid.model.policy import GIB

from .values import NOW, WHY, after, desktop, facts

CASES = Path(__file__).parent / "cases"
IMAGES = {"sl6": ImageRef("sl6", "a" * 64), "deb": ImageRef("deb", "b" * 64)}


class There(msgspec.Struct, forbid_unknown_fields=True):
    """A desktop. Memory in GiB. holds: images. shows: ids of the VMs in its last report."""

    refusals: tuple[str, ...] = ()
    idle_seconds: float | None = 3600.0
    logged_in: bool | None = False
    silent_seconds: float = 0.0
    vms: int = 4
    cpus: int = 8
    memory: int = 8
    holds: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """Demand."""

    image: str
    vms: int
    cpus: int = 1
    memory: int = 1


class Leased(msgspec.Struct, forbid_unknown_fields=True):
    """A lease that holds."""

    desktop: str
    image: str = "sl6"
    granted_ago: float = 10.0
    joined_ago: float | None = None
    claimed: bool = False
    cpus: int = 1
    memory: int = 1


class Started(msgspec.Struct, forbid_unknown_fields=True):
    """How a start went."""

    desktop: str
    ago: float
    how: Literal["joined", "image", "desktop", "none"]
    image: str = "sl6"


class Given(msgspec.Struct, forbid_unknown_fields=True):
    """The snapshot."""

    desktops: dict[str, There]
    wants: tuple[Wanted, ...] | None
    leases: dict[str, Leased] = {}
    outcomes: tuple[Started, ...] = ()
    settings: PlanSettings = PlanSettings()


class Then(msgspec.Struct, forbid_unknown_fields=True):
    """The plan."""

    grants: tuple[str, ...] | None = None
    shortages: tuple[str, ...] | None = None
    desktops: dict[str, str] | None = None
    sentence: str | None = None
    reading: str | None = None


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """One sentence. sentence and reading in `then` are of the first shortage, else of the first grant."""

    it: str
    given: Given
    then: Then


def _cases() -> list[pytest.ParameterSet]:
    found = []
    for path in sorted(CASES.glob("plan-*.json")):
        cases = msgspec.json.decode(path.read_bytes(), type=list[Case])
        found += [pytest.param(case, id=f"{path.stem[5:]}: {case.it}") for case in cases]
    return found


@pytest.mark.parametrize("case", _cases())
def test_the_planner_decides(case: Case) -> None:
    then, made = case.then, plan(_snapshot(case.given), case.given.settings, NOW)
    if then.grants is not None:
        assert tuple(f"{g.desktop} {g.image.name}" for g in made.grants) == then.grants
    if then.shortages is not None:
        assert tuple(f"{s.image} {s.vms} {s.reason.name}" for s in made.shortages) == then.shortages
    if then.desktops is not None:
        assert {name: reason.name for name, reason in made.desktops.items()} == then.desktops
    why = next((told.reason for told in (*made.shortages, *made.grants)), None)
    if then.sentence is not None:
        assert why is not None and why.sentence == then.sentence
    if then.reading is not None:
        assert why is not None and why.reading == then.reading


def _snapshot(given: Given) -> Snapshot:
    return Snapshot(
        desktops=tuple(
            desktop(
                name,
                refusals=there.refusals,
                idle_seconds=there.idle_seconds,
                logged_in=there.logged_in,
                silent_seconds=there.silent_seconds,
                vms=there.vms,
                cpus=there.cpus,
                memory_bytes=there.memory * GIB,
                images=tuple(IMAGES[image] for image in there.holds),
                here=tuple(
                    VmReport(vm_id, IMAGES["sl6"], Size(1, GIB), VmState.BOOTING, NOW, WHY) for vm_id in there.shows
                ),
            )
            for name, there in given.desktops.items()
        ),
        leases=tuple(_lease(vm_id, leased) for vm_id, leased in given.leases.items()),
        images=tuple(facts(ref) for ref in IMAGES.values()),
        wants=None
        if given.wants is None
        else tuple(Want(w.image, Size(w.cpus, w.memory * GIB), w.vms, w.vms) for w in given.wants),
        outcomes=tuple(
            Outcome(s.image, s.desktop, after(-s.ago), s.how == "joined", Fault("none" if s.how == "joined" else s.how))
            for s in given.outcomes
        ),
    )


def _lease(vm_id: str, leased: Leased) -> LiveLease:
    size = Size(leased.cpus, leased.memory * GIB)
    lease = Lease(vm_id, leased.desktop, IMAGES[leased.image], size, after(-leased.granted_ago), after(300), WHY)
    joined = None if leased.joined_ago is None else after(-leased.joined_ago)
    return LiveLease(lease, joined, leased.claimed)


def test_every_name_that_the_planner_gives_a_desktop_is_known_to_who_counts_them() -> None:
    for case in (value for one in _cases() for value in one.values if isinstance(value, Case)):
        made = plan(_snapshot(case.given), case.given.settings, NOW)
        assert not any("other" in told for told in tally(made.desktops.values())), case.it
