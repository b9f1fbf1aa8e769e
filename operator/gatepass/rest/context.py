"""What the routes work with, and who calls them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

import structlog
from fastapi import Depends, Request

from gatepass.core.audit import INSTALLATION, AuditEntry, EventType, Outcome, subject_of
from gatepass.core.gateway import Gateway, RefusedError
from gatepass.core.ports import Audit, AuditReader, Clock, ClusterError
from gatepass.core.stamps import binder_of, unchanged
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Custom, format_time
from gatepass.core.types.session import AccessSession, Requester
from gatepass.engine.store import Store
from gatepass.rest.address import Address, Network, caller
from gatepass.rest.allowance import Allowance
from gatepass.rest.authentication import Authenticator, credential_of
from gatepass.rest.errors import ApiError
from gatepass.rest.jwks import Issuers
from gatepass.rest.principal import KeyHolder, Person, Principal
from gatepass.rest.request_id import request_id

log = structlog.get_logger(__name__)

_USED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class RestSettings:
    """`trusted_proxies` say who calls; `rate_limit` is requests a minute from an address; `origins` are browsers'.

    `rate_limit_storage` is the URL of the server where replicas count together; `issuers` are the CI providers whose
    tokens are taken. `admission_unverified` says that no policies vouch for who binds keys.
    """

    trusted_proxies: Sequence[Network] = ()
    rate_limit: int = 60
    rate_limit_storage: str | None = field(default=None, repr=False)
    origins: Sequence[str] = ()
    issuers: Issuers = field(default_factory=Issuers)
    admission_unverified: bool = False


@dataclass(slots=True)
class Context:
    """`seen` takes an object that a write was answered with, so that a read finds it at once.

    `audit` takes what the API itself decides, and `audit_reader` reads it back; None where there is no trail.
    """

    settings: RestSettings
    store: Store
    gateway: Gateway
    clock: Clock
    seen: Callable[[Custom], None]
    audit: Audit | None = None
    audit_reader: AuditReader | None = None
    authenticator: Authenticator = field(init=False)
    allowance: Allowance = field(init=False)
    _noting: set[asyncio.Task[None]] = field(default_factory=set)
    _used: dict[str, datetime] = field(default_factory=dict)
    _written: dict[str, tuple[AccessSession, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authenticator = Authenticator(self.store, self.gateway, self.clock, self.settings.issuers)
        self.allowance = Allowance(self.settings.rate_limit, self.settings.rate_limit_storage)

    def written(self, session: AccessSession, write: Callable[[], bytes]) -> bytes:
        """What is told of a session, written once for each version of it."""
        known = self._written.get(session.uid)
        if known is not None and known[0] is session:
            return known[1]
        text = write()
        if session.status.resources:  # before that, it tells what is known of its resources
            self._written[session.uid] = session, text
        if len(self._written) > 2 * len(self.store.sessions) + 64:
            self._written = {uid: self._written[uid] for uid in self._written if self.store.session(uid) is not None}
        return text

    async def may(self, who: Principal, verb: str, plural: str, namespace: str, name: str = "") -> bool:
        """Has a person the verb? Keys are asked for their scope instead."""
        return isinstance(who, KeyHolder) or await self.gateway.may(who.requester, verb, plural, namespace, name)

    def answerable(self, who: Principal) -> Requester | None:
        """Whose rights bound what is done: a person's own, for a key those of who bound it; None: nobody vouches."""
        if isinstance(who, Person):
            return who.requester
        return binder_of(who.binding) if self.settings.admission_unverified or unchanged(who.binding) else None

    async def require(self, who: Principal, scope: str, verb: str, plural: str) -> None:
        """Raise 403 when a key lacks the scope, or a person the verb on all of a kind in the namespace."""
        if isinstance(who, KeyHolder):
            who.require(scope)
        else:
            await self.require_verb(who, verb, plural)

    async def require_verb(self, who: Person, verb: str, plural: str) -> None:
        """Raise 403 when a person lacks the verb on all of a kind in the namespace."""
        if not await self.may(who, verb, plural, who.namespace):
            told = f'needs the verb "{verb}" on {plural} of namespace {who.namespace}'
            raise ApiError(HTTPStatus.FORBIDDEN, told)

    def denied(self, request: Request, address: Address | None) -> None:
        """Tell the trail of credentials that were refused; whose they are is not known, so no tenant is shown it."""
        key = request.headers.get("x-api-key")
        self._record(
            EventType.API_KEY_USED_DENIED,
            INSTALLATION,
            address,
            outcome=Outcome.DENIED,
            actor=None,
            credential=None if key is None else credential_of(key),
            details={"path": request.url.path, "method": request.method},
        )

    def forbidden(self, request: Request, who: Principal, address: Address | None, why: str) -> None:
        """Tell the trail that somebody who is known was refused."""
        self._record(
            EventType.REQUEST_DENIED,
            who.namespace,
            address,
            outcome=Outcome.DENIED,
            actor=who.requester.username,
            credential=who.credential,
            details={"path": request.url.path, "method": request.method, "why": why},
        )

    def told(self, event: EventType, who: Principal, about: Custom, address: Address | None, **details: str) -> None:
        """Tell the trail of what somebody has done by the API."""
        self._record(
            event,
            about.metadata.namespace,
            address,
            actor=who.requester.username,
            credential=who.credential,
            subject=subject_of(about),
            details=details,
        )

    def _record(self, event: EventType, namespace: str, address: Address | None, **more: Any) -> None:
        if self.audit is not None:
            at = self.clock.now()
            seen_at = _text(address)
            entry = AuditEntry(
                event=event, at=at, namespace=namespace, address=seen_at, request_id=request_id(), **more
            )
            self.audit.record(entry)

    def used(self, binding: ApiKeyBinding, address: Address | None) -> None:
        """Note soon when and from where a key was last used, at most once a minute; no answer waits for it."""
        now = self.clock.now()
        last = self._used.get(binding.uid) or binding.status.last_used_at
        if last is not None and now - last < _USED_EVERY:
            return
        self._used[binding.uid] = now
        noting = asyncio.create_task(
            self._note(binding, {"lastUsedAt": format_time(now), "lastUsedIP": _text(address)})
        )
        self._noting.add(noting)
        noting.add_done_callback(self._noting.discard)

    async def _note(self, binding: ApiKeyBinding, told: Mapping[str, str | None]) -> None:
        try:
            await self.gateway.patch_status(ApiKeyBinding, binding.key, told)
        except (ClusterError, RefusedError) as error:
            log.warning("cannot note the use of a key", binding=str(binding.key), error=str(error))

    async def aclose(self) -> None:
        """End what is under way, and close what is open."""
        for noting in self._noting:
            noting.cancel()
        await asyncio.gather(*self._noting, return_exceptions=True)
        await self.allowance.aclose()


