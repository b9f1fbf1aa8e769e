"""Tokens of CI providers: found by discovery, verified by the issuer's published keys, matched claim by claim."""

import asyncio
import ipaddress
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.util import urlsafe_b64decode

from gatepass.core.ports import Clock
from gatepass.core.types.binding import OWNER_CLAIMS, ApiKeyBinding

log = structlog.get_logger(__name__)

# Only those with a key pair: with HMAC, the public key would sign as well as it verifies.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
LEEWAY_SECONDS: Final = 30
_FRESH_SECONDS: Final = 3600.0
_STALE_SECONDS: Final = 24 * 3600.0
_MISSED_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = {False: 1.0, True: 30.0}  # without any keys, and with some that are old
_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_LARGEST: Final = 256 * 1024


class IssuerDownError(Exception):
    """The issuer does not give its keys, and none are known that are recent enough."""


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself, before anybody has verified it."""

    issuer: str
    audience: str
    key_id: str


def peek(token: str) -> Unverified | None:
    """Whose token it says it is; None when it is not one for exactly one audience, signed by a key with an id."""
    try:
        header, claims = (json.loads(urlsafe_b64decode(part.encode())) for part in token.split(".")[:2])
        issuer, audience, key_id = claims["iss"], claims["aud"], header["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if isinstance(audience, list) and len(audience) == 1:
        (audience,) = audience
    if not (isinstance(issuer, str) and isinstance(audience, str) and isinstance(key_id, str)):
        return None
    return Unverified(issuer, audience, key_id)


@dataclass(slots=True)
class _Issuer:
    """An issuer's keys; times are seconds of the monotonic clock."""

    keys: KeySet | None = None
    read_at: float = float("-inf")
    tried_at: float = float("-inf")
    missed_at: float = float("-inf")
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Verifier:
    """Takes the tokens of the issuers that the installation lists."""

    def __init__(self, issuers: Sequence[str], clock: Clock) -> None:
        self._issuers = {issuer: _Issuer() for issuer in issuers}
        self._clock = clock

    def takes(self, issuer: str) -> bool:
        """Is it on the list?"""
        return issuer in self._issuers

    async def accepts(self, token: str, said: Unverified, binding: ApiKeyBinding) -> bool:
        """Is it a good token for the binding? Raises IssuerDownError."""
        oidc = binding.spec.oidc
        if oidc is None or oidc.issuer != said.issuer or binding.audience != said.audience:
            return False
        owner = OWNER_CLAIMS.get(oidc.issuer)
        if owner is not None and owner not in oidc.claims:
            return False  # admission has refused it; this is for a binding from before
        keys = await self._keys(said)
        if said.key_id not in {key.kid for key in keys}:
            return False
        registry = jwt.JWTClaimsRegistry(
            now=int(self._clock.now().timestamp()),
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": said.issuer},
            aud={"essential": True, "value": said.audience},
            exp={"essential": True},
        )
        try:
            found = jwt.decode(token, keys, algorithms=ALGORITHMS)
            registry.validate(found.claims)
        except (JoseError, ValueError, TypeError) as error:
            log.info("token refused", issuer=said.issuer, binding=str(binding.key), why=type(error).__name__)
            return False
        return all(_same(found.claims.get(name), value) for name, value in oidc.claims.items())

    async def _keys(self, said: Unverified) -> KeySet:
        """The issuer's keys; read again when they are old, or do not have the token's, which is tried now and then."""
        issuer = self._issuers[said.issuer]
        async with issuer.lock:
            now = self._clock.monotonic()
            if issuer.keys is None or now >= issuer.read_at + _FRESH_SECONDS:
                if now >= issuer.tried_at + _AGAIN_SECONDS[issuer.keys is not None]:
                    issuer.tried_at = now
                    await self._read(issuer, said.issuer, now)
            elif all(key.kid != said.key_id for key in issuer.keys) and now >= issuer.missed_at + _MISSED_SECONDS:
                issuer.missed_at = now
                await self._read(issuer, said.issuer, now)
            if issuer.keys is None or now >= issuer.read_at + _STALE_SECONDS:
                raise IssuerDownError(said.issuer)
            return issuer.keys

    async def _read(self, issuer: _Issuer, url: str, now: float) -> None:
        try:
            issuer.keys, issuer.read_at = await _published(url), now
        except (aiohttp.ClientError, TimeoutError, OSError, JoseError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot read the keys of an issuer", issuer=url, error=str(error))


def _same(claim: object, value: str) -> bool:
    """Ids are numbers in some tokens and text in others; true is the text that GitLab writes, and JSON's own."""
    if isinstance(claim, bool):
        return value == str(claim).lower()
    return isinstance(claim, (str, int)) and str(claim) == value


async def _published(issuer: str) -> KeySet:
    # An issuer on loopback is one of a sandbox, and its keys are there too.
    resolver = None if _loopback(issuer) else _PublicOnly()
    connector = aiohttp.TCPConnector(resolver=resolver, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as http:
        document = await _json(http, f"{issuer}/.well-known/openid-configuration")
        if document["issuer"] != issuer:
            raise ValueError(f"says that it is {document['issuer']!r}")
        where = str(document["jwks_uri"])
        if _loopback(where) != _loopback(issuer):
            raise ValueError(f"publishes its keys at {where!r}")
        return KeySet.import_key_set(await _json(http, where))


async def _json(http: aiohttp.ClientSession, url: str) -> Any:
    address = _literal(url)
    if not _loopback(url) and (not url.startswith("https://") or (address is not None and not address.is_global)):
        raise ValueError(f"{url} is not a public https URL")
    async with http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answers {answer.status}")
        data = await answer.content.read(_LARGEST + 1)
        while len(data) <= _LARGEST and (more := await answer.content.read(_LARGEST + 1 - len(data))):
            data += more
    if len(data) > _LARGEST:
        raise ValueError(f"{url} is larger than {_LARGEST} bytes")
    return json.loads(data)


def _loopback(url: str) -> bool:
    """Is it an address of this machine? A name that leads there is none."""
    address = _literal(url)
    return address is not None and address.is_loopback


def _literal(url: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a URL has instead of a name; no resolver is asked about it."""
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return None


class _PublicOnly(AbstractResolver):
    """Names that lead to private addresses lead nowhere: a listed issuer must not become a way into the network."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The public addresses of a name."""
        found = await self._resolver.resolve(host, port, family)
        public = [each for each in found if ipaddress.ip_address(each["host"]).is_global]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        """Nothing is open."""
