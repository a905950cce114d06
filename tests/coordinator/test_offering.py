"""What is on offer stays right though the catalogue hangs, fails or expires."""

import asyncio
import logging
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from deskgrid.coordinator.coordinator import Coordinator, RestoredState
from deskgrid.coordinator.cycle import Cycle
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import open_database
from deskgrid.coordinator.images.catalogue import FixedCatalogue, Unreadable
from deskgrid.core.fleet.catalogue import CatalogueEntry, Listing
from deskgrid.model.image import ImageFacts, ImageGrant, ImageRef
from deskgrid.model.reason import Reason
from tests.pool.fake import FakePool

from .values import START, Clock, Desk, Office, settings

ONE, TWO = ImageRef("search", "1" * 64), ImageRef("search", "2" * 64)
UNTIL = START + timedelta(days=1)


def listed(ref: ImageRef, number: int = 1, refused: Reason | None = None) -> CatalogueEntry:
    return CatalogueEntry(ref, "einstein", f"{number}.0", number, True, ("rita",), 1 << 20, 1 << 20, 1 << 20, refused)


def listing(*versions: CatalogueEntry, **more: object) -> Listing:
    return Listing(versions, frozenset({"einstein"}), UNTIL, **more)


class Said:
    """A catalogue that says what it is told to, one after the other; a listing, a failure, or nothing new."""

    def __init__(self, *what: Listing | Exception | None) -> None:
        self.what = list(what)
        self.hangs = threading.Event()
        self.hangs.set()

    def look(self, now: datetime) -> Listing | None:
        self.hangs.wait(30)
        said = self.what.pop(0) if self.what else None
        if isinstance(said, Exception):
            raise said
        return said

    def key(self, project: str) -> str | None:
        return "ab" * 32 if project == "einstein" else None


