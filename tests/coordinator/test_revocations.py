"""Restoring a backup of the coordinator undoes no revocation unseen."""

import asyncio
import shutil
import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest

from deskgrid.coordinator.db import database as db
from deskgrid.coordinator.db.database import open_database
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.settings import CoordinatorSettings, GuestSettings
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.revocations import FILE, Journal
from deskgrid.model.reason import Reason
from deskgrid.wire.messages import Enrol

from .running import problem, service
from .values import IMAGE, START, Clock, Office, member, office, ordered, started


def backup(state: Path, to: Path) -> None:
    """As an administrator makes one, beside the service that runs."""
    source, copy = sqlite3.connect(state / "coordinator.sqlite"), sqlite3.connect(to)
    source.backup(copy)
    source.close()
    copy.close()


def restore(state: Path, saved: Path) -> None:
    for path in state.glob("coordinator.sqlite*"):
        path.unlink()
    shutil.copy(saved, state / "coordinator.sqlite")


def test_a_revocation_that_a_restored_database_does_not_know_is_made_again_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state, saved = tmp_path / "state", tmp_path / "saved.sqlite"
    with service(state) as here:
        desk, other = here.enrol("desk-1"), here.enrol("desk-2")
        desk.say()
        backup(state, saved)
        here.operator.revoke("desk-1", "sold")
        assert here.operator.status().problems == ()
    restore(state, saved)
    with service(state) as here:
        desk.service = other.service = here
        assert problem(desk.post(b"{}")) == (403, "desktop-revoked")
        other.say()
        (told,) = here.operator.status().problems
        assert told.endswith("made again: desk-1")
        assert told in caplog.text
        assert here.operator.why_desktop("desk-1").reason.sentence == "desk-1 was revoked: sold"
    with service(state) as here:
        assert here.operator.status().problems == ()


def test_an_enrolment_token_that_a_restored_database_holds_good_is_revoked_again_and_said(tmp_path: Path) -> None:
    state, saved = tmp_path / "state", tmp_path / "saved.sqlite"
    with service(state) as here:
        token = here.operator.make_token(86_400, 5).token
        token_id = token.split("_")[1]
        backup(state, saved)
        assert here.operator.revoke_token(token_id).sentence.startswith("Enrolment token")
    restore(state, saved)
    with service(state) as here:
        (told,) = here.operator.status().problems
        assert told.endswith(f"made again: enrolment token {token_id}")
        body = msgspec.json.encode(Enrol(token, "desk-1"))
        assert problem(here.post("/v1/enrol", body)) == (403, "token-expired")
    with service(state) as here:
        assert here.operator.status().problems == ()


def test_a_desktop_that_was_enrolled_anew_since_stays_a_member(tmp_path: Path) -> None:
    with service(tmp_path) as here:
        here.enrol("desk-1").say()
        here.operator.revoke("desk-1", "stolen")
        desk = here.enrol("desk-1")
    with service(tmp_path) as here:
        desk.service = here
        desk.say()
        assert here.operator.status().problems == ()


