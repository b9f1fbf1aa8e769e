"""From a request's headers to who makes it. Answers to bad credentials are alike, whatever is wrong with them."""

import hashlib
import hmac
import ipaddress
import re
from collections import OrderedDict
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import structlog
from fastapi import Request

from gatepass.core.gateway import Gateway
from gatepass.core.keys import key_hash, key_id
from gatepass.core.ports import Clock
from gatepass.core.types.binding import AUDIENCE, ApiKeyBinding
from gatepass.core.types.common import Key
from gatepass.core.types.session import Requester
from gatepass.engine.store import Store
from gatepass.rest.address import Address, Network
from gatepass.rest.errors import ApiError, invalid
from gatepass.rest.jwks import Issuers
from gatepass.rest.oidc import IssuerDownError, Unverified, Verifier, matches, peek
from gatepass.rest.principal import KeyHolder, Person, Principal

log = structlog.get_logger(__name__)

NAMESPACE_HEADER: Final = "X-Gatepass-Namespace"
_SERVICE_ACCOUNT: Final = "system:serviceaccount:"
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_REMEMBERED: Final = 1024
_REMEMBERED_SECONDS: Final = 30.0

_NOBODY: Final = ApiKeyBinding.model_validate(
    {
        "metadata": {
            "name": "nobody",
            "namespace": "nowhere",
            "uid": "",
            "resourceVersion": "0",
            "creationTimestamp": "1970-01-01T00:00:00Z",
        },
        "spec": {"keyHash": "0" * 64, "scopes": ["sessions:read"]},
    }
)
"""What a key of no binding is compared with."""


def credential_of(key: str) -> str:
    """What may be told of a key."""
    return f"key {key_id(key) or 'of another make'}"


def _denied() -> ApiError:
    return ApiError(
        HTTPStatus.UNAUTHORIZED,
        "Authentication required: a valid X-API-Key, or Authorization: Bearer with a token of Kubernetes or of your CI",
        headers={"WWW-Authenticate": 'Bearer realm="gatepass"'},
    )


def says_twice(request: Request) -> bool:
    """Is a header with credentials there twice? Which is meant, a proxy in between may have seen otherwise."""
    return any(len(request.headers.getlist(name)) > 1 for name in ("x-api-key", "authorization"))


class Authenticator:
    """Keys are looked up in the watched bindings; tokens are asked about, and remembered for half a minute."""

    def __init__(self, store: Store, gateway: Gateway, clock: Clock, issuers: Issuers) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._oidc = Verifier(issuers, clock)
        self._known: OrderedDict[str, tuple[float, Requester]] = OrderedDict()

    async def principal(self, request: Request, address: Address | None) -> Principal:
        """Who it is; raises ApiError 401."""
        if says_twice(request):
            raise _denied()
        key = request.headers.get("x-api-key")
        if key is not None:
            return self._holder(key, address)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise _denied()
        said = peek(token.strip())
        if said is not None and said.audience.startswith(AUDIENCE) and self._oidc.takes(said.issuer):
            return await self._pipeline(token.strip(), said, address)
        return await self._person(token.strip(), request.headers.get(NAMESPACE_HEADER))

    def _holder(self, key: str, address: Address | None) -> KeyHolder:
        shown = key_hash(key)
        now = self._clock.now()
        found = self._store.bound_to(shown)
        # The same is done whatever is wrong, so that the time that it takes tells nothing either.
        judged = found or _NOBODY
        live = [hmac.compare_digest(each, shown) for each in judged.live_hashes(now) or _NOBODY.hashes]
        near = _from(judged, address)
        if found is None or not any(live) or not near:
            log.info("key refused", key=key_id(key), address=str(address))
            raise _denied()
        return KeyHolder(found, credential_of(key))

    async def _pipeline(self, token: str, said: Unverified, address: Address | None) -> KeyHolder:
        """The binding that the token was made for, which it has to match; looked for once the issuer has vouched."""
        try:
            claims = await self._oidc.verified(token, said)
        except IssuerDownError:
            raise ApiError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the keys of {said.issuer} cannot be read: try again",
                headers={"Retry-After": "30"},
            ) from None
        namespace, _, name = said.audience.removeprefix(AUDIENCE).partition("/")
        binding = self._store.bindings.get(Key(namespace, name))
        if (
            claims is None
            or binding is None
            or not binding.works(self._clock.now())
            or not _from(binding, address)
            or not matches(claims, said, binding)
        ):
            raise _denied()
        return KeyHolder(binding, f"token of {said.issuer}")

    async def _person(self, token: str, namespace: str | None) -> Person:
        requester = await self._whose(token)
        if requester is None:
            raise _denied()
        if namespace is None and requester.username.startswith(_SERVICE_ACCOUNT):
            namespace = requester.username.removeprefix(_SERVICE_ACCOUNT).partition(":")[0]
        if not namespace:
            raise invalid(NAMESPACE_HEADER, "say which namespace is meant: the token belongs to no service account")
        if not _NAMESPACE.fullmatch(namespace):
            raise invalid(NAMESPACE_HEADER, "must be the name of a namespace")
        return Person(requester, token, namespace)

    async def _whose(self, token: str) -> Requester | None:
        """Only the digest of a token is remembered, and only of one that was good."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        now = self._clock.monotonic()
        asked, requester = self._known.get(digest, (float("-inf"), None))
        if requester is not None and now < asked + _REMEMBERED_SECONDS:
            return requester
        requester = await self._gateway.who(token)
        if requester is not None:
            self._known[digest] = now, requester
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return requester


def _from(binding: ApiKeyBinding, address: Address | None) -> bool:
    """Is the key used from where it may be?"""
    if not binding.spec.allowed_cidrs:
        return True
    networks = map(_network, binding.spec.allowed_cidrs)
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


@lru_cache(maxsize=4096)
def _network(cidr: str) -> Network:
    return ipaddress.ip_network(cidr)
