"""Enrolment, and the database under it."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from deskgrid.coordinator.db import database as db
from deskgrid.coordinator.db import queries
from deskgrid.coordinator.db.database import DatabaseError, open_database
from deskgrid.coordinator.problems import RequestRefused
from deskgrid.coordinator.state import membership
from deskgrid.coordinator.state.credentials import Guard, digest, proves, token_parts
from deskgrid.wire.messages import Enrol

from .values import START

LATER = START + timedelta(hours=2)


@pytest.fixture
def database(tmp_path: Path):
    opened = open_database(f"sqlite:///{tmp_path / 'it.sqlite'}")
    yield opened
    opened.close()


def token(database: db.Database, uses: int = 1, when=START) -> str:
    with database.begin() as connection:
        return membership.make_token(connection, 3600, uses, "operator", when)[0]


def enrol(database: db.Database, text: str, name: str = "desk-1", when=START):
    with database.begin() as connection:
        return membership.enrol(connection, Enrol(text, name), when)


def refused(database: db.Database, text: str, name: str = "desk-1", when=START) -> str:
    with pytest.raises(RequestRefused) as refusal:
        enrol(database, text, name, when)
    return refusal.value.code


def test_an_expired_token_enrols_nobody(database: db.Database) -> None:
    assert refused(database, token(database), when=LATER) == "token-expired"


def test_a_used_up_token_enrols_nobody(database: db.Database) -> None:
    text = token(database)
    enrol(database, text)
    assert refused(database, text, "desk-2") == "token-used-up"


@pytest.mark.parametrize("text", ["", "x", "dgt__", "dgt_a_b_c", "dgt_nobody_abc", "dgo_a_b", "dgt_\x00_x"])
def test_an_unknown_token_enrols_nobody(database: db.Database, text: str) -> None:
    assert refused(database, text) == "token-unknown"


def test_a_token_with_a_wrong_secret_is_refused_as_if_unknown(database: db.Database) -> None:
    text = token(database)
    assert refused(database, text[:-1] + ("0" if text[-1] != "0" else "1")) == "token-unknown"


def test_a_name_in_use_is_taken(database: db.Database) -> None:
    _, member = enrol(database, token(database))
    with database.begin() as connection:
        membership.first_use(connection, member)
    assert refused(database, token(database)) == "name-taken"


def test_a_used_up_token_answers_the_same_desktop_a_few_times_and_notes_it_once(database: db.Database) -> None:
    text = token(database)
    for _ in range(1 + membership.REPEATS):
        enrol(database, text)
    assert refused(database, text) == "token-used-up"
    with database.begin() as connection:
        notes = [row.what for row in connection.execute(sa.select(db.audit).order_by(db.audit.c.id))]
    assert [note.split()[0] for note in notes] == ["made", "enrolled"]


def test_a_revoked_token_enrols_nobody_and_nobody_again(database: db.Database) -> None:
    text = token(database, uses=5)
    enrol(database, text)
    token_id, _ = token_parts(text) or ("", "")
    with database.begin() as connection:
        over = membership.revoke_token(connection, token_id, "leaked", "operator", START)
        assert over is not None and over.expires_at == START
        assert membership.revoke_token(connection, token_id, "leaked", "operator", START) is None
        assert membership.revoke_token(connection, "nobody", "leaked", "operator", START) is None
    assert (refused(database, text), refused(database, text, "desk-2")) == ("token-expired", "token-expired")


def test_a_lost_answer_lets_the_same_desktop_ask_again_without_another_use(database: db.Database) -> None:
    text = token(database, uses=1)
    first, _ = enrol(database, text)
    second, member = enrol(database, text)
    assert first.credential != second.credential
    assert proves(second.credential, member.credential_hash)
    with database.begin() as connection:
        membership.first_use(connection, member)
    assert refused(database, text) == "name-taken"


def test_a_lost_answer_does_not_help_after_the_token_expired(database: db.Database) -> None:
    text = token(database)
    enrol(database, text)
    assert refused(database, text, when=LATER) == "token-expired"


def test_another_token_does_not_take_over_a_desktop_that_has_not_reported_yet(database: db.Database) -> None:
    enrol(database, token(database))
    assert refused(database, token(database)) == "name-taken"


def test_uses_are_counted_right_when_many_enrol_at_once(database: db.Database) -> None:
    text = token(database, uses=5)

    def one(number: int) -> bool:
        try:
            enrol(database, text, f"desk-{number}")
        except RequestRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(one, range(20))) == 5


def test_only_hashes_are_kept_and_everything_is_noted(database: db.Database, tmp_path: Path) -> None:
    text = token(database)
    enrolled, member = enrol(database, text)
    with database.begin() as connection:
        membership.revoke(connection, member.name, "sold", "operator", START)
        notes = [row.what for row in connection.execute(sa.select(db.audit).order_by(db.audit.c.id))]
    assert [note.split()[0] for note in notes] == ["made", "enrolled", "revoked"]
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert text.rsplit("_", 1)[1].encode() not in kept
    assert enrolled.credential.encode() not in kept
    assert digest(enrolled.credential).encode() in kept


def test_tokens_are_read_strictly() -> None:
    assert token_parts("dgt_abc_def") == ("abc", "def")
    assert token_parts("dgt_a-b_def") is None


def test_refusals_from_one_address_are_bounded_and_forgiven_with_time() -> None:
    guard = Guard(burst=3, refill_seconds=10)
    assert [guard.refused("10.0.0.1", 0.0) for _ in range(5)] == [False, False, False, True, True]
    assert not guard.refused("10.0.0.2", 5.0)
    assert not guard.refused("10.0.0.1", 11.0)
    assert guard.refused("10.0.0.1", 11.0)


def test_a_first_use_that_comes_after_a_revocation_does_not_undo_it(database: db.Database) -> None:
    _, member = enrol(database, token(database))
    with database.begin() as connection:
        gone = membership.revoke(connection, "desk-1", "sold", "operator", START)
        assert gone is not None and gone.revoked_reason == "sold"
        used = membership.first_use(connection, member)  # as it was read before
        assert used is not None and used.revoked_at == START
        assert membership.revoke(connection, "desk-1", "again", "operator", LATER) is None
        assert queries.member(connection, "desk-1") == used


def test_a_first_use_of_an_earlier_credential_says_nothing_of_the_new_one(database: db.Database) -> None:
    text = token(database)
    _, first = enrol(database, text)
    enrol(database, text)
    with database.begin() as connection:
        used = membership.first_use(connection, first)
    assert used is not None and not used.used


def test_a_database_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'it.sqlite'}"
    opened = open_database(url)
    with opened.begin() as connection:
        connection.execute(db.meta.update().values(value="99"))
    opened.close()
    with pytest.raises(DatabaseError, match="got schema version 99, expected 3"):
        open_database(url)


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////proc/nowhere/it.sqlite", "nosuch://u:hunter2@h/d"])
def test_a_database_that_cannot_be_opened_is_said_without_its_password(url: str) -> None:
    with pytest.raises(DatabaseError) as bad:
        open_database(url)
    assert "hunter2" not in str(bad.value)


def test_a_database_that_is_no_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "it.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(DatabaseError, match="not a database"):
        open_database(f"sqlite:///{tmp_path / 'it.sqlite'}")


def test_naive_times_never_reach_the_database(database: db.Database) -> None:
    with pytest.raises(sa.exc.StatementError, match="naive"), database.begin() as connection:
        queries.note(connection, "x", "y", START.replace(tzinfo=None))


def test_every_table_can_be_made_in_postgresql() -> None:
    for table in db.metadata.sorted_tables:
        text = str(sa.schema.CreateTable(table).compile(dialect=postgresql.dialect()))
        assert "TIMESTAMP WITHOUT" not in text
