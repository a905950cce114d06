"""A coordinator whose clock was a year ahead, and is set right: nothing of that year holds anything back."""

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509

from deskgrid.coordinator import authority
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.images.signed import SignedCatalogue
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.outcomes import KEPT_DAYS, Outcomes
from deskgrid.core.fleet.health import Health
from deskgrid.model.desktop import Fault
from deskgrid.model.plan import Outcome, PlanSettings

from .lab import Lab
from .running import now
from .values import IMAGE, Clock, member, office, ordered, started

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


@pytest.mark.parametrize("hours", [-24, -1, 1, 24 * 365])
def test_a_clock_that_is_set_makes_no_silent_desktop_look_alive_and_no_other_look_silent(
    tmp_path: Path, hours: float
) -> None:
    """One desktop loses its power just when the clock is set; the other goes on."""

    async def story() -> None:
        async with started(tmp_path, jobs=2) as (here, dead, lost):
            dead.shows(lost)
            alive = await member(here, "desk-2")
            kept = await ordered(here, alive)
            alive.shows(kept)
            await dead.say()
            here.clock.is_set(3600 * hours)
            lapse = here.part.settings.plan.lease_seconds
            for passed in range(0, int(lapse) + 60, 30):
                await here.cycle(30.0)
                await alive.say()
                assert here.part.ledger.get(kept.vm_id) is not None
                assert (here.part.ledger.get(lost.vm_id) is not None) or passed >= lapse - 30
            assert here.part.ledger.get(lost.vm_id) is None
            known = here.part.fleet.get("desk-2")
            assert known is not None and not known.warnings()
            shown = (await here.lease(kept.vm_id)).lease
            assert abs(shown.until - here.clock.now) <= timedelta(seconds=lapse)

    asyncio.run(story())


@pytest.mark.parametrize("hours", [-1, 24 * 365])
def test_an_enrolment_token_that_a_wrong_clock_made_ends_when_it_should(tmp_path: Path, hours: float) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            here.clock.is_set(3600 * hours)
            await here.cycle()
            made_at = here.clock()
            _, kept = await here.part.recorder.call(lambda c: membership.make_token(c, 3600, 1, "operator", made_at))
            here.clock.is_set(-3600 * hours)
            await here.cycle(30.0)
            token = here.part.tokens[kept.id]
            assert token.expires_at - here.clock.now == timedelta(seconds=3600 - 30)
            assert await here.part.recorder.call(lambda c: queries.token(c, kept.id)) == token

    asyncio.run(story())


def test_tokens_move_with_the_clock_also_when_the_database_refuses_at_first(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        async with office(tmp_path) as here:
            made_at = here.clock()
            _, kept = await here.part.recorder.call(lambda c: membership.make_token(c, 3600, 1, "operator", made_at))
            here.clock.is_set(3600)
            call = here.part.recorder.call
            await call(lambda c: c.exec_driver_sql(_FULL))
            with pytest.raises(sa.exc.IntegrityError, match="disk full"):
                await here.cycle()
            await call(lambda c: c.exec_driver_sql("DROP TRIGGER full"))
            await here.cycle()
            assert here.part.tokens[kept.id].expires_at == made_at + timedelta(seconds=7200)

    asyncio.run(story())


_FULL = "CREATE TRIGGER full BEFORE UPDATE ON tokens BEGIN SELECT RAISE(ABORT, 'disk full'); END"


def test_jobs_and_ads_that_came_while_the_clock_was_ahead_have_waited_for_no_longer_and_no_shorter(
    tmp_path: Path,
) -> None:

    async def story() -> None:
        async with office(tmp_path) as here:
            desk = await member(here)
            await here.offer()
            here.clock.is_set(3600 * 24)
            here.pool.submit(IMAGE.name)
            await desk.say()
            await here.cycle()
            here.clock.is_set(-3600 * 24)
            await here.cycle(30.0)
            view = here.part.view
            assert [here.clock.now - at for at in view.idle_since.values()] == [timedelta(seconds=30)]
            assert [here.clock.now - at for at in view.ads_since.values()] == [timedelta(seconds=30)]

    asyncio.run(story())


def test_leases_that_were_recorded_by_a_clock_that_was_ahead_lapse_in_time_after_a_restart(
    tmp_path: Path,
) -> None:

    async def story() -> None:
        clock = Clock()
        clock.pass_by(3600 * 24)
        async with office(tmp_path, clock) as here:
            desk = await member(here)
            await here.offer()
            here.pool.submit(IMAGE.name, 1)
            lease = await ordered(here, desk)
        async with office(tmp_path, Clock()) as here:
            live = here.part.ledger.get(lease.vm_id)
            assert live is not None
            assert live.lease.until <= here.clock() + timedelta(seconds=here.part.settings.plan.lease_seconds)
            assert live.lease.granted_at <= here.clock()

    asyncio.run(story())


def test_certificates_that_were_made_by_a_wrong_clock_are_good_or_made_again(tmp_path: Path) -> None:
    for off in (-50 * YEAR, YEAR, timedelta(0)):
        authority.prepare(tmp_path, ["localhost"], NOW + off)
    for name in ("ca.pem", "server.pem"):
        found = x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        assert found.not_valid_before_utc < NOW < found.not_valid_after_utc
    before = (tmp_path / "server.pem").read_bytes()
    authority.prepare(tmp_path, ["localhost"], NOW)
    assert (tmp_path / "server.pem").read_bytes() == before


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


def test_the_ca_of_before_comes_back_with_the_right_time(tmp_path: Path) -> None:
    def pinned(at: datetime) -> str:
        return authority.prepare(tmp_path, ["localhost"], at).fingerprint

    first, ahead = pinned(NOW), NOW + 11 * YEAR
    later = pinned(ahead)
    assert later != first
    assert pinned(ahead) == later
    assert pinned(NOW) == first == pinned(NOW + YEAR)
    chain = authority.prepare(tmp_path, ["localhost"], NOW).chain.read_bytes()
    assert (tmp_path / "ca.pem").read_bytes() in chain
