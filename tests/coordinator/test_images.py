"""Signed images at a real service over HTTPS: offered, granted with their key, revoked, and what goes wrong."""

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deskgrid.coordinator.settings import ImageSettings
from deskgrid.core.fleet.why import Why
from deskgrid.images.contract import ImageError
from deskgrid.images.desktop import Allowance, DesktopStore, Origins
from deskgrid.images.format.published import digest
from deskgrid.images.trust.values import TrustConfiguration, Version
from deskgrid.model.desktop import VmReport, VmState
from deskgrid.model.image import ImageRef
from deskgrid.model.lease import Size
from deskgrid.model.plan import PlanSettings
from deskgrid.wire.messages import Order
from tests.waiting import SOON_SECONDS, eventually

from .lab import Lab
from .running import HttpsDesktop, Service, now, service
from .values import FULL, GIB

pytestmark = pytest.mark.slow

SEARCH = "einstein/search/1.0"
PLAN = PlanSettings(sizes=(Size(1, GIB),))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "lab", now())


@pytest.fixture
def here(tmp_path: Path, lab: Lab) -> Iterator[Service]:
    with service(tmp_path / "state", images=lab.settings) as running:
        yield running


def on_offer(here: Service) -> dict[str, str]:
    return {v.image: v.version for v in here.operator.catalogue().versions if v.offered}


def ordered(here: Service, desk: HttpsDesktop, image: str = "search") -> Order:
    here.pool.submit(image)
    end = time.monotonic() + SOON_SECONDS
    while time.monotonic() < end:
        here.pool.negotiate()
        if orders := desk.say(wait_seconds=0.2).orders:
            return orders[0]
    raise AssertionError(here.operator.status())


def showing(order: Order) -> VmReport:
    lease = order.lease
    return VmReport(lease.vm_id, lease.image, lease.size, VmState.RUNNING, now(), lease.reason, "tcg")


def why(here: Service, image: str) -> Why:
    (job,) = here.pool.submit(image)
    return here.operator.why_job(job)