def _text(address: Address | None) -> str | None:
    return None if address is None else str(address)


def context(request: Request) -> Context:
    """The application's context."""
    found: Context = request.app.state.context
    return found


def address(request: Request) -> Address | None:
    """The caller's address."""
    return caller(request.scope, context(request).settings.trusted_proxies)


async def principal(request: Request) -> AsyncIterator[Principal]:
    """Who calls; raises ApiError 401. What it may not do is told to the trail."""
    here = context(request)
    seen_at = address(request)
    try:
        who = await here.authenticator.principal(request, seen_at)
    except ApiError as error:
        if error.status is HTTPStatus.UNAUTHORIZED:
            here.denied(request, seen_at)
        raise
    if isinstance(who, KeyHolder):
        here.used(who.binding, seen_at)
    try:
        yield who
    except (ApiError, RefusedError) as error:
        if error.status == HTTPStatus.FORBIDDEN:
            here.forbidden(request, who, seen_at, error.message)
        raise


Here = Annotated[Context, Depends(context)]
CallerAddress = Annotated[Address | None, Depends(address)]
Who = Annotated[Principal, Depends(principal)]


async def person(who: Who) -> Person:
    """A person who calls; keys cannot do this."""
    if isinstance(who, Person):
        return who
    raise ApiError(
        HTTPStatus.FORBIDDEN,
        "API keys cannot be used here: sign in with Authorization: Bearer and a Kubernetes token",
        error="Insufficient permissions",
    )


APerson = Annotated[Person, Depends(person)]
