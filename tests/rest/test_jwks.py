"""Where the keys of an issuer may be, and what is believed of where they are: real issuers, with and without TLS."""

import asyncio
import ipaddress
import socket
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from gatepass.rest import jwks
from gatepass.rest.jwks import LARGEST, Issuers, PublicOnly, is_public, published
from gatepass.rest.oidc import IssuerDownError, Verifier, peek
from gatepass.sandbox import certificates
from tests.rest.issuer import DISCOVERY, KEYS, Issuer

AUDIENCE: Final = "gatepass:ci/ci"


class Hands:
    """A clock that is set by hand; `now` is the time of day."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        from datetime import datetime

        return datetime.now(UTC)

    def monotonic(self) -> float:
        return self.at


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate of it for localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    certificates.write(folder)
    return folder


@pytest.fixture(params=["127.0.0.1", "localhost"])
def secure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Issuer]:
    issuer = Issuer(folder, request.param)
    yield issuer
    issuer.close()


@pytest.fixture
def plain() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.close()


def trusting(issuer: Issuer, folder: Path, *, private: bool = True) -> Issuers:
    return Issuers([issuer.url], [issuer.url] if private else [], folder / "ca.crt")


async def kids(issuer: Issuer, issuers: Issuers) -> list[str | None]:
    return [key.kid for key in await published(issuer.url, issuers)]


async def refused(issuer: Issuer, issuers: Issuers, why: str) -> None:
    with pytest.raises((OSError, ValueError), match=why):
        await published(issuer.url, issuers)


async def test_by_tls_of_an_authority_of_the_installation(secure: Issuer, folder: Path) -> None:
    assert await kids(secure, trusting(secure, folder)) == ["first"]


async def test_a_certificate_that_nobody_vouches_for(secure: Issuer) -> None:
    await refused(secure, Issuers([secure.url], [secure.url]), "CERTIFICATE_VERIFY_FAILED|certificate verify failed")
    assert not secure.asked


async def test_a_private_address_unless_the_installation_says_so(folder: Path) -> None:
    named = Issuer(folder, "localhost")
    try:
        await refused(named, trusting(named, folder, private=False), "no public address")
        assert not named.asked
        assert await kids(named, trusting(named, folder)) == ["first"]
    finally:
        named.close()


@pytest.mark.parametrize("url", ["https://10.0.0.1", "https://169.254.169.254", "https://[fd00::1]", "http://10.0.0.1"])
async def test_a_literal_address(plain: Issuer, url: str) -> None:
    """Nothing is asked there: a try would end otherwise."""
    for told in ({"jwks_uri": f"{url}/keys"}, {"issuer": url}):
        plain.says = told
        await refused(plain, Issuers([plain.url]), "publishes its keys at|says that it is")
    with pytest.raises(ValueError, match=r"is not (public|https)"):
        await published(url, Issuers([url]))


async def test_a_public_issuer_does_not_lead_into_the_network(secure: Issuer, folder: Path) -> None:
    secure.says = {"jwks_uri": "http://127.0.0.1:1/keys" if "localhost" in secure.url else "https://localhost:1/keys"}
    await refused(secure, trusting(secure, folder), "publishes its keys at")
    assert secure.asked == [DISCOVERY]


@pytest.mark.parametrize("path", [DISCOVERY, KEYS])
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(plain: Issuer, path: str, status: int) -> None:
    plain.answers[path] = (status, {"Location": f"{plain.url}/elsewhere"}, [])
    await refused(plain, Issuers([plain.url]), f"answers {status}")
    assert "/elsewhere" not in plain.asked


@pytest.mark.parametrize("path", [DISCOVERY, KEYS])
@pytest.mark.parametrize("squeezed", [False, True], ids=["plain", "squeezed"])
async def test_one_that_is_too_large(plain: Issuer, path: str, *, squeezed: bool) -> None:
    body = b'{"keys":[' + b" " * 64 * LARGEST
    headers = {"Content-Encoding": "deflate"} if squeezed else {}
    pieces = [zlib.compress(body)] if squeezed else [body[at : at + 65536] for at in range(0, len(body), 65536)]
    plain.answers[path] = (200, headers, pieces)
    await refused(plain, Issuers([plain.url]), "is larger than")


async def test_one_that_is_no_list_of_keys(plain: Issuer) -> None:
    for body in (b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": [1]}', b'{"keys": [{"kty": "no"}]}', b"\xff", b"null"):
        plain.answers[KEYS] = (200, {}, [body])
        verifier = Verifier(Issuers([plain.url]), Hands())
        said = peek(token := plain.token(aud=AUDIENCE))
        assert said is not None
        with pytest.raises(IssuerDownError):
            await verifier.verified(token, said)


async def test_one_that_is_slow(plain: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "SECONDS", 0.2)
    over = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"{"
        over.wait(60)

    plain.answers[KEYS] = (200, {}, pieces())
    with pytest.raises(TimeoutError):
        await published(plain.url, Issuers([plain.url]))
    over.set()


async def test_who_has_a_good_token_does_not_wait_for_a_slow_issuer(plain: Issuer) -> None:
    verifier = Verifier(Issuers([plain.url]), Hands())
    plain.add("other")
    good, strange = plain.token(aud=AUDIENCE), plain.token("other", aud=AUDIENCE)
    said, other = peek(good), peek(strange)
    assert said is not None
    assert other is not None
    assert await verifier.verified(good, said) is not None
    over, asked = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"{"
        asked.set()
        over.wait(60)

    plain.answers[KEYS] = (200, {}, pieces())
    waiting = asyncio.create_task(verifier.verified(strange, other))
    await asyncio.to_thread(asked.wait, 60)
    assert await verifier.verified(good, said) is not None
    assert not waiting.done()
    over.set()
    assert await waiting is None


async def test_the_keys_of_an_issuer_that_is_down_serve_for_a_day(plain: Issuer) -> None:
    clock = Hands()
    verifier = Verifier(Issuers([plain.url]), clock)
    token = plain.token(aud=AUDIENCE)
    said = peek(token)
    assert said is not None
    assert await verifier.verified(token, said) is not None
    plain.down = True
    for hours in (0.9, 1.1, 12, 23.9):
        clock.at = hours * 3600
        assert await verifier.verified(token, said) is not None
    clock.at = 24.1 * 3600
    with pytest.raises(IssuerDownError):
        await verifier.verified(token, said)
    plain.down = False
    clock.at += 31
    assert await verifier.verified(token, said) is not None


async def test_an_unknown_key_is_asked_for_once_in_a_while(plain: Issuer) -> None:
    clock = Hands()
    verifier = Verifier(Issuers([plain.url]), clock)
    plain.add("new")
    token = plain.token("new", aud=AUDIENCE)
    said = peek(token)
    assert said is not None
    for at, asked in ((0, 1), (1, 2), (2, 2), (30.9, 2), (31.1, 3)):
        clock.at = float(at)
        assert await verifier.verified(token, said) is None
        assert plain.asked.count(KEYS) == asked
    plain.published.append("new")
    clock.at = 62.0
    assert await verifier.verified(token, said) is not None
    # A key that is published no more is good for no longer than an hour.
    plain.published.remove("new")
    clock.at += 3601
    assert await verifier.verified(token, said) is None


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("64:ff9b::101:101", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.1.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("::", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:1.1.1.1", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:a00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, *, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


async def test_of_an_answer_that_mixes_only_what_is_public_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a name is made to lead somewhere else after it has been looked at: it is looked at where it is used."""
    mixed = ["10.0.0.1", "1.1.1.1", "127.0.0.1", "169.254.169.254"]

    def answer(host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in mixed]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert [each["host"] for each in await PublicOnly().resolve("mixed.example", 443)] == ["1.1.1.1"]
    mixed.remove("1.1.1.1")
    with pytest.raises(OSError, match="no public address"):
        await PublicOnly().resolve("mixed.example", 443)