def test_an_order_brings_the_key_of_its_image_until_the_vm_is_shown_and_never_after(
    here: Service, lab: Lab, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    content = lab.publish(SEARCH)
    desk = here.enrol("desk-1")
    order = ordered(here, desk)
    key = (lab.keys / "einstein.key").read_text().strip()
    assert order.lease.image == ImageRef("search", digest(content))
    assert order.instance is not None
    assert order.image is not None
    assert (order.image.project, order.image.version, order.image.key) == ("einstein", "1.0", key)
    assert order.image.sources == ()
    (again,) = desk.say().orders
    assert again.image == order.image
    (shown,) = desk.say(showing(order)).orders
    assert (shown.instance, shown.image) == (None, None)
    assert key not in caplog.text
    assert key not in repr(order)
    assert not [p for p in (tmp_path / "state").rglob("*") if p.is_file() and key.encode() in p.read_bytes()]


def test_sources_of_the_settings_go_to_the_desktops(tmp_path: Path, lab: Lab) -> None:
    lab.publish(SEARCH)
    caches = ("http://cache-1.lab", "http://cache-2.lab/images")
    with service(tmp_path / "state", images=lab.more(sources=caches)) as here:
        image = ordered(here, here.enrol("desk-1")).image
        assert image is not None
        assert image.sources == caches


def test_a_revocation_ends_the_vm_in_the_report_that_is_held(here: Service, lab: Lab) -> None:
    lab.publish(SEARCH)
    desk = here.enrol("desk-1")
    order = ordered(here, desk)
    desk.say(showing(order))
    threading.Timer(0.5, lab.revoke, (SEARCH,)).start()
    told = desk.say(showing(order), wait_seconds=20.0)
    assert told.orders == ()
    (lease,) = here.operator.leases()
    assert lease.end is not None
    assert (lease.end.name, lease.end.sentence) == (
        "image-revoked",
        "Its image search was revoked: telnet was left in.",
    )
    told = "Image search is not on offer: einstein/search/1.0 is revoked: telnet was left in."
    eventually(lambda: why(here, "search").reason.sentence == told)
    assert why(here, "search").reason.name == "image-revoked"


def test_an_image_that_waits_says_who_has_to_sign_and_is_offered_as_soon_as_they_have(here: Service, lab: Lab) -> None:
    lab.propose(SEARCH)
    waits = "einstein/search/1.0 waits for the signature of paul ("
    eventually(lambda: waits in why(here, "search").reason.sentence)
    answer = why(here, "search")
    assert answer.reason.name == "image-unsigned"
    assert why(here, "seti").reason.name == "image-unknown"
    lab.grid.approve(Version("einstein", "search", "1.0"))
    eventually(lambda: on_offer(here) == {"search": "1.0"})


def test_an_image_without_its_key_is_not_offered_and_says_so(here: Service, lab: Lab) -> None:
    lab.publish(SEARCH)
    eventually(lambda: on_offer(here))
    (lab.keys / "einstein.key").rename(lab.folder / "aside")
    eventually(lambda: why(here, "search").reason.name == "image-keyless")
    answer = why(here, "search")
    assert not on_offer(here) and "einstein.key: No such file" in answer.reason.sentence
    assert any("einstein.key: No such file" in problem for problem in here.operator.status().image_problems)


def test_the_list_tells_of_each_version_who_has_it_who_runs_it_and_who_waits(here: Service, lab: Lab) -> None:
    lab.publish(SEARCH)
    lab.publish("einstein/search/2.0")
    desk = here.enrol("desk-1")
    order = ordered(here, desk)
    here.pool.submit("search", 4)
    desk.say(showing(order), images=(order.lease.image,))

    def told() -> list[tuple[object, ...]]:
        found = here.operator.catalogue().versions
        return [(v.version, v.offered, v.latest, v.held_by, v.running, v.wanted) for v in found]

    eventually(lambda: told() == [("1.0", False, False, 0, 0, 0), ("2.0", True, True, 1, 1, 5)])
    assert {name.split(" ")[0] for name in here.operator.catalogue().versions[0].signers} == {"rita", "paul"}
    assert here.operator.images()[0].version == "2.0"


def test_of_two_projects_with_one_name_the_first_keeps_it_also_after_a_restart(tmp_path: Path, lab: Lab) -> None:
    lab.publish("einstein/search/1.0")
    lab.publish("einstein/plain/1.0")
    with service(tmp_path / "state", images=lab.settings) as here:
        eventually(lambda: on_offer(here) == {"search": "1.0", "plain": "1.0"})
        lab.second_project("archive")  # by name it would come first
        lab.publish("archive/search/7.0")
        told = "image archive/search: The name search belongs to project einstein"
        eventually(lambda: [told in problem for problem in here.operator.status().image_problems] == [True])
        assert len(here.operator.catalogue().versions) == 3
        assert on_offer(here) == {"search": "1.0", "plain": "1.0"}
    with service(tmp_path / "state", images=lab.settings) as again:
        eventually(lambda: on_offer(again) == {"search": "1.0", "plain": "1.0"})


def test_a_restart_loses_nothing_a_vm_runs_on_and_one_that_is_ordered_gets_its_key_again(
    tmp_path: Path, lab: Lab
) -> None:
    lab.publish(SEARCH)
    with service(tmp_path / "state", images=lab.settings, plan=PLAN) as here:
        desk, other = here.enrol("desk-1"), here.enrol("desk-2")
        runs = ordered(here, desk)
        desk.say(showing(runs), room=FULL)
        waits = ordered(here, other)
        pool = here.pool
    with service(tmp_path / "state", pool, images=lab.settings, plan=PLAN) as again:
        desk.service = other.service = again
        (kept,) = desk.say(showing(runs)).orders
        assert kept.lease.vm_id == runs.lease.vm_id
        eventually(lambda: [o.lease.vm_id for o in other.say().orders] == [waits.lease.vm_id])
        (order,) = other.say().orders
        assert order.image == waits.image


def test_a_repository_that_breaks_takes_nothing_away_and_is_told_of(here: Service, lab: Lab) -> None:
    lab.publish(SEARCH)
    desk = here.enrol("desk-1")
    order = ordered(here, desk)
    lab.web.rename(lab.folder / "away")
    eventually(lambda: any("there is none" in problem for problem in here.operator.status().image_problems))
    assert on_offer(here) == {"search": "1.0"}
    assert desk.say(showing(order)).orders != ()
    (lab.folder / "away").rename(lab.web)
    eventually(lambda: here.operator.status().image_problems == ())


def test_without_a_repository_no_image_is_on_offer_and_the_status_says_why(tmp_path: Path) -> None:
    with service(tmp_path / "state", images=ImageSettings()) as here:
        eventually(lambda: here.operator.status().image_problems)
        assert here.operator.status().image_problems == ("no image is on offer, since images.repository is not set",)
        assert here.operator.catalogue().versions == ()
        assert why(here, "search").reason.name in ("image-unknown", "no-cycle-yet")


def test_a_repository_that_comes_later_is_taken_up(tmp_path: Path, lab: Lab) -> None:
    lab.publish(SEARCH)
    shutil.move(lab.web, lab.folder / "away")
    with service(tmp_path / "state", images=lab.settings) as here:
        eventually(lambda: here.operator.status().image_problems)
        shutil.move(lab.folder / "away", lab.web)
        eventually(lambda: on_offer(here) == {"search": "1.0"})


def test_a_desktop_admits_what_it_is_ordered_from_the_coordinator_itself_and_nothing_that_was_revoked(
    here: Service, lab: Lab, tmp_path: Path
) -> None:
    lab.publish(SEARCH)
    order = ordered(here, here.enrol("desk-1"))
    root = tmp_path / "1.root.json"
    root.write_bytes(lab.grid.bootstrap)
    url = f"{here.at.url}/repository"
    place = TrustConfiguration(tmp_path / "trust", root, url, certificates=here.state / "ca.pem")
    store = DesktopStore(Origins(tmp_path / "store", place, (url,)), lambda: Allowance(1 << 30, 0), now)
    store.fetch(order.lease.image, order.image)
    opened = store.open(order.lease.image, order.image)
    assert opened.ref == order.lease.image
    assert opened.served is not None
    store.close(order.lease.image)
    lab.revoke(SEARCH)
    eventually(lambda: not on_offer(here))
    with pytest.raises(ImageError, match="revoked: telnet was left in"):
        store.fetch(order.lease.image, order.image)