class Rig:
    """A coordinator with this catalogue."""

    def __init__(self, state: Path, said: Said, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.pool = FakePool(self.clock)
        self.database = open_database(f"sqlite:///{state / 'db'}")
        self.part = Coordinator(
            settings(state), self.pool, self.clock, RestoredState(self.database, self.clock()), said
        )
        self.office = Office(self.part, self.pool, self.clock)
        self.cycle = Cycle(self.part)

    async def look(self, seconds: float = 10.0) -> dict[str, str]:
        await self.part.offering.refresh(self.clock(), seconds)
        return {name: facts.version for name, facts in self.part.offering.images(self.clock()).items()}

    async def sql(self, statement: str) -> None:
        await self.part.recorder.call(lambda c: c.exec_driver_sql(statement))

    async def close(self) -> None:
        await self.part.close()
        self.database.close()


def test_a_catalogue_that_hangs_is_told_of_and_taken_up_when_it_answers(tmp_path: Path) -> None:
    async def story() -> None:
        said = Said(listing(listed(ONE)), None, listing(listed(TWO, 2)))
        rig = Rig(tmp_path, said)
        assert await rig.look() == {"search": "1.0"}
        said.hangs.clear()
        assert await rig.look(0.01) == {"search": "1.0"}
        assert "has not been read" in rig.part.offering.problems[0]
        said.hangs.set()
        await rig.look()
        assert await rig.look() == {"search": "2.0"}
        assert rig.part.offering.problems == ()
        await rig.close()

    asyncio.run(story())


def test_what_was_listed_stays_on_offer_until_its_end_and_a_revocation_counts_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        caplog.set_level(logging.INFO)
        broken = Unreadable(["the disk is away"])
        rig = Rig(tmp_path, Said(listing(listed(ONE)), broken, broken, ValueError("odd"), listing(listed(ONE))))
        await rig.look()
        for _ in range(2):
            assert await rig.look() == {"search": "1.0"}
        assert caplog.text.count("the disk is away") == 1
        rig.clock.now = UNTIL
        assert rig.part.offering.images(UNTIL) == {}
        reason = rig.part.offering.absent(UNTIL)["search"]
        assert (reason.name, "the disk is away" in reason.sentence) == ("images-expired", True)
        assert await rig.look() == {}
        assert "ValueError" in rig.part.offering.problems[0]
        rig.clock.now = START
        rig.part.keep_time()
        assert await rig.look() == {"search": "1.0"}
        assert "all is well again" in caplog.text
        await rig.close()

    asyncio.run(story())


def test_a_revocation_by_an_unreadable_catalogue_withdraws_what_it_concerns_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        other = ImageRef("other", "3" * 64)
        said = Said(listing(listed(ONE), listed(other)), None, None, None, Unreadable(["no"], {ONE.digest: "bad"}))
        rig = Rig(tmp_path, said)
        desks = []
        for number, image in enumerate((ONE, other)):
            await rig.office.enrol(f"desk-{number}")
            rig.pool.submit(image.name)
            desks.append(Desk(rig.office, f"desk-{number}"))
        for _ in range(5):
            for desk in desks:
                await desk.say()
            rig.clock.pass_by(5)
            rig.pool.negotiate()
            await rig.cycle.run()
        ends = {live.lease.image: live.withdrawn for live in rig.part.ledger.all()}
        assert ends[other] is None
        withdrawn = ends[ONE]
        assert withdrawn is not None or ONE not in ends
        await rig.close()

    asyncio.run(story())


def test_an_image_can_be_opened_only_while_it_may_start_and_its_key_is_here(tmp_path: Path) -> None:
    async def story() -> None:
        keyless = ImageRef("archive", "4" * 64)
        foreign = CatalogueEntry(keyless, "newton", "1.0", 1, True)
        refused = listed(TWO, 2, Reason("image-keyless", "No key."))
        rig = Rig(tmp_path, Said(listing(listed(ONE), refused, foreign), Unreadable(["no"], {ONE.digest: "bad"})))
        await rig.look()
        offering = rig.part.offering
        assert offering.grant(ONE) == ImageGrant("einstein", "1.0", "ab" * 32)
        for ref, name in (
            (TWO, "image-keyless"),
            (keyless, "image-keyless"),
            (ImageRef("x", "9" * 64), "image-unknown"),
        ):
            reason = offering.grant(ref)
            assert isinstance(reason, Reason)
            assert reason.name == name
        assert offering.forbids(TWO, shown=True) is None
        assert await rig.look() == {"archive": "1.0"}
        assert offering.absent(START)["search"].name == "image-revoked"
        reason = offering.forbids(ONE, shown=True)
        assert reason is not None
        assert "was revoked: bad" in reason.sentence
        await rig.close()

    asyncio.run(story())


def test_a_names_owner_is_recorded_before_it_is_offered_and_a_database_that_refuses_is_asked_again(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, Said(listing(listed(ONE))))
        await rig.sql("ALTER TABLE image_names RENAME TO away")
        with pytest.raises(sa.exc.SQLAlchemyError):
            await rig.look()
        assert rig.part.offering.images(START) == {}
        await rig.sql("ALTER TABLE away RENAME TO image_names")
        assert await rig.look() == {"search": "1.0"}
        assert await rig.part.recorder.call(queries.image_names) == {"search": "einstein"}
        await rig.close()

    asyncio.run(story())


def test_a_name_is_free_again_when_its_project_is_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        rig = Rig(tmp_path, Said(listing(listed(ONE)), Listing((), frozenset({"newton"}), UNTIL)))
        await rig.look()
        await rig.look()
        assert await rig.part.recorder.call(queries.image_names) == {}
        assert rig.part.offering.revoked == {ONE.digest: "project einstein is no more"}
        await rig.close()

    asyncio.run(story())


def test_images_that_only_pretend_need_no_key(tmp_path: Path) -> None:
    async def story() -> None:
        fixed = FixedCatalogue()
        rig = Rig(tmp_path, fixed)
        assert await rig.look() == {}
        fixed.offer(ImageFacts(ONE, 1, 1))
        assert await rig.look() == {"search": ""}
        assert rig.part.offering.grant(ONE) is None
        await rig.close()

    asyncio.run(story())
