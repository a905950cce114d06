"""What must last: tables, and how they are opened. SQLite by default, PostgreSQL by URL; no SQL of one of them only.

Rules:
- Every change is a transaction; after kill -9 a change is there or is not there.
- No secret is stored: of credentials and tokens only a SHA-256 (they are random, 256 bits).
- Nothing is kept for ever: `retention.py` removes what is older than the settings say; SQLite's file shrinks with it.
- A database that an older deskgrid made is brought up to date when it is opened, step by step, in one transaction.
- Times are aware UTC. Soft state (last reports, presence) is not here.
- `Database` is used from one thread at a time; `recorder.py` owns that thread.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 3
_INCREMENTAL = 2
_PRAGMAS = ("auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000")

metadata = sa.MetaData()


class DatabaseError(Exception):
    """The database can't be opened or is of another version. The message says what to do."""


class Utc(sa.types.TypeDecorator[datetime]):
    """A time that is aware and UTC on this side, whatever the database keeps."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Refuse a naive time; store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"time for the database: got naive {value}, expected an aware one")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give back an aware time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("secret_hash", sa.String(64), nullable=False),
    sa.Column("made_at", Utc, nullable=False),
    sa.Column("made_by", sa.String(128), nullable=False),
    sa.Column("expires_at", Utc, nullable=False),
    sa.Column("uses_left", sa.Integer, nullable=False),
)

desktops = sa.Table(
    "desktops",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("credential_hash", sa.String(64), nullable=False),
    sa.Column("enrolled_at", Utc, nullable=False),
    sa.Column("token_id", sa.String(32), sa.ForeignKey("tokens.id"), nullable=False),
    sa.Column("used", sa.Boolean, nullable=False),
    sa.Column("revoked_at", Utc),
    sa.Column("revoked_reason", sa.Text),
)

image_names = sa.Table(
    "image_names",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("project", sa.String(64), nullable=False),
    sa.Column("since", Utc, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("vm_id", sa.String(64), primary_key=True),
    sa.Column("desktop", sa.String(64), sa.ForeignKey("desktops.name"), nullable=False),
    sa.Column("image", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("cpus", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("granted_at", Utc, nullable=False),
    sa.Column("until", Utc, nullable=False),
    sa.Column("reason_name", sa.String(64), nullable=False),
    sa.Column("reason_sentence", sa.Text, nullable=False),
    sa.Column("reason_reading", sa.Text, nullable=False),
    sa.Column("ordered_at", Utc),
    sa.Column("shown_at", Utc),
    sa.Column("joined_at", Utc),
    sa.Column("claimed", sa.Boolean, nullable=False),
    sa.Column("accelerator", sa.String(64), nullable=False),
    sa.Column("withdrawn_at", Utc),
    sa.Column("ended_at", Utc, index=True),
    sa.Column("end_name", sa.String(64), nullable=False),
    sa.Column("end_sentence", sa.Text, nullable=False),
    sa.Column("fault", sa.String(16), nullable=False),
    sa.Column("forgotten_at", Utc),
    sa.Index("leases_by_age", "granted_at", "vm_id"),
    sa.Index("leases_of_desktop_by_age", "desktop", "granted_at", "vm_id"),
)

story = sa.Table(
    "story",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("vm_id", sa.String(64), nullable=False, index=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("told_at", Utc, nullable=False),
    sa.Column("source", sa.String(64), nullable=False),
    sa.Column("state", sa.String(32), nullable=False),
    sa.Column("event", sa.String(64), nullable=False),
    sa.Column("sentence", sa.Text, nullable=False),
)

inventories = sa.Table(
    "inventories",
    metadata,
    sa.Column("desktop", sa.String(64), sa.ForeignKey("desktops.name"), primary_key=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", Utc, nullable=False),
    sa.Column("who", sa.String(128), nullable=False),
    sa.Column("what", sa.Text, nullable=False),
)


class Database:
    """An open database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One transaction: committed at the end, rolled back when something is raised."""
        with self._engine.begin() as connection:
            yield connection

    @property
    def is_sqlite(self) -> bool:
        """Whether room in its file is ours to give back."""
        return self._engine.dialect.name == "sqlite"

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open the database and make its tables if it is new.

    Raises:
        DatabaseError: when it can't be reached or was made by another version of deskgrid.
    """
    try:
        engine = sa.create_engine(url, **_options(url))
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        with engine.begin() as connection:
            _check_version(connection)
            metadata.create_all(connection)
        if engine.dialect.name == "sqlite":
            _let_it_shrink(engine)
    except sa.exc.SQLAlchemyError as error:
        where = _without_password(url)
        cause = getattr(error, "orig", None) or error
        raise DatabaseError(f"database {where}: can't be opened ({cause}); check its URL and permissions") from None
    return Database(engine)


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return "<unreadable URL>"


def _options(url: str) -> dict[str, Any]:
    if sa.make_url(url).get_backend_name() == "sqlite":
        return {"connect_args": {"check_same_thread": False, "timeout": 10}, "hide_parameters": True}
    return {"pool_pre_ping": True, "hide_parameters": True}


def _prepare_sqlite(engine: sa.Engine) -> None:
    """WAL, foreign keys, a busy timeout, and transactions that begin where we say (the driver would begin late)."""

    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _let_it_shrink(engine: sa.Engine) -> None:
    """A file made before auto_vacuum was set is written anew, once."""
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        if cursor.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
            cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
            cursor.execute("VACUUM")
        cursor.close()
    finally:
        raw.close()


def _check_version(connection: sa.Connection) -> None:
    """Bring an older database up to date. Raises: DatabaseError when a newer deskgrid made it."""
    meta.create(connection, checkfirst=True)
    found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
    if found is None:
        connection.execute(meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
        return
    if not found.isdigit() or not 1 <= int(found) <= SCHEMA_VERSION:
        raise DatabaseError(
            f"database: got schema version {found}, expected {SCHEMA_VERSION}; use the deskgrid that made it, "
            "or move the file away to begin anew"
        )
    for step in _STEPS[int(found) - 1 :]:
        step(connection)
    connection.execute(meta.update().where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION)))


def _indexes_by_age(connection: sa.Connection) -> None:
    """Version 2: the newest leases are found without sorting all."""
    for index in leases.indexes:
        index.create(connection, checkfirst=True)
    connection.exec_driver_sql("DROP INDEX IF EXISTS ix_leases_desktop")


def _ordered_at(connection: sa.Connection) -> None:
    """Version 3: whether a lease's desktop was told outlives a restart."""
    known = {column["name"] for column in sa.inspect(connection).get_columns("leases")}
    if known and "ordered_at" not in known:
        connection.exec_driver_sql("ALTER TABLE leases ADD COLUMN ordered_at TIMESTAMP")


_STEPS: tuple[Callable[[sa.Connection], None], ...] = (_indexes_by_age, _ordered_at)
"""What brings version 1 to 2, 2 to 3, and so on."""
