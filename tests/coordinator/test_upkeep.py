"""Nothing is kept for ever, a database of an older deskgrid is brought up to date, and the newest is found quickly."""

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import sqlalchemy as sa
import uvicorn

from deskgrid.coordinator import service
from deskgrid.coordinator.db import database as db
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import Database, open_database
from deskgrid.coordinator.http.connection import BoundedConnection, ConnectionBounds
from deskgrid.coordinator.retention import keep_small, prune, prune_all
from deskgrid.coordinator.state import membership
from deskgrid.core.fleet.lease import LeaseRecord, LeaseState
from deskgrid.model.lease import Lease, Size
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Enrol
from deskgrid.wire.operator import StoryLine

from .values import GIB, IMAGE, START, office

WHY = Reason("demand", "A job waits.", "1 wanted")
DAY = timedelta(days=1)


def opened(folder: Path) -> Database:
    return open_database(f"sqlite:///{folder / 'coordinator.sqlite'}")


def fill(database: Database, ended: int, living: int = 1) -> None:
    """A desktop; VMs that ended a day apart, the first at START, each with two lines; and some that live."""
    with database.begin() as c:
        text, _ = membership.make_token(c, 3600, 1, "operator", START)
        membership.make_token(c, 3600, 1, "operator", START)
        membership.enrol(c, Enrol(text, "desk-1"), START)
        for n in range(ended + living):
            at = START + n * DAY
            lease = Lease(f"vm-{n}", "desk-1", IMAGE, Size(1, GIB), at, at, WHY)
            queries.write_leases(c, [LeaseRecord(lease, at, ended_at=at if n < ended else None, end=WHY)])
            queries.write_story(c, [StoryLine(f"vm-{n}", at, at, "desk-1", "s", event, "") for event in "ab"])


def count(database: Database, table: sa.Table) -> int:
    with database.begin() as c:
        return c.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0


def test_what_ended_long_ago_goes_with_its_story_bite_by_bite_and_what_lives_stays(tmp_path: Path) -> None:
    database = opened(tmp_path)
    fill(database, ended=10, living=2)
    bites = []
    while True:
        with database.begin() as c:
            bites.append(prune(c, START + 5 * DAY, START + timedelta(seconds=1), bite=2))
        if not bites[-1]:
            break
    assert len(bites) == 4
    assert (count(database, db.leases), count(database, db.story)) == (7, 14)
    assert count(database, db.tokens) == 1, "the one that a desktop came by stays"
    assert count(database, db.audit) == 0
    with database.begin() as c:
        assert [r.lease.vm_id for r in queries.live_leases(c)] == ["vm-10", "vm-11"]
        assert len(queries.members(c)) == 1
    database.close()


def test_numbers_of_lines_go_on_growing_after_all_is_old(tmp_path: Path) -> None:
    database = opened(tmp_path)
    fill(database, ended=3, living=0)
    with database.begin() as c:
        before = queries.last_line(c)
        while prune(c, START + 100 * DAY, START):
            pass
        assert queries.last_line(c) == before
    database.close()


