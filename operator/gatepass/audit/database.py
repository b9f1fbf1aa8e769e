"""The database: a SQLite file or PostgreSQL, its table, its lock and its migrations."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiosqlite
from alembic import command
from alembic.config import Config
from sqlalchemy import BigInteger, Column, Connection, Index, MetaData, String, Table, Text, event, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
}
_LOCK: Final = 0x6761746570617373
"""PostgreSQL's advisory lock: whoever holds it may append."""
_BUSY_SECONDS: Final = 5.0
_BUSY_PAUSE_SECONDS: Final = 0.05

METADATA: Final = MetaData()

ENTRIES: Final = Table(
    "gatepass_audit",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False, unique=True),
    Column("at", String(27), nullable=False),  # text, so that both databases keep exactly what was sealed
    Column("event", String(64), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("namespace", Text, nullable=False),
    Column("actor", Text),
    Column("on_behalf_of", Text),
    Column("credential", Text),
    Column("address", Text),
    Column("request_id", Text),
    Column("subject_kind", Text),
    Column("subject_name", Text),
    Column("subject_uid", Text),
    Column("details", Text, nullable=False),
    Column("key_id", String(16), nullable=False),
    Column("previous", String(64), nullable=False),
    Column("seal", String(64), nullable=False),
    Index("gatepass_audit_newest", "namespace", "at", "seq"),
)


class DatabaseUrlError(Exception):
    """The URL is none that can be served; the message does not hold it, as it may hold a password."""


def connect(url: str) -> AsyncEngine:
    """An engine for a `sqlite:` or `postgresql:` URL, as every tool spells them; raises DatabaseUrlError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise DatabaseUrlError("the database URL cannot be read") from None
    backend = parsed.drivername.split("+")[0]
    if backend not in _DRIVERS:
        raise DatabaseUrlError(f"the database URL must begin with sqlite or postgresql, got {backend!r}")
    parsed = parsed.set(drivername=_DRIVERS[backend])
    if backend != "sqlite":
        # One connection appends and few read; what stands idle may be gone when it is needed.
        return create_async_engine(parsed, pool_size=2, max_overflow=6, pool_pre_ping=True, hide_parameters=True)
    if not parsed.database or parsed.database == ":memory:":
        raise DatabaseUrlError("SQLite needs a file: the trail has to outlive the process")
    engine = create_async_engine(parsed, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine.sync_engine, "do_connect", _try_sqlite)
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _try_sqlite(_dialect: object, _record: object, where: tuple[str, ...], _options: object) -> None:
    """A file that cannot be opened fails here: the driver's own failure leaves a thread, which may outlive the loop."""
    sqlite3.connect(where[0]).close()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we begin transactions ourselves: the driver would do so too late for a lock
    connection.run_async(_write_ahead)
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged entry survives a power failure
    cursor.close()


async def _write_ahead(connection: aiosqlite.Connection) -> None:
    """Readers do not wait for who appends.

    SQLite's own timeout does not hold here: it refuses at once while another writes in a file that has no such log yet,
    as one does that starts in the same moment.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + _BUSY_SECONDS
    while True:
        try:
            async with connection.execute("PRAGMA journal_mode=WAL"):
                return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or clock() >= until:
                raise
            await asyncio.sleep(_BUSY_PAUSE_SECONDS)


def _begin_sqlite(connection: Connection) -> None:
    appending = connection.get_execution_options().get("gatepass_appending", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if appending else "BEGIN")


@asynccontextmanager
async def appending(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that nobody else appends in, in no process; committed at the end."""
    async with engine.connect() as connection:
        await connection.execution_options(gatepass_appending=True)
        async with connection.begin():
            if engine.dialect.name == "postgresql":
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that sees the trail as it is now, whatever is appended meanwhile."""
    async with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        async with connection.begin():
            yield connection


async def migrate(engine: AsyncEngine) -> None:
    """Bring the table to the form that this version knows; several processes may try at once."""
    async with appending(engine) as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", "gatepass.audit:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
