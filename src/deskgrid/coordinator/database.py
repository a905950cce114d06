"""What must last: tables, and how they are opened. SQLite by default, PostgreSQL by URL; no SQL of one of them only.

Rules, told first:
- Every change is a transaction; after kill -9 a change is there or is not there.
- No secret is stored: of credentials and tokens only a SHA-256 (they are random, 256 bits).
- Times are aware UTC. Soft state (last reports, presence) is not here.
- `Database` is used from one thread at a time; `recorder.py` owns that thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

SCHEMA_VERSION = 1

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
    sa.Column("desktop", sa.String(64), sa.ForeignKey("desktops.name"), nullable=False, index=True),
    sa.Column("image", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("cpus", sa.Integer, nullable=False),
    sa.Column("memory_bytes", sa.BigInteger, nullable=False),
    sa.Column("granted_at", Utc, nullable=False),
    sa.Column("until", Utc, nullable=False),
    sa.Column("reason_name", sa.String(64), nullable=False),
    sa.Column("reason_sentence", sa.Text, nullable=False),
    sa.Column("reason_reading", sa.Text, nullable=False),
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
            metadata.create_all(connection)
            _check_version(connection)
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
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _check_version(connection: sa.Connection) -> None:
    found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
    if found is None:
        connection.execute(meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
    elif found != str(SCHEMA_VERSION):
        raise DatabaseError(
            f"database: got schema version {found}, expected {SCHEMA_VERSION}; use the deskgrid that made it, "
            "or move the file away to begin anew"
        )
