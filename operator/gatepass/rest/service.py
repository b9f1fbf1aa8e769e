"""/health, /detect-ip and /auth/me, and the paths that answer why they are not there."""

from http import HTTPStatus
from typing import Final

from fastapi import APIRouter

from gatepass.rest.context import CallerAddress, Who
from gatepass.rest.errors import ApiError, invalid
from gatepass.rest.models import DetectedIp, Health, WhoAmI
from gatepass.rest.principal import KeyHolder

router = APIRouter(tags=["service"])

_NOT_FOR_KEYS: Final = ("users", "roles", "credentials", "organization", "mfa", "static-ip-rules")
_METHODS: Final = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_LATER: Final = ("register", "login", "refresh")


@router.get("/health", response_model=Health)
async def health() -> Health:
    """Is it there?"""
    return Health()


@router.get("/detect-ip", response_model=DetectedIp)
async def detect_ip(seen_at: CallerAddress) -> DetectedIp:
    """The caller's address, as a session would open it."""
    if seen_at is None:
        raise invalid("address", "the caller's address is not known")
    return DetectedIp(ip=str(seen_at), version="IPv4" if seen_at.version == 4 else "IPv6")


@router.get("/auth/me", response_model=WhoAmI)
async def me(who: Who) -> WhoAmI:
    """Who the key or the token is."""
    requester = who.requester
    name = who.binding.metadata.name if isinstance(who, KeyHolder) else requester.username.rpartition(":")[2]
    scopes = tuple(scope.value for scope in who.scopes) if isinstance(who, KeyHolder) else ()
    return WhoAmI(id=requester.uid, name=name, email=requester.username, organization=who.namespace, scopes=scopes)


async def elsewhere(who: Who) -> None:
    """Parts of other services of this kind: closed to keys, and not here for people."""
    if isinstance(who, KeyHolder):
        raise ApiError(HTTPStatus.FORBIDDEN, "API keys cannot be used here", error="Insufficient permissions")
    raise ApiError(HTTPStatus.NOT_FOUND, "Not found")


for _area in _NOT_FOR_KEYS:
    for _path in (f"/{_area}", f"/{_area}/{{rest:path}}"):
        router.add_api_route(_path, elsewhere, methods=_METHODS, include_in_schema=False)


async def sign_in() -> None:
    """Gatepass has no accounts of its own."""
    raise ApiError(
        HTTPStatus.NOT_FOUND,
        "Gatepass has no accounts of its own: use Authorization: Bearer with a token of Kubernetes, such as "
        "kubectl create token NAME gives, or X-API-Key with the key of an ApiKeyBinding",
    )


for _step in _LATER:
    router.add_api_route(f"/auth/{_step}", sign_in, methods=["POST"], include_in_schema=False)
