"""One suite for both databases: every test that takes `url` or `trail` runs on SQLite and on PostgreSQL."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from gatepass.audit.trail import Trail
from tests.audit.entries import KEY
from tests.audit.postgres import postgres


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/audit.db"
    server: str = request.getfixturevalue("server")
    name = f"audit_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(KEY + "\n")
    return path


@pytest.fixture
async def trail(url: str, key_file: Path) -> AsyncIterator[Trail]:
    """A trail whose table is there."""
    trail = Trail(url, key_file)
    await trail.migrate()
    yield trail
    await trail.close()
    await asyncio.sleep(0)
