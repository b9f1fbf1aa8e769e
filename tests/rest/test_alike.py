"""Whatever is wrong with a key, the same is done about it: told by the interpreter's own hook, not by a clock."""

import asyncio
import ipaddress
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import FrameType
from typing import Any, Final

import pytest
from starlette.requests import Request

from gatepass.core.keys import ENTROPY_BYTES, key_hash, make_key
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import format_time
from gatepass.engine.store import Store
from gatepass.rest.authentication import Authenticator
from gatepass.rest.errors import ApiError
from gatepass.rest.jwks import Issuers
from tests.core.builders import a_binding

NOW: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HERE: Final = ipaddress.ip_address("198.51.100.7")
KEY: Final = make_key(bytes(range(ENTROPY_BYTES)))
LONG_AGO: Final = format_time(NOW - timedelta(hours=9))
# What costs anything: hashing, comparing, looking up, writing the log. A range of addresses is read once and kept.
COSTLY: Final = {
    "bound_to",
    "compare_digest",
    "key_hash",
    "key_id",
    "live_hashes",
    "msg",
    "openssl_sha256",
    "sha256",
}


class At:
    """A clock that stands."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def bound(*, deleting: bool = False, **spec: Any) -> ApiKeyBinding:
    if deleting:
        return a_binding("ci", metadata={"deletionTimestamp": LONG_AGO}, **spec)
    return a_binding("ci", **spec)


def request(key: str) -> Request:
    headers = [(b"x-api-key", key.encode())]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers, "client": ("198.51.100.7", 1)})


def done_about(key: str, *bindings: ApiKeyBinding) -> Counter[str]:
    """How often each costly thing was done, until the key was refused."""
    store = Store()
    for each in bindings:
        store.put_binding(each)
    authenticator = Authenticator(store, None, At(), Issuers())  # type: ignore[arg-type]  # nobody is asked about a key
    done: Counter[str] = Counter()

    def hear(frame: FrameType, event: str, called: Any) -> None:
        name = called.__name__ if event == "c_call" else frame.f_code.co_name if event == "call" else ""
        if name in COSTLY:
            done[name] += 1

    async def refused() -> None:
        shown = request(key)
        sys.setprofile(hear)
        try:
            await authenticator.principal(shown, HERE)
        except ApiError:
            return
        finally:
            sys.setprofile(None)
        pytest.fail("it was taken")

    asyncio.run(refused())
    return done


ISSUED: Final = {"id": "k", "hash": key_hash(KEY), "createdAt": LONG_AGO}
ENDED: Final = {**ISSUED, "expiresAt": format_time(NOW - timedelta(minutes=1))}
NEXT: Final = {"id": "l", "hash": "f" * 64, "createdAt": LONG_AGO}


@pytest.mark.parametrize(
    "bindings",
    [
        [bound(keyHash=key_hash(KEY), revoked=True)],
        [bound(keyHash=key_hash(KEY), expiresAt=format_time(NOW))],
        [bound(keyHash=key_hash(KEY), deleting=True)],
        [bound(keyHash=key_hash(KEY), allowedCIDRs=["192.0.2.0/24"])],
        [bound(keyHash="e" * 64)],
        [bound(secretName="s", status={"keys": [ENDED, NEXT]})],
        [bound(secretName="s", status={"keys": [ENDED]})],
    ],
    ids=["revoked", "expired", "deleted", "elsewhere", "another's", "rotated", "ended"],
)
def test_the_same_is_done(bindings: list[ApiKeyBinding]) -> None:
    unknown = done_about(KEY)
    assert unknown["compare_digest"] == unknown["key_id"] == unknown["key_hash"] == 1
    assert done_about(KEY, *bindings) == unknown
