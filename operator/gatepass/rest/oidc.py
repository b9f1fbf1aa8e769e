"""Tokens of CI providers: found by discovery, verified by the issuer's published keys, matched claim by claim."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.util import urlsafe_b64decode

from gatepass.core.ports import Clock
from gatepass.core.types.binding import OWNER_CLAIMS, ApiKeyBinding
from gatepass.rest.jwks import Issuers, published

log = structlog.get_logger(__name__)

# Only those with a key pair: with HMAC, the public key would sign as well as it verifies.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
LEEWAY_SECONDS: Final = 30
_FRESH_SECONDS: Final = 3600.0
_STALE_SECONDS: Final = 24 * 3600.0
_MISSED_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = {False: 1.0, True: 30.0}  # without any keys, and with some that are old


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

    def __init__(self, issuers: Issuers, clock: Clock) -> None:
        self._listed = issuers
        self._issuers = {issuer: _Issuer() for issuer in issuers.listed}
        self._clock = clock

    def takes(self, issuer: str) -> bool:
        """Is it on the list?"""
        return issuer in self._issuers

    async def verified(self, token: str, said: Unverified) -> Mapping[str, Any] | None:
        """The claims of a good token of the issuer that it names; None of a bad one. Raises IssuerDownError."""
        keys = await self._keys(said)
        if said.key_id not in {key.kid for key in keys}:
            return None
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
            log.info("token refused", issuer=said.issuer, audience=said.audience, why=type(error).__name__)
            return None
        return dict(found.claims)

    async def _keys(self, said: Unverified) -> KeySet:
        """The issuer's keys; read again when they are old, or do not have the token's, which is tried now and then."""
        issuer = self._issuers[said.issuer]
        if (fresh := self._fresh(issuer, said.key_id)) is not None:
            return fresh  # who has a good token does not wait until a slow issuer has answered about another's
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

    def _fresh(self, issuer: _Issuer, key_id: str) -> KeySet | None:
        keys = issuer.keys
        if keys is None or self._clock.monotonic() >= issuer.read_at + _FRESH_SECONDS:
            return None
        return keys if any(key.kid == key_id for key in keys) else None

    async def _read(self, issuer: _Issuer, url: str, now: float) -> None:
        try:
            issuer.keys, issuer.read_at = await published(url, self._listed), now
        except (aiohttp.ClientError, TimeoutError, OSError, JoseError, ValueError, KeyError, TypeError) as error:
            log.warning("cannot read the keys of an issuer", issuer=url, error=str(error))


def matches(claims: Mapping[str, Any], said: Unverified, binding: ApiKeyBinding) -> bool:
    """Are verified claims those that the binding wants?"""
    oidc = binding.spec.oidc
    if oidc is None or oidc.issuer != said.issuer:
        return False
    owner = OWNER_CLAIMS.get(oidc.issuer)
    if owner is not None and owner not in oidc.claims:
        return False  # admission has refused it; this is for a binding from before
    return all(_same(claims.get(name), value) for name, value in oidc.claims.items())


def _same(claim: object, value: str) -> bool:
    """Ids are numbers in some tokens and text in others; true is the text that GitLab writes, and JSON's own."""
    if isinstance(claim, bool):
        return value == str(claim).lower()
    return isinstance(claim, (str, int)) and str(claim) == value
