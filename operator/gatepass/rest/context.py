"""What the routes work with, and who calls them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final

import structlog
from fastapi import Depends, Request

from gatepass.core.audit import INSTALLATION, AuditEntry, EventType, Outcome, subject_of
from gatepass.core.gateway import Gateway, RefusedError
from gatepass.core.keys import key_id
from gatepass.core.ports import Audit, AuditReader, Clock, ClusterError
from gatepass.core.types.binding import ApiKeyBinding
from gatepass.core.types.common import Custom, format_time
from gatepass.core.types.session import AccessSession
from gatepass.engine.store import Store
from gatepass.rest.address import Address, Network, caller
from gatepass.rest.authentication import Authenticator
from gatepass.rest.errors import ApiError
from gatepass.rest.principal import KeyHolder, Person, Principal

log = structlog.get_logger(__name__)

_USED_EVERY: Final = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class RestSettings:
    """`trusted_proxies` say who calls; `rate_limit` is requests a minute from an address; `origins` are browsers'.

    `issuers` are the CI providers whose tokens are taken.
    """

    trusted_proxies: Sequence[Network] = ()
    rate_limit: int = 60
    origins: Sequence[str] = ()
    issuers: Sequence[str] = ()


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
    _used: dict[str, datetime] = field(default_factory=dict)
    _written: dict[str, tuple[AccessSession, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authenticator = Authenticator(self.store, self.gateway, self.clock, self.settings.issuers)

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

    def denied(self, request: Request, address: Address | None) -> None:
        """Tell the trail of credentials that were refused; whose they are is not known, so no tenant is shown it."""
        if self.audit is not None:
            key = request.headers.get("x-api-key")
            entry = AuditEntry(
                event=EventType.API_KEY_USED_DENIED,
                at=self.clock.now(),
                namespace=INSTALLATION,
                outcome=Outcome.DENIED,
                actor=None,
                credential=None if key is None else f"key {key_id(key) or 'of another make'}",
                address=str(address),
                details={"path": request.url.path, "method": request.method},
            )
            self.audit.record(entry)

    def told(self, event: EventType, who: Principal, about: Custom, address: Address | None, **details: str) -> None:
        """Tell the trail of what somebody has done by the API."""
        if self.audit is not None:
            self.audit.record(
                AuditEntry(
                    event=event,
                    at=self.clock.now(),
                    namespace=about.metadata.namespace,
                    actor=who.requester.username,
                    address=str(address),
                    subject=subject_of(about),
                    details=details,
                )
            )

    async def used(self, binding: ApiKeyBinding, address: Address | None) -> None:
        """Note when and from where a key was last used, at most once a minute."""
        now = self.clock.now()
        last = self._used.get(binding.uid) or binding.status.last_used_at
        if last is not None and now - last < _USED_EVERY:
            return
        self._used[binding.uid] = now
        told = {"lastUsedAt": format_time(now), "lastUsedIP": str(address)}
        try:
            await self.gateway.patch_status(ApiKeyBinding, binding.key, told)
        except (ClusterError, RefusedError) as error:
            log.warning("cannot note the use of a key", binding=str(binding.key), error=str(error))


def context(request: Request) -> Context:
    """The application's context."""
    found: Context = request.app.state.context
    return found


def address(request: Request) -> Address | None:
    """The caller's address."""
    return caller(request.scope, context(request).settings.trusted_proxies)


async def principal(request: Request) -> Principal:
    """Who calls; raises ApiError 401."""
    here = context(request)
    seen_at = address(request)
    try:
        who = await here.authenticator.principal(request, seen_at)
    except ApiError as error:
        if error.status is HTTPStatus.UNAUTHORIZED:
            here.denied(request, seen_at)
        raise
    if isinstance(who, KeyHolder):
        await here.used(who.binding, address(request))
    return who


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
