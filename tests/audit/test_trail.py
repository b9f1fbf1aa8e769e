"""The trail on SQLite and on PostgreSQL: one suite, both databases."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect, text

from gatepass.audit import trail as trail_module
from gatepass.audit.chain import Checkpoint
from gatepass.audit.database import METADATA, DatabaseUrlError, connect
from gatepass.audit.export import checkpoint_line, line, prove_lines
from gatepass.audit.keys import KeyFileError, Keyring
from gatepass.audit.proof import BrokenError, Proof, Verdict
from gatepass.audit.trail import Trail
from gatepass.core.audit import INSTALLATION, EventType
from tests.audit.entries import KEY, NEXT_KEY, NOON, an_entry, as_owner


async def proven(trail: Trail, *expected: Checkpoint) -> Verdict:
    proof = Proof(trail.keys, expected)
    await trail.prove(proof)
    return proof.verdict()


def change(url: str, *statements: str) -> None:
    """What the owner of the database does, who has no key."""
    engine = as_owner(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def write(file: Path, *keys: str) -> None:
    file.write_text("\n".join(keys))


@asynccontextmanager
async def another(url: str, key_file: Path) -> AsyncIterator[Trail]:
    """The trail as another process has it."""
    trail = Trail(url, key_file)
    yield trail
    await trail.close()


async def exported(trail: Trail, after: int = 0) -> list[str]:
    found = [each async for each in trail.export(after)]
    return [checkpoint_line(each) if isinstance(each, Checkpoint) else line(each) for each in found]


async def test_what_is_appended_is_one_chain(trail: Trail) -> None:
    assert await trail.append([an_entry(1), an_entry(2)]) == await trail.append([])
    head = await trail.append([an_entry(3)])
    verdict = await proven(trail)
    assert (verdict.first, verdict.last, verdict.seal) == (1, head.seq, head.seal) == (1, 3, head.seal)


async def test_an_entry_is_kept_once(trail: Trail) -> None:
    first, second = an_entry(1), an_entry(2)
    await trail.append([first, first])
    assert (await trail.append([first, second])).seq == 2
    assert (await proven(trail)).last == 2


async def test_text_comes_back_as_it_was(trail: Trail) -> None:
    hard = "nul \0, surrogate \ud800, emoji 🚪, quote ' \" \\ , line \u2028 \r\n, long " + "x" * 5000
    entry = an_entry(1, actor=hard, request_id="", details={hard: hard, "": ""}, address=None)
    await trail.append([entry])
    await proven(trail)
    (found,) = (await trail.page("ci")).entries
    assert (found.actor, found.request_id, found.address) == (entry.actor, "", None)
    assert found.told() == entry.details


async def test_the_migrations_make_the_table_that_is_used(trail: Trail, url: str) -> None:
    await trail.migrate()  # twice does no harm
    engine = as_owner(url)
    inspector = inspect(engine)
    (table,) = METADATA.sorted_tables
    found = {each["name"]: (str(each["type"]), each["nullable"]) for each in inspector.get_columns(table.name)}
    assert found == {each.name: (str(each.type), each.nullable) for each in table.columns}
    assert {each["name"] for each in inspector.get_indexes(table.name)} >= {each.name for each in table.indexes}
    assert inspector.get_unique_constraints(table.name)[0]["column_names"] == ["id"]
    engine.dispose()


async def test_who_starts_while_another_makes_the_file_waits_for_it(tmp_path: Path, key_file: Path) -> None:
    trail = Trail(f"sqlite:///{tmp_path}/audit.db", key_file)
    other = sqlite3.connect(tmp_path / "audit.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    migrating = asyncio.create_task(trail.migrate())
    assert await asyncio.wait({migrating}, timeout=0.5) == (set(), {migrating})
    other.close()
    await migrating
    await trail.close()


@pytest.mark.parametrize(
    ("tampering", "first_bad"),
    [
        ("UPDATE gatepass_audit SET actor = 'mallory' WHERE seq = 3", 3),
        ("UPDATE gatepass_audit SET actor = NULL WHERE seq = 3", 3),
        ("UPDATE gatepass_audit SET at = '2026-11-22T12:00:09.000000Z' WHERE seq = 3", 3),
        ("UPDATE gatepass_audit SET details = '{}' WHERE seq = 5", 5),
        ("DELETE FROM gatepass_audit WHERE seq = 3", 3),
        ("DELETE FROM gatepass_audit WHERE seq < 3", 2),
        ("UPDATE gatepass_audit SET seq = 9 WHERE seq = 5", 5),
        ("UPDATE gatepass_audit SET seq = -seq WHERE seq = 1", -1),
        (
            "INSERT INTO gatepass_audit SELECT 6, 'x', at, event, outcome, namespace, actor, on_behalf_of, credential, "
            "address, request_id, subject_kind, subject_name, subject_uid, details, key_id, seal, seal "
            "FROM gatepass_audit WHERE seq = 5",
            6,
        ),
    ],
)
async def test_what_the_owner_of_the_database_does_is_found(
    trail: Trail, url: str, tampering: str, first_bad: int
) -> None:
    await trail.append([an_entry(number, actor="alice") for number in range(5)])
    change(url, tampering)
    with pytest.raises(BrokenError) as broken:
        await proven(trail)
    assert broken.value.seq == first_bad


async def test_entries_that_changed_places_are_found(trail: Trail, url: str) -> None:
    await trail.append([an_entry(number) for number in range(5)])
    swaps = ("seq = 99 WHERE seq = 2", "seq = 2 WHERE seq = 4", "seq = 4 WHERE seq = 99")
    change(url, *(f"UPDATE gatepass_audit SET {swap}" for swap in swaps))
    with pytest.raises(BrokenError) as broken:
        await proven(trail)
    assert broken.value.seq == 2


@pytest.mark.parametrize("hidden", ["seq = 5", "seq IS NULL"])
async def test_a_row_that_stands_beside_the_chain_is_found(
    trail: Trail, url: str, monkeypatch: pytest.MonkeyPatch, hidden: str
) -> None:
    monkeypatch.setattr(trail_module, "_CHUNK", 5)
    await trail.append([an_entry(number) for number in range(8)])
    change(
        url,
        "ALTER TABLE gatepass_audit RENAME TO before",
        "CREATE TABLE gatepass_audit AS SELECT * FROM before",  # without its keys
        "INSERT INTO gatepass_audit SELECT * FROM before WHERE seq = 5",
        *(["UPDATE gatepass_audit SET seq = NULL WHERE seq = 5"] if "NULL" in hidden else []),
        *(["INSERT INTO gatepass_audit SELECT * FROM before WHERE seq = 5"] if "NULL" in hidden else []),
    )
    with pytest.raises(BrokenError):
        await proven(trail)


# the end


async def test_an_end_cut_off_while_the_writer_lives_is_told_in_the_chain(trail: Trail, url: str) -> None:
    await trail.append([an_entry(number) for number in range(5)])
    change(url, "DELETE FROM gatepass_audit WHERE seq > 3")
    await trail.append([an_entry(9)])
    with pytest.raises(BrokenError, match="entry 5: it was written, and the writer found another or none"):
        await proven(trail)


async def test_an_end_cut_off_between_two_processes_shows_by_a_checkpoint_only(
    trail: Trail, url: str, key_file: Path
) -> None:
    await trail.append([an_entry(number) for number in range(5)])
    kept = await trail.checkpoint(NOON)
    change(url, "DELETE FROM gatepass_audit WHERE seq > 3")
    async with another(url, key_file) as later:
        assert (await proven(later)).last == 3
        with pytest.raises(BrokenError, match="entry 4: it is missing"):
            await proven(later, kept)
        await later.append([an_entry(number) for number in range(5, 9)])
        with pytest.raises(BrokenError, match="entry 5: it is not the one"):
            await proven(later, kept)


async def test_others_who_append_are_no_break(trail: Trail, url: str, key_file: Path) -> None:
    async with another(url, key_file) as other:
        for number in range(0, 6, 2):
            await trail.append([an_entry(number)])
            await other.append([an_entry(number + 1)])
        assert (await proven(other)).last == 6


# keys


async def test_rotation_of_keys(trail: Trail, url: str, key_file: Path) -> None:
    await trail.append([an_entry(1)])
    old_file = key_file.with_name("old")
    write(old_file, KEY)
    write(key_file, KEY, NEXT_KEY)
    async with another(url, old_file) as behind, another(url, key_file) as rotated:
        await rotated.append([an_entry(2)])
        with pytest.raises(KeyFileError, match="which old does not have"):
            await behind.append([an_entry(3)])
        await trail.append([an_entry(3)])  # its file has the new key by now, and is read again
        assert len((await proven(rotated)).keys) == 2
    write(old_file, NEXT_KEY)
    async with another(url, old_file) as without:
        with pytest.raises(BrokenError, match=r"entry 1: it names the key .* which the file of keys does not have"):
            await proven(without)


async def test_the_key_is_nowhere_in_the_database(trail: Trail, url: str) -> None:
    await trail.append([an_entry(1)])
    engine = as_owner(url)
    with engine.connect() as connection:
        assert KEY not in str(connection.execute(text("SELECT * FROM gatepass_audit")).all())
    engine.dispose()


# retention


async def test_retention_keeps_the_proof(trail: Trail) -> None:
    await trail.append([an_entry(number) for number in range(10)])
    early = await trail.checkpoint(NOON)
    assert await trail.prune(NOON + timedelta(seconds=4), NOON) == 4
    verdict = await proven(trail, early)
    assert (verdict.first, verdict.last, verdict.vouched) == (5, 11, True)
    assert await trail.prune(NOON + timedelta(seconds=4), NOON) == 0
    assert await trail.prune(NOON + timedelta(days=1), NOON) == 7  # the voucher too, which gets another one
    verdict = await proven(trail)
    assert (verdict.first, verdict.last, verdict.vouched) == (12, 12, True)
    await trail.append([an_entry(99)])
    await proven(trail)


async def test_retention_takes_a_bounded_piece_at_a_time(trail: Trail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trail_module, "PRUNED_AT_ONCE", 3)
    await trail.append([an_entry(number) for number in range(8)])
    before = NOON + timedelta(seconds=5)
    assert [await trail.prune(before, NOON + timedelta(days=1)) for _ in range(3)] == [3, 2, 0]
    assert (await proven(trail)).first == 6


async def test_more_than_retention_removed_is_found(trail: Trail, url: str) -> None:
    await trail.append([an_entry(number) for number in range(10)])
    await trail.prune(NOON + timedelta(seconds=4), NOON)
    change(url, "DELETE FROM gatepass_audit WHERE seq = 5")
    with pytest.raises(BrokenError, match="entry 5: it is missing"):
        await proven(trail)


async def test_the_voucher_cannot_be_removed(trail: Trail, url: str) -> None:
    await trail.append([an_entry(number) for number in range(10)])
    await trail.prune(NOON + timedelta(seconds=4), NOON)
    change(url, "DELETE FROM gatepass_audit WHERE event = 'AUDIT_PRUNED'")
    with pytest.raises(BrokenError, match="entry 4: it is missing"):
        await proven(trail)


async def test_retention_does_not_vouch_for_what_is_broken(trail: Trail, url: str) -> None:
    await trail.append([an_entry(number) for number in range(10)])
    change(url, "UPDATE gatepass_audit SET actor = 'mallory' WHERE seq = 2")
    with pytest.raises(BrokenError, match="entry 2"):
        await trail.prune(NOON + timedelta(seconds=4), NOON)
    with pytest.raises(BrokenError, match="entry 2"):
        await proven(trail)


async def test_what_retention_has_removed_does_not_come_back(trail: Trail) -> None:
    old = an_entry(1)
    await trail.append([old])
    await trail.prune(NOON + timedelta(seconds=5), NOON + timedelta(days=1))
    head = await trail.append([old, an_entry(6)], not_before=NOON + timedelta(seconds=5))
    assert head.seq == 3


# files


async def test_an_export_is_proven_without_the_database(trail: Trail) -> None:
    await trail.append([an_entry(number) for number in range(1201)])  # more than is read at once
    lines = await exported(trail)
    proof = Proof(Keyring.read(trail._key_file))
    prove_lines(proof, lines)
    assert (proof.verdict().first, proof.verdict().last) == (1, 1201)
    proof = Proof(trail.keys)
    prove_lines(proof, await exported(trail, after=1201))
    assert proof.verdict().last == 1201


async def test_exports_that_follow_each_other_are_proven_as_one(trail: Trail) -> None:
    await trail.append([an_entry(number) for number in range(4)])
    first = await exported(trail)
    await trail.append([an_entry(number) for number in range(4, 9)])
    await trail.prune(NOON + timedelta(seconds=4), NOON)
    second = await exported(trail, after=4)  # entry 4 is gone, and what follows it is there
    proof = Proof(trail.keys)
    prove_lines(proof, [*first, *second])
    assert (proof.verdict().first, proof.verdict().last) == (1, 10)
    for after in (2, 99):
        with pytest.raises(BrokenError, match=f"entry {after}: it is not there"):
            await exported(trail, after)


async def test_an_export_of_a_pruned_chain_is_vouched_for(trail: Trail) -> None:
    await trail.append([an_entry(number) for number in range(6)])
    await trail.prune(NOON + timedelta(seconds=3), NOON)
    proof = Proof(trail.keys)
    prove_lines(proof, await exported(trail))
    assert proof.verdict().vouched
    assert proof.verdict().first == 4


async def test_an_export_of_nothing(trail: Trail) -> None:
    proof = Proof(trail.keys)
    prove_lines(proof, await exported(trail))
    assert (proof.verdict().first, proof.verdict().last) == (1, 0)


# questions


async def test_a_page_is_of_one_namespace(trail: Trail) -> None:
    entries = [an_entry(number, namespace=f"team-{number % 2}") for number in range(10)]
    await trail.append([*entries, an_entry(20, namespace=INSTALLATION, event=EventType.AUDIT_GAP, details={})])
    page = await trail.page("team-1", number=1, size=2)
    assert page.total == 5
    assert [entry.told()["number"] for entry in page.entries] == ["5", "3"]
    assert (await trail.page("team")).total == 0
    with pytest.raises(ValueError, match="namespace"):
        await trail.page(INSTALLATION)


async def test_filters(trail: Trail) -> None:
    await trail.append(
        [
            an_entry(1, actor="alice"),
            an_entry(2, event=EventType.SESSION_EXPIRED, on_behalf_of="alice"),
            an_entry(3, actor="bob"),
            an_entry(4, actor="alice", namespace="web"),
        ]
    )

    async def numbers(**asked: object) -> list[str]:
        page = await trail.page("ci", **asked)  # type: ignore[arg-type]
        assert page.total == len(page.entries)
        return [entry.told()["number"] for entry in page.entries]

    assert await numbers() == ["3", "2", "1"]
    assert await numbers(actor="alice") == ["2", "1"]
    assert await numbers(event="SESSION_EXPIRED") == ["2"]
    assert await numbers(since=NOON + timedelta(seconds=2)) == ["3", "2"]
    assert await numbers(until=NOON + timedelta(seconds=2)) == ["1"]
    assert await numbers(actor="' OR 1=1 --") == []
    assert await numbers(actor="a%") == []
    await trail.append([an_entry(5, actor="a\0b"), an_entry(6, actor="\ud800")])
    assert await numbers(actor="a\0b") == ["5"]  # kept as text that every database takes, and found by it
    assert await numbers(actor="\ud800") == ["6"]


async def test_a_reader_does_not_hold_up_who_appends(trail: Trail) -> None:
    await trail.append([an_entry(number) for number in range(3)])
    reading = trail.export()
    await anext(reading)
    await asyncio.wait_for(trail.append([an_entry(9)]), 20)
    rest = [each async for each in reading]
    assert len(rest) == 3  # two more entries as they were when it began, and the checkpoint
    assert isinstance(rest[-1], Checkpoint)
    assert rest[-1].last == 3


# the URL


@pytest.mark.parametrize(
    "url",
    ["mysql://u:hunter2@h/d", "hunter2", "", "sqlite://", "sqlite:///:memory:", "postgresql://u:hunter2@h:port/d"],
)
def test_a_url_that_cannot_be_served_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(DatabaseUrlError) as refused:
        connect(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg", "postgresql+psycopg2"])
def test_every_spelling_of_postgresql_is_taken(scheme: str) -> None:
    assert connect(f"{scheme}://u@h/d?sslmode=require").url.drivername == "postgresql+psycopg"
