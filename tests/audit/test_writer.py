"""The writer: nobody waits who does not ask to, nothing is lost in silence, and the database may come and go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gatepass.audit import reader as reader_module
from gatepass.audit import writer as writer_module
from gatepass.audit.database import appending, connect, reading
from gatepass.audit.export import parse_checkpoints
from gatepass.audit.proof import Proof, Verdict
from gatepass.audit.reader import Reader
from gatepass.audit.trail import Trail
from gatepass.audit.writer import Writer
from gatepass.core.ports import AuditError
from tests.audit.entries import NOON, an_entry, as_owner


@asynccontextmanager
async def at_work(writer: Writer) -> AsyncIterator[Writer]:
    """The writer from its start to its end in order."""
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await writer.close(10)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 what is waited for is in another process's database too
            await asyncio.sleep(0.01)


async def proven(url: str, key_file: Path) -> Verdict:
    trail = Trail(url, key_file)
    proof = Proof(trail.keys)
    await trail.prove(proof)
    await trail.close()
    return proof.verdict()


async def found(url: str, key_file: Path, namespace: str = "ci") -> list[str]:
    trail = Trail(url, key_file)
    page = await trail.page(namespace, size=1000)
    await trail.close()
    return sorted(entry.told()["number"] for entry in page.entries)


def rename(file: Path, name: Path) -> None:
    file.rename(name)


def now() -> datetime:
    return NOON


async def test_what_is_recorded_is_there_after_the_end(url: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        writer.record(an_entry(1), an_entry(2))
        await writer.written(an_entry(3))
    assert await found(url, key_file) == ["1", "2", "3"]
    verdict = await proven(url, key_file)
    assert (verdict.last, verdict.unended) == (5, 0)


async def test_written_means_durable(url: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        await writer.written(an_entry(1))
        assert await found(url, key_file) == ["1"]
        await writer.written()


async def test_a_writer_that_is_killed_shows(url: str, key_file: Path) -> None:
    writer = Writer(Trail(url, key_file), now, None)
    task = asyncio.create_task(writer.run())
    await writer.written(an_entry(1))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await writer._trail.close()
    assert (await proven(url, key_file)).unended == 1


@pytest.fixture
def away(tmp_path: Path) -> str:
    """A database that does not serve yet: its folder is not there."""
    return f"sqlite:///{tmp_path}/later/audit.db"


def serve(url: str) -> None:
    Path(url.removeprefix("sqlite:///")).parent.mkdir()


async def test_nobody_waits_for_a_database_that_does_not_serve(away: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(away, key_file), now, None)) as writer:
        writer.record(an_entry(1))
        with pytest.raises(AuditError):
            await writer.written(an_entry(2))
        writer.record(an_entry(3))
        serve(away)
        await until(lambda: not writer._failing)
        await writer.written(an_entry(4))
    # The 2nd was refused: whoever asked knows, and asks again.
    assert await found(away, key_file) == ["1", "3", "4"]


async def test_keys_that_are_not_there_yet_are_an_outage(url: str, key_file: Path) -> None:
    hidden = key_file.with_name("hidden")
    rename(key_file, hidden)
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        with pytest.raises(AuditError):
            await writer.written(an_entry(1))
        rename(hidden, key_file)
        await until(lambda: not writer._failing)
        await writer.written(an_entry(1))
    assert await found(url, key_file) == ["1"]


async def test_what_does_not_fit_is_counted_and_told(away: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(away, key_file), now, None, capacity=10)) as writer:
        with pytest.raises(AuditError):
            await writer.written(an_entry(0))
        for number in range(25):
            writer.record(an_entry(number))
        serve(away)
    verdict = await proven(away, key_file)
    assert len(await found(away, key_file)) == 9  # with the writer's own first entry there are 10
    (gap,) = verdict.gaps
    assert "16 entries from 2026-11-22T12:00:09+00:00 to 2026-11-22T12:00:24+00:00 were lost" in gap


async def test_the_end_gives_up_on_a_database_that_does_not_serve(away: str, key_file: Path) -> None:
    writer = Writer(Trail(away, key_file), now, None)
    writer.record(an_entry(1))
    async with asyncio.timeout(20):
        await writer.close(0.2)


async def test_a_full_line_keeps_its_order(url: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        writer.record(*(an_entry(number, at=NOON) for number in range(1500)))
    trail = Trail(url, key_file)
    page = await trail.page("ci", size=2000)
    assert [entry.told()["number"] for entry in page.entries] == [str(number) for number in reversed(range(1500))]
    await trail.close()


async def test_retention_and_checkpoints_come_by_themselves(
    url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(writer_module.log, "info", lambda _said, **more: told.append(more.get("checkpoint", "")))
    trail = Trail(url, key_file)
    await trail.migrate()
    await trail.append([an_entry(number) for number in range(5)])
    writer = Writer(Trail(url, key_file), lambda: NOON + timedelta(seconds=63), timedelta(minutes=1))
    writer._housekeeping_seconds = 0.05
    async with at_work(writer):
        await until(lambda: any(told))
        writer.record(an_entry(2, at=NOON), an_entry(90))
    assert await found(url, key_file) == ["3", "4", "90"]  # entries 0 to 2 are older than a minute
    proof = Proof(trail.keys, parse_checkpoints(told))
    await trail.prove(proof)
    assert proof.verdict().vouched
    await trail.close()


async def test_a_lock_that_somebody_keeps_is_an_outage(
    url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        await writer.written(an_entry(1))
        keeper = connect(url)
        async with appending(keeper):
            monkeypatch.setattr(writer_module, "_ATTEMPT_SECONDS", 0.5)
            with pytest.raises(AuditError):
                await writer.written(an_entry(2))
            writer.record(an_entry(3))
            monkeypatch.undo()
        await keeper.dispose()
        await until(lambda: not writer._failing)
        await writer.written(an_entry(4))
    assert await found(url, key_file) == ["1", "3", "4"]
    await proven(url, key_file)


async def test_connections_that_are_cut_are_made_anew(url: str, key_file: Path) -> None:
    async with at_work(Writer(Trail(url, key_file), now, None)) as writer:
        await writer.written(an_entry(1))
        cut(url)
        writer.record(an_entry(2))
        await until(lambda: not writer._line)
    assert await found(url, key_file) == ["1", "2"]


async def test_who_reads_leaves_connections_to_who_writes(
    url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a tenant asks for many pages of a long trail at once."""
    trail, read = Trail(url, key_file), asyncio.Event()

    async def long(*_: object, **__: object) -> None:
        async with reading(trail._engine) as connection:
            await connection.execute(text("SELECT 1"))
            await read.wait()

    async with at_work(Writer(trail, now, None)) as writer:
        await writer.written(an_entry(1))
        monkeypatch.setattr(trail, "page", long)
        reader = Reader(trail)
        asked: dict[str, Any] = {"event": None, "actor": None, "since": None, "until": None}
        reads = [asyncio.create_task(reader.page("ci", number=0, size=20, **asked)) for _ in range(20)]
        await asyncio.wait(reads, timeout=0.5)
        monkeypatch.setattr(writer_module, "_ATTEMPT_SECONDS", 5.0)
        await writer.written(an_entry(2))
        read.set()
        await asyncio.gather(*reads)


async def test_a_read_that_takes_too_long_is_an_error(
    url: str, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = Trail(url, key_file)

    async def endless(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(trail, "page", endless)
    monkeypatch.setattr(reader_module, "_READ_SECONDS", 0.1)
    with pytest.raises(AuditError):
        await Reader(trail).page("ci", number=0, size=20, event=None, actor=None, since=None, until=None)
    await trail.close()


def cut(url: str) -> None:
    """End every connection of others; those to a file cannot be cut."""
    if url.startswith("postgresql"):
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        engine = as_owner(url)
        with engine.begin() as connection:
            connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        engine.dispose()
