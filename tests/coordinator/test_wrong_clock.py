"""A coordinator whose clock was a year ahead, and is set right: nothing of that year holds anything back."""

import json
from datetime import datetime, timedelta
from pathlib import Path

from deskgrid.coordinator.outcomes import KEPT_DAYS, Outcomes
from deskgrid.coordinator.signed import SignedCatalogue
from deskgrid.core.health import Health
from deskgrid.model.desktop import Fault
from deskgrid.model.plan import Outcome, PlanSettings

from .lab import Lab
from .running import now

NOW, YEAR = now(), timedelta(days=365)


def failed(at: timedelta) -> Outcome:
    return Outcome("search", "desk-1", NOW + at, False, Fault.DESKTOP)


def test_outcomes_that_are_too_old_or_lie_in_the_future_do_not_count() -> None:
    lately = failed(timedelta(seconds=-5))
    assert Outcomes((lately, failed(YEAR))).all(NOW) == (lately,)
    assert Outcomes((failed(timedelta(days=-2 * KEPT_DAYS)),)).all(NOW) == ()


def test_failures_of_that_year_hold_no_desktop_back() -> None:
    kept = Outcomes()
    kept.add(failed(YEAR))
    assert not Health(kept.all(NOW + YEAR), PlanSettings()).desktop("desk-1", NOW).allowed
    assert Health(kept.all(NOW), PlanSettings()).desktop("desk-1", NOW).allowed


def test_what_is_current_is_said_and_listed_again_at_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "lab", NOW)
    lab.publish("einstein/search/1.0")
    catalogue = SignedCatalogue(lab.settings, tmp_path / "memory")
    for ahead in (timedelta(0), timedelta(days=20)):
        assert catalogue.look(NOW + ahead) is not None
    for one in (catalogue, SignedCatalogue(lab.settings, tmp_path / "memory")):  # as it is, and started again
        listing = one.look(NOW)
        assert listing is not None and [version.refused for version in listing.versions] == [None]
    good = json.loads((lab.web / "metadata" / "timestamp.json").read_text())["signed"]["expires"]
    assert NOW < datetime.fromisoformat(good) < NOW + timedelta(days=2), "desktops take it again"
