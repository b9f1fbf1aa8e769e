"""API keys: `gp_live_`, an id, 256 random bits and a checksum, so that scanners find one that was leaked."""

import hashlib
import re
import zlib
from typing import Final

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 8
_SECRET_LENGTH: Final = 43  # 62 ** 43 > 2 ** 256
_CHECKSUM_LENGTH: Final = 6
_KEY: Final = re.compile(rf"gp_live_[0-9A-Za-z]{{{_ID_LENGTH + _SECRET_LENGTH + _CHECKSUM_LENGTH}}}")
_PREFIX: Final = "gp_live_"
_CLAIM_PREFIX: Final = "gp_claim_"

ENTROPY_BYTES: Final = 37
"""What a key is made from: 5 bytes for its id, 32 that are secret."""


CLAIM_ENTROPY_BYTES: Final = 32
"""What a claim's token is made from: all of it secret."""


def make_key(entropy: bytes) -> str:
    """A key from so many random bytes."""
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"a key is made from {ENTROPY_BYTES} bytes, got {len(entropy)}")
    body = _PREFIX + _digits(entropy[:5], _ID_LENGTH) + _digits(entropy[5:], _SECRET_LENGTH)
    return body + _checksum(body)


def make_claim_token(entropy: bytes) -> str:
    """A token that claims one session, from so many random bytes; it has no id, as its session is known."""
    if len(entropy) != CLAIM_ENTROPY_BYTES:
        raise ValueError(f"a token is made from {CLAIM_ENTROPY_BYTES} bytes, got {len(entropy)}")
    body = _CLAIM_PREFIX + _digits(entropy, _SECRET_LENGTH)
    return body + _checksum(body)


def key_id(text: str) -> str | None:
    """The public part of a key, for logs and people; None when it is no key of ours."""
    if not _KEY.fullmatch(text) or _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        return None
    return text[len(_PREFIX) : len(_PREFIX) + _ID_LENGTH]


def key_hash(text: str) -> str:
    """What is kept of a key: SHA-256, which is enough for 256 random bits."""
    return hashlib.sha256(text.encode()).hexdigest()


def _digits(data: bytes, length: int) -> str:
    number, out = int.from_bytes(data), ""
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        out = _DIGITS[digit] + out
    return out


def _checksum(body: str) -> str:
    return _digits(zlib.crc32(body.encode()).to_bytes(4), _CHECKSUM_LENGTH)
