"""Entries, keys and chains for tests."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, create_engine, make_url

from gatepass.audit.chain import GENESIS, Sealed, sealed
from gatepass.audit.keys import Key, Keyring
from gatepass.audit.proof import Proof, Verdict
from gatepass.core.audit import AuditEntry, EventType

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
KEY = "first-key-first-key-first-key-first-key"
NEXT_KEY = "second-key-second-key-second-key-second-key"


def an_entry(number: int = 1, **given: Any) -> AuditEntry:
    """Whatever happened `number` seconds after noon."""
    values: dict[str, Any] = {
        "event": EventType.SESSION_STARTED,
        "at": NOON + timedelta(seconds=number),
        "namespace": "ci",
        "details": {"number": str(number)},
        **given,
    }
    return AuditEntry(**values)


def a_chain(entries: Iterable[AuditEntry], key: Key | None = None) -> list[Sealed]:
    """The entries, sealed one after the other."""
    chain: list[Sealed] = []
    for number, entry in enumerate(entries, 1):
        chain.append(sealed(entry, number, chain[-1].seal if chain else GENESIS, key or Key.of(KEY)))
    return chain


def prove(chain: Iterable[Sealed], keys: Sequence[str] = (KEY,)) -> Verdict:
    """The verdict on a chain; raises BrokenError."""
    proof = Proof(Keyring([Key.of(key) for key in keys]))
    for entry in chain:
        proof.take(entry)
    return proof.verdict()


def as_owner(url: str) -> Engine:
    """The database as who owns it has it: with every right, and no key."""
    parsed = make_url(url)
    return create_engine(parsed if parsed.drivername == "sqlite" else parsed.set(drivername="postgresql+psycopg"))
