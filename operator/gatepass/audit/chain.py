"""The chain: what is sealed, how it is encoded, and how it is proven. Pure; the database and files only carry it.

Each entry's seal is an HMAC over its number, the seal before it, the id of the key and every field. So an entry cannot
be changed, moved, left out, put in or exchanged by who has no key.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from hmac import compare_digest
from typing import Final

from gatepass.audit.keys import Key
from gatepass.core.audit import AuditEntry, format_moment

GENESIS: Final = "0" * 64
"""Stands for the seal before the first entry."""
_ENTRY: Final = "gatepass audit entry 1"
_CHECKPOINT: Final = "gatepass audit checkpoint 1"


class MalformedError(Exception):
    """A record is none that we ever write."""


def encode(*parts: str | int | None) -> bytes:
    """One and only one encoding of the parts: each with its type and its length before it.

    No two lists of parts share one, and none is the beginning of another with as many parts. Raises MalformedError.
    """
    encoded = bytearray()
    for part in parts:
        if part is None:
            encoded += b"n"
            continue
        if type(part) not in (str, int):
            raise MalformedError(f"holds a {type(part).__name__} where text belongs")
        try:
            raw = part.encode() if isinstance(part, str) else str(part).encode()
        except UnicodeEncodeError:
            raise MalformedError("holds text that is not UTF-8") from None
        encoded += (b"s" if isinstance(part, str) else b"i") + len(raw).to_bytes(8, "big") + raw
    return bytes(encoded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An entry in its place. Everything but `seal` is under the seal; `previous` is the seal of the entry before."""

    seq: int
    id: str
    at: str
    event: str
    outcome: str
    namespace: str
    actor: str | None
    on_behalf_of: str | None
    credential: str | None
    address: str | None
    request_id: str | None
    subject_kind: str | None
    subject_name: str | None
    subject_uid: str | None
    details: str
    key_id: str
    previous: str
    seal: str

    def told(self) -> Mapping[str, str]:
        """The details, of an entry that has been proven; raises MalformedError for one that has not, and is none."""
        try:
            found = json.loads(self.details)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise MalformedError("holds details that are none")
        return found


FIELDS: Final = tuple(field.name for field in fields(Sealed))
_UNDER_THE_SEAL: Final = FIELDS[:-1]


def seal_of(key: Key, values: Mapping[str, str | int | None]) -> str:
    """The seal that belongs on the fields of an entry; raises MalformedError."""
    return key.seal(encode(_ENTRY, *(values[name] for name in _UNDER_THE_SEAL)))


def sealed(entry: AuditEntry, seq: int, previous: str, key: Key) -> Sealed:
    """The entry, put at the end of a chain."""
    subject = entry.subject
    values: dict[str, str | int | None] = {
        "seq": seq,
        "id": entry.id,
        "at": format_moment(entry.at),
        "event": str(entry.event),
        "outcome": str(entry.outcome),
        "namespace": entry.namespace,
        "actor": entry.actor,
        "on_behalf_of": entry.on_behalf_of,
        "credential": entry.credential,
        "address": entry.address,
        "request_id": entry.request_id,
        "subject_kind": subject.kind if subject else None,
        "subject_name": subject.name if subject else None,
        "subject_uid": subject.uid if subject else None,
        "details": json.dumps(dict(entry.details), sort_keys=True),
        "key_id": key.id,
        "previous": previous,
    }
    return Sealed(**values, seal=seal_of(key, values))  # type: ignore[arg-type] # of the types written just above


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A signed statement that the entries `first` to `last` are there, and between which seals they stand.

    Kept elsewhere, it tells whether the end of a chain has been cut off. `last` is `first - 1` when there are none.
    """

    first: int
    previous: str
    last: int
    seal: str
    at: str
    key_id: str
    signature: str

    def genuine(self, key: Key) -> bool:
        """Did this key sign it?"""
        try:
            signed = _signature(key, self.first, self.previous, self.last, self.seal, self.at)
            return compare_digest(self.signature, signed)
        except (MalformedError, TypeError):
            return False


def checkpoint(key: Key, first: int, previous: str, last: int, seal: str, at: str) -> Checkpoint:
    """Sign for a stretch of the chain."""
    signature = _signature(key, first, previous, last, seal, at)
    return Checkpoint(first=first, previous=previous, last=last, seal=seal, at=at, key_id=key.id, signature=signature)


def _signature(key: Key, first: int, previous: str, last: int, seal: str, at: str) -> str:
    return key.seal(encode(_CHECKPOINT, first, previous, last, seal, at, key.id))