def test_the_service_removes_by_its_settings_and_the_file_shrinks(tmp_path: Path) -> None:
    database = opened(tmp_path)
    fill(database, ended=1)
    with database.begin() as c:
        rows = [
            msgspec.structs.asdict(StoryLine("vm-0", START, START, "desk-1", "s", f"e{n}", "x" * 500))
            for n in range(9000)
        ]
        c.execute(db.story.insert(), [{k: v for k, v in row.items() if k != "id"} for row in rows])
        c.execute(db.story.insert(), [{k: v for k, v in rows[0].items() if k != "id"} | {"vm_id": "vm-1"}])
    database.close()

    async def play() -> None:
        async with office(tmp_path) as here:
            assert await prune_all(here.part) == 0
            here.clock.pass_by(91 * 86400.0)
            assert await prune_all(here.part) > 0
            pages = await here.part.recorder.call(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
            assert pages is not None and pages < 1000

    asyncio.run(play())


def made_by_version_1(folder: Path) -> None:
    """As the first version made it: other indexes, a column less, and a file that never shrinks."""
    database = opened(folder)
    fill(database, ended=2)
    with database.begin() as c:
        for index in db.leases.indexes:
            if index.name != "ix_leases_ended_at":
                index.drop(c)
        c.exec_driver_sql("CREATE INDEX ix_leases_desktop ON leases (desktop)")
        c.exec_driver_sql("ALTER TABLE leases DROP COLUMN ordered_at")
        c.execute(db.meta.update().values(value="1"))
    raw = database._engine.raw_connection()
    raw.cursor().execute("PRAGMA auto_vacuum=NONE")
    raw.cursor().execute("VACUUM")
    raw.close()
    database.close()


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    made_by_version_1(tmp_path)
    for _ in range(2):  # and stays so
        database = opened(tmp_path)
        with database.begin() as c:
            names = {index["name"] for index in sa.inspect(c).get_indexes("leases")}
            assert names == {index.name for index in db.leases.indexes}
            assert c.execute(sa.select(db.meta.c.value)).scalar() == str(db.SCHEMA_VERSION)
            assert c.exec_driver_sql("PRAGMA auto_vacuum").scalar() == 2
            states = [record.state for record in queries.leases(c, None, 10)]
            assert sorted(states) == [LeaseState.ENDED, LeaseState.ENDED, LeaseState.SHOWN]
        database.close()


def test_no_question_about_leases_sorts_all_that_ever_lived(tmp_path: Path) -> None:
    database = opened(tmp_path)
    seen: list[tuple[str, object]] = []
    sa.event.listen(database._engine, "before_cursor_execute", lambda c, cur, s, p, ctx, m: seen.append((s, p)))
    with database.begin() as c:
        for ask in (
            lambda: queries.leases(c, None, 10_000),
            lambda: queries.leases(c, "desk-1", 100),
            lambda: queries.recent_leases(c, START, 100),
            lambda: queries.ended_leases(c, START, 100),
            lambda: queries.lease(c, "vm-1"),
            lambda: queries.story(c, "vm-1"),
        ):
            seen.clear()
            ask()
            ((text, values),) = seen
            steps = [row[3] for row in c.exec_driver_sql("EXPLAIN QUERY PLAN " + text, values)]
            assert all("USING" in step for step in steps if step.startswith(("SCAN", "SEARCH"))), steps
            assert "story" in text or not any("TEMP B-TREE" in step for step in steps), (text, steps)
    database.close()


def test_no_more_than_so_many_leases_are_told_at_once(tmp_path: Path) -> None:
    database = opened(tmp_path)
    fill(database, ended=queries.MOST_LEASES + 5)
    with database.begin() as c:
        told = [record.lease.vm_id for record in queries.leases(c, None, 10_000)]
    assert told == [f"vm-{number}" for number in range(queries.MOST_LEASES + 5, 5, -1)]
    database.close()


def test_upkeep_and_the_certificates_renewal_outlive_a_fault_that_nobody_thought_of(tmp_path: Path) -> None:
    looked: list[str] = []

    class NoNewCertificate(service._Server):
        def reload(self, state: Path) -> None:
            looked.append("certificate")
            raise OSError(28, "No space left on device")

    class NoInventories:
        async def write(self, recorder: object) -> None:
            looked.append("database")
            raise OSError(5, "Input/output error")

    async def play() -> None:
        stopping = asyncio.Event()
        async with office(tmp_path) as here:
            here.part.inventories = NoInventories()  # type: ignore[assignment]
            server = NoNewCertificate(uvicorn.Config("none"), here.part, BoundedConnection, ConnectionBounds())
            upkeep = keep_small(here.part, stopping, every_seconds=0.01)
            going = asyncio.gather(upkeep, service._renew(server, here.part, stopping, every_seconds=0.01))
            async with asyncio.timeout(5):
                while min(looked.count("certificate"), looked.count("database")) < 3:
                    await asyncio.sleep(0.01)
            stopping.set()
            await going

    asyncio.run(play())
