"""The trail in a database: append, prune, prove, and ask."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import Row, delete, func, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from gatepass.audit.chain import FIELDS, GENESIS, Checkpoint, Sealed, checkpoint, sealed
from gatepass.audit.database import ENTRIES, appending, connect, migrate, reading
from gatepass.audit.keys import Key, KeyFileError, Keyring
from gatepass.audit.proof import BrokenError, Proof
from gatepass.core.audit import INSTALLATION, AuditEntry, EventType, clean, format_moment

log = structlog.get_logger(__name__)

_CHUNK: Final = 500
PRUNED_AT_ONCE: Final = 5_000
"""Entries that one call removes at most: nobody appends meanwhile."""
_COLUMNS: Final = [ENTRIES.c[name] for name in FIELDS]


class Head(NamedTuple):
    """The end of the chain."""

    seq: int
    seal: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some entries, the newest first, and how many there are of that kind."""

    entries: tuple[Sealed, ...]
    total: int


class Trail:
    """One chain in one database, whoever else appends to it.

    Methods raise SQLAlchemyError or OSError when the database does not serve, and KeyFileError when the file of keys
    cannot be used; neither holds a secret. No method retries.
    """

    def __init__(self, url: str, key_file: Path) -> None:
        """Raises DatabaseUrlError; neither connects nor reads the keys yet."""
        self._key_file = key_file
        self._keyring: Keyring | None = None
        self._engine = connect(url)
        self._mine: Head | None = None

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def migrate(self) -> None:
        """Bring the database to the form that this version knows."""
        await migrate(self._engine)

    # append

    async def append(self, entries: Iterable[AuditEntry], *, not_before: datetime | None = None) -> Head:
        """Put entries at the end, those that are there already excepted; answers with the end once it is durable.

        Entries from before `not_before` are left out: retention may have removed them.
        """
        async with appending(self._engine) as connection:
            head = await self._append(connection, entries, not_before)
        self._mine = head
        return head

    async def _append(
        self, connection: AsyncConnection, entries: Iterable[AuditEntry], not_before: datetime | None
    ) -> Head:
        key, head = await self._end(connection)
        fresh = {each.id: each for each in entries if not_before is None or each.at >= not_before}
        known = await connection.scalars(select(ENTRIES.c.id).where(ENTRIES.c.id.in_(fresh)))
        for id_ in known:
            del fresh[id_]
        lost = await self._truncation(connection, head)
        rows = []
        for entry in [*([lost] if lost else []), *fresh.values()]:
            row = sealed(entry, head.seq + 1, head.seal, key)
            rows.append(asdict(row))
            head = Head(row.seq, row.seal)
        if rows:
            await connection.execute(insert(ENTRIES), rows)
        return head

    async def _end(self, connection: AsyncConnection) -> tuple[Key, Head]:
        """The key to seal with, and where the chain ends."""
        ends = select(ENTRIES.c.seq, ENTRIES.c.seal, ENTRIES.c.key_id).order_by(ENTRIES.c.seq.desc()).limit(1)
        found = (await connection.execute(ends)).first()
        if found is None:
            return self.keys.current, Head(0, GENESIS)
        if self.keys.get(found.key_id) is None:
            self._keyring = None  # somebody else has a new key already
        if self.keys.get(found.key_id) is None:
            raise KeyFileError(f"the chain ends with the key {found.key_id}, which {self._key_file.name} does not have")
        return self.keys.current, Head(found.seq, found.seal)

    async def _truncation(self, connection: AsyncConnection, head: Head) -> AuditEntry | None:
        """The entry that says so, when what we wrote last is there no more."""
        if self._mine is None or self._mine == head:
            return None
        seal = await connection.scalar(select(ENTRIES.c.seal).where(ENTRIES.c.seq == self._mine.seq))
        first = await connection.scalar(select(func.min(ENTRIES.c.seq)))
        if seal == self._mine.seal or (first is not None and first > self._mine.seq):
            return None
        log.error("the audit trail was cut off or rewritten", written=self._mine.seq, found=head.seq)
        return AuditEntry(
            event=EventType.AUDIT_TRUNCATED,
            at=datetime.now(UTC),
            namespace=INSTALLATION,
            details={"seq": str(self._mine.seq), "seal": self._mine.seal, "found": str(head.seq)},
        )

    # retention

    async def prune(self, before: datetime, now: datetime) -> int:
        """Remove the oldest entries, up to the first from `before` or later, some at a time; answers how many.

        An entry that vouches for what is removed is put at the end in the same transaction. A beginning that is broken
        is no longer vouched for, and stays: raises BrokenError.
        """
        async with appending(self._engine) as connection:
            _, head = await self._end(connection)
            oldest = select(ENTRIES.c.seq, ENTRIES.c.at).order_by(ENTRIES.c.seq).limit(PRUNED_AT_ONCE)
            rows = (await connection.execute(oldest)).all()
            old = list(takewhile(lambda row: row.at < format_moment(before), rows))
            if not old:
                return 0
            first, through = old[0].seq, old[-1].seq
            voucher = AuditEntry(
                event=EventType.AUDIT_PRUNED,
                at=now,
                namespace=INSTALLATION,
                details={
                    "first": str(first),
                    "through": str(through),
                    "seal": await self._prove_beginning(connection, through),
                    "before": format_moment(before),
                },
            )
            head = await self._append(connection, [voucher], None)
            await connection.execute(delete(ENTRIES).where(ENTRIES.c.seq <= through))
        self._mine = head
        return len(old)

    async def _prove_beginning(self, connection: AsyncConnection, through: int) -> str:
        """The seal of the last entry that is to go, once all of them, and how they join the rest, are proven."""
        proof = Proof(self.keys)
        seal = GENESIS
        async for entry in _stream(connection):
            proof.take(entry)
            if entry.seq == through:
                seal = entry.seal
            if entry.seq > through:
                break
        return seal

    # prove

    async def prove(self, proof: Proof) -> None:
        """Let the proof take every entry, as they are at one moment; raises BrokenError."""
        async with reading(self._engine) as connection:
            taken = 0
            async for entry in _stream(connection):
                proof.take(entry)
                taken += 1
            there = await connection.scalar(select(func.count()).select_from(ENTRIES))
        if there != taken:
            raise BrokenError(1, f"the table holds {there} entries, of which {taken} are in the chain")

    async def export(self, after: int = 0) -> AsyncIterator[Sealed | Checkpoint]:
        """Every entry with a number above `after`, as they are at one moment, and a checkpoint that signs for them.

        Raises BrokenError when it cannot go on from entry `after`.
        """
        async with reading(self._engine) as connection:
            begin: Head | None = Head(0, GENESIS) if after == 0 else None
            end = begin
            async for entry in _stream(connection, after - 1 if after else None):
                if entry.seq == after:
                    begin = end = Head(entry.seq, entry.seal)
                    continue
                if end == Head(0, GENESIS) or (end is None and entry.seq == after + 1):
                    begin = Head(entry.seq - 1, entry.previous)  # what was before it, retention has removed
                if begin is None:
                    break
                end = Head(entry.seq, entry.seal)
                yield entry
        if begin is None or end is None:
            raise BrokenError(after, "it is not there: retention has removed it, or it has not been written yet")
        at = format_moment(datetime.now(UTC))
        yield checkpoint(self.keys.current, begin.seq + 1, begin.seal, end.seq, end.seal, at)

    async def checkpoint(self, now: datetime) -> Checkpoint:
        """A signed statement of where the chain begins and ends."""
        async with reading(self._engine) as connection:
            _, head = await self._end(connection)
            oldest = select(ENTRIES.c.seq, ENTRIES.c.previous).order_by(ENTRIES.c.seq).limit(1)
            first = (await connection.execute(oldest)).first()
        begin = Head(first.seq - 1, first.previous) if first is not None else Head(0, GENESIS)
        return checkpoint(self.keys.current, begin.seq + 1, begin.seal, head.seq, head.seal, format_moment(now))

    @property
    def keys(self) -> Keyring:
        """The keys that seal and prove the chain; raises KeyFileError."""
        if self._keyring is None:
            self._keyring = Keyring.read(self._key_file)
        return self._keyring

    # ask

    async def page(
        self,
        namespace: str,
        *,
        number: int = 0,
        size: int = 20,
        event: str | None = None,
        actor: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page:
        """Entries of one namespace and no other, the newest first; `number` counts pages from 0.

        `actor` is who acted, or for whom Gatepass acted. `since` is inclusive, `until` is not.
        """
        if namespace == INSTALLATION:
            raise ValueError("namespace must not be empty: what belongs to no namespace is for nobody's tenant")
        asked = [ENTRIES.c.namespace == namespace]
        if event is not None:
            asked.append(ENTRIES.c.event == event)
        if actor is not None:
            named = clean(actor)  # as it was kept: PostgreSQL fails at a NUL
            asked.append(or_(ENTRIES.c.actor == named, ENTRIES.c.on_behalf_of == named))
        if since is not None:
            asked.append(ENTRIES.c.at >= format_moment(since))
        if until is not None:
            asked.append(ENTRIES.c.at < format_moment(until))
        newest = select(*_COLUMNS).where(*asked).order_by(ENTRIES.c.at.desc(), ENTRIES.c.seq.desc())
        async with reading(self._engine) as connection:
            total = await connection.scalar(select(func.count()).select_from(ENTRIES).where(*asked))
            rows = (await connection.execute(newest.limit(size).offset(number * size))).all()
        return Page(tuple(map(_sealed, rows)), total or 0)


async def _stream(connection: AsyncConnection, after: int | None = None) -> AsyncIterator[Sealed]:
    """Every entry after one, in order; by its number and not by an offset, so that each piece costs the same."""
    while rows := await _chunk(connection, after):
        for row in rows:
            yield _sealed(row)
        after = rows[-1].seq


async def _chunk(connection: AsyncConnection, after: int | None) -> Sequence[Row[Any]]:
    query = select(*_COLUMNS).order_by(ENTRIES.c.seq).limit(_CHUNK)
    return (await connection.execute(query if after is None else query.where(ENTRIES.c.seq > after))).all()


def _sealed(row: Row[Any]) -> Sealed:
    return Sealed(**row._mapping)  # whatever the row really holds: that is for the proof to say