def test_when_the_whole_folder_was_restored_desktops_say_how_many_are_missing(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            desk, liar = await member(here), await member(here, "desk-2")
            answer = await desk.say()
            assert answer.revocations == 0
            await desk.say(revocations=2)
            await liar.say()
            (told,) = here.part.journal.problems(here.part.fleet)
            assert told.startswith("2 revocations may have been undone") and "desk-1 heard of more" in told
            for name in ("desk-3", "desk-4"):
                await here.enrol(name)
                await here.part.recorder.call(
                    lambda c, name=name: here.part.journal.revoke(c, name, "again", "operator", here.clock())
                )
            assert here.part.journal.problems(here.part.fleet) == ()
            assert (await desk.say()).revocations == 2

    asyncio.run(play())


def test_revocations_of_before_there_was_a_journal_are_added(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'it.sqlite'}")
    with database.begin() as c:
        text, _ = membership.make_token(c, 3600, 1, "operator", START)
        membership.enrol(c, Enrol(text, "desk-1"), START)
        membership.revoke(c, "desk-1", "sold", "operator", START)
        for _ in range(2):
            journal = Journal(tmp_path / FILE)
            journal.compare(c, START)
            assert (len(journal), journal.again) == (1, ())
    database.close()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_a_torn_line_is_said_and_does_not_take_the_next_with_it(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b'{"desktop":"de')
    clock = Clock()

    async def play() -> None:
        async with office(tmp_path, clock) as here:
            await member(here)
            assert "1 line can't be read" in here.part.journal.problems(())[0]
            await here.part.recorder.call(lambda c: here.part.journal.revoke(c, "desk-1", "sold", "operator", clock()))

    asyncio.run(play())
    again = Journal(tmp_path / FILE)
    assert (len(again), [one.desktop for one in again.entries]) == (2, ["desk-1"])


def test_what_cannot_be_written_to_the_journal_is_not_revoked(tmp_path: Path) -> None:
    async def play() -> None:
        async with office(tmp_path) as here:
            await member(here)
            (tmp_path / FILE).mkdir()
            with pytest.raises(RequestRefused, match="Nothing was revoked"):
                await here.part.recorder.call(
                    lambda c: here.part.journal.revoke(c, "desk-1", "sold", "operator", here.clock())
                )
            kept = await here.part.recorder.call(lambda c: c.execute(db.desktops.select()).mappings().all())
            assert kept[0]["revoked_at"] is None

    asyncio.run(play())


def told_by(here: Office) -> list[tuple[str, bool]]:
    """From now on: which VMs the pool is told to forget, and whether their tokens die."""
    told, forget = [], here.pool.forget_vm

    def noted(vm_id: str, token_dies: bool = True) -> None:
        forget(vm_id, token_dies)
        told.append((vm_id, token_dies))

    here.pool.forget_vm = noted
    return told


async def revoke(here: Office, name: str) -> None:
    """As the operator's request does it."""
    part, now = here.part, here.clock()
    revoked = await part.recorder.call(lambda c: part.journal.revoke(c, name, "stolen", "operator", now))
    assert revoked is not None
    part.members[name] = revoked
    part.ledger.cut_off(name, Reason("desktop-revoked", "It was stolen."), now)
    part.invalidate_ended()


async def until(told: list[tuple[str, bool]], expected: tuple[str, bool]) -> None:
    async with asyncio.timeout(5):
        while expected not in told:
            await asyncio.sleep(0.01)


def test_a_token_dies_whose_vm_is_just_being_forgotten_when_its_desktop_is_revoked(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            told, gate, forget = told_by(here), threading.Event(), here.pool.forget_vm
            here.pool.forget_vm = lambda vm_id, token_dies=True: (gate.wait(5), forget(vm_id, token_dies))
            await desk.say(ended=(desk.ends(lease.vm_id),))
            await asyncio.sleep(0.05)
            await revoke(here, desk.name)
            gate.set()
            await until(told, (lease.vm_id, True))
            assert told == [(lease.vm_id, False), (lease.vm_id, True)]

    asyncio.run(play())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_token_dies_though_the_name_has_been_enrolled_anew_before_the_pool_was_back(
    tmp_path: Path, restarted: bool
) -> None:
    async def play() -> None:
        clock = Clock()
        async with started(tmp_path, clock=clock) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            told = told_by(here)
            here.pool.faults.unreachable = True
            await revoke(here, desk.name)
            clock.pass_by(1.0)
            await here.enrol(desk.name)
            if not restarted:
                here.pool.faults.unreachable = False
                await until(told, (lease.vm_id, True))
            assert restarted or not here.part.ledger.condemned
        if restarted:
            async with office(tmp_path, clock) as again:
                await until(told_by(again), (lease.vm_id, True))
                assert again.part.is_member(desk.name)

    asyncio.run(play())


def test_a_token_that_could_not_die_for_long_is_tried_again_by_the_next_cycle(tmp_path: Path) -> None:
    async def play() -> None:
        async with started(tmp_path) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            told = told_by(here)
            here.pool.faults.unreachable = True
            await revoke(here, desk.name)
            while lease.vm_id in here.part.ad_invalidation:
                await asyncio.sleep(0.01)
            here.pool.faults.unreachable = False
            await here.cycle()
            await until(told, (lease.vm_id, True))

    asyncio.run(play())


def test_who_is_revoked_again_at_the_start_loses_its_leases_and_tokens_at_once(tmp_path: Path) -> None:
    async def play() -> None:
        clock, saved = Clock(), tmp_path / "saved.sqlite"
        async with started(tmp_path, clock=clock) as (here, desk, lease):
            desk.shows(lease)
            await desk.say()
            await here.part.recorder.flush()
            backup(tmp_path, saved)
            await revoke(here, desk.name)
        restore(tmp_path, saved)
        async with office(tmp_path, clock) as here:
            told = told_by(here)
            assert here.part.journal.again == (desk.name,)
            assert here.part.ledger.all() == ()
            await until(told, (lease.vm_id, True))
            assert (await here.lease(lease.vm_id)).end.name == "desktop-revoked"

    asyncio.run(play())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_token_dies_for_as_long_as_it_could_live(tmp_path: Path, restarted: bool) -> None:
    def two_hours(chosen: CoordinatorSettings) -> CoordinatorSettings:
        return msgspec.structs.replace(chosen, guest=GuestSettings(token_seconds=7200))

    async def revoked(here: Office, name: str, vm_id: str) -> None:
        told = told_by(here)
        await revoke(here, name)
        await until(told, (vm_id, True))

    async def play() -> None:
        clock = Clock()
        async with office(tmp_path, clock, change=two_hours) as here:
            desk = await member(here)
            await here.offer()
            here.pool.submit(IMAGE.name)
            lease = await ordered(here, desk)
            desk.shows(lease)
            await desk.say()
            await desk.say(ended=(desk.ends(lease.vm_id),))
            for _ in range(4):
                await here.cycle(500.0)
            if not restarted:
                await revoked(here, desk.name, lease.vm_id)
        if restarted:
            async with office(tmp_path, clock, change=two_hours) as here:
                await revoked(here, desk.name, lease.vm_id)

    asyncio.run(play())
