"""The keys that seal the chain."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SHORTEST = 32


class KeyFileError(Exception):
    """The file of keys cannot be used; the message says why, and never holds a key."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key; its id is a hash of it, so that no key can pass for another."""

    id: str
    _secret: bytes

    @classmethod
    def of(cls, secret: str) -> Self:
        """The key that a line of the file holds."""
        raw = secret.encode()
        return cls(hashlib.sha256(b"gatepass audit key id\0" + raw).hexdigest()[:16], raw)

    def seal(self, message: bytes) -> str:
        """HMAC-SHA256, in hexadecimal."""
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()

    def __repr__(self) -> str:
        return f"Key({self.id})"


class Keyring:
    """All keys in the order of their use: the last one seals, the others are there to prove what they sealed."""

    def __init__(self, keys: Sequence[Key]) -> None:
        if not keys:
            raise KeyFileError("there is no key: one line for each, of 32 characters or more, the newest last")
        self._keys = {key.id: key for key in keys}
        if len(self._keys) != len(keys):
            raise KeyFileError("a key stands there twice")
        self._order = {id_: place for place, id_ in enumerate(self._keys)}
        self.current = keys[-1]

    @classmethod
    def read(cls, path: Path) -> Self:
        """The keys of a file, one in each line; raises KeyFileError."""
        try:
            lines = path.read_text().split("\n")
        except (OSError, UnicodeDecodeError) as error:
            # Not the error itself: that of a decoder quotes what it met.
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise KeyFileError(f"{path.name} cannot be read: {why}") from None
        secrets = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        for number, secret in secrets:
            if len(secret) < _SHORTEST:
                raise KeyFileError(f"line {number} has {len(secret)} characters, and {_SHORTEST} are the least")
        return cls([Key.of(secret) for _, secret in secrets])

    def get(self, id_: str) -> Key | None:
        """The key of this id, if it is here."""
        return self._keys.get(id_)

    def is_older(self, id_: str, than: str) -> bool:
        """Was one key in use before the other? Both are here."""
        return self._order[id_] < self._order[than]
